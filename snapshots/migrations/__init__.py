"""The migrations: one module a source ABI, each with a `MIGRATION`. A module is never changed once it was released.

`quorumbook migrate new` writes the first form of one; `docs/migrations.md` says how to go on.
"""
