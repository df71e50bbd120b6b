"""Bringing stored data from one schema to another: rows of tables and entries of the log.

plan        what an author writes (`Migration`), and how data is converted without it
codec       rows and log entries of any known schema, as plain Python values and back
convert     one step: every value of one schema as one of the next
chain       which steps lead from one ABI to another
run         a whole state through a chain, with the count of every row
checks      what must be true of the result, always
scripts     steps that are external executables over TSV files
skeleton    the module that an author begins with
"""
