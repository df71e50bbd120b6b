"""Data of every released version, one directory each: it loads for ever. `python -m tests.golden.write` adds that of this software."""
