"""Raft: PySyncObj behind a guard, the durable log, and the transport.

This package knows commands and state only as bytes and callbacks (`ports.py`), and imports no other package of this
repository. `docs/raft.md` lists where PySyncObj departs from the Raft paper, and what this package does about each
departure. All code that touches its internals is in `seams.py`.
"""
