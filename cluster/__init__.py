"""Raft: PySyncObj made safe, its log, its transport.

Knows commands and state only as bytes and callbacks (`ports.py`). Imports nothing of ours. `docs/raft.md` lists where
PySyncObj departs from the Raft paper and what stands in front of each departure; all that touches its inside is in
`seams.py`.
"""
