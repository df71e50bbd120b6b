"""A foreign judge of matching: PyPI's `tracebook-conformance`, which compares an engine with its own reference, event
by event.

adapter    the engine behind its protocol on stdin and stdout: `python -m tests.conformance.adapter`

`make conformance` runs its profile `fifo-full-v1` with 1,000 generated traces; `make test` runs a few.
"""
