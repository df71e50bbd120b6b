"""Levels: the version whose schema and rules a cluster runs by. An entry in the log changes the level, while the
cluster trades (ADR 0047).

level       what a level is, which ones this software can run, the log entry that changes it
freezing    makes the archive of a release's core: `python -m snapshots.levels.freezing VERSION`
released    imports those archives, each under a name of its own
v0_2_0      the exchange of version 0.2.0 behind the interface of the present one
narrowing   writes commands in an earlier version's schema
raising     converts a state to the next level
lowering    converts a state to the level before, if nothing is lost
"""
