"""Levels: by which version's schema and rules a cluster runs. They change by an entry in the log, while the cluster
trades (ADR 0047).

level       what a level is, which ones this software can run, the log entry that changes it
freezing    makes the archive of a release's core: `python -m snapshots.levels.freezing VERSION`
released    those archives, each imported under a name of its own
v0_2_0      the exchange of version 0.2.0, as the present software asks for one
narrowing   commands as an earlier version's schema writes them
raising     a state of one level as a state of the next
lowering    a state of one level as a state of the level before, if nothing is lost
"""
