"""Unmodified foreign client libraries against a real cluster: see `docs/clients.md`."""
