"""Measurements inside one process: `python -m tests.benchmarks.NAME`. Those of a whole cluster are in `loadtest`."""
