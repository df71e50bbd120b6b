"""Conversion of stored data from one schema to another: rows of tables and entries of the log.

plan        the part of an author (`Migration`), and how data is converted without it
codec       rows and log entries of any known schema, as plain Python values and back
convert     one step: converts every value of one schema to the next
chain       the steps from one ABI to another
run         converts a whole state by a chain, and counts every row
checks      the checks of every result
scripts     steps that are external executables over TSV files
skeleton    the module that an author begins with
"""
