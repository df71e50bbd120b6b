"""A node's data directory: its identity, and the evidence that forbids a start on it."""
