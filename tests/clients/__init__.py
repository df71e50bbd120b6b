"""Unmodified client libraries of other people against a real cluster: see `docs/clients.md`."""
