"""Converts a node's data directory from one ABI to another, at a start or in a rehearsal, and back.

contents    reads what a data directory contains, and its ABI
conversion  converts the data to another ABI in a new directory, and checks it
cutover     replaces the old data by the new at once, and back; deletes the former data; what a rollback undoes
start       the migration at a start
rehearsal   migrates a copy, and reports the changes in the tables
"""
