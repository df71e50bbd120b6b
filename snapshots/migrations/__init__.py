"""The migrations: one module for each source ABI, with a `MIGRATION`. A released module is never changed.

`quorumbook migrate new` writes the draft of one; `docs/migrations.md` describes the next steps.
"""
