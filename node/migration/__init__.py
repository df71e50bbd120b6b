"""Converts a node's data directory from one ABI to another, at a start or in a rehearsal, and back.

found       reads what a data directory contains, and its ABI
build       converts the data to another ABI in a new directory, and checks it
switch      replaces the old data by the new at once, and back; deletes the former data
back        the rollback to the previous version
start       the migration at a start
"""
