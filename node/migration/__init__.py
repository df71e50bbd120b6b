"""Converts a node's data directory from one ABI to another, at a start or in a rehearsal, and back.

found       what lies in a data directory, and of which ABI it is
build       the same data in another ABI, made beside it and checked
switch      the new data in the place of the old, at once; back again; and when the old is no longer needed
start       what a start does with all that
"""
