"""The steps from one schema of the history's database to the next, run by Alembic."""
