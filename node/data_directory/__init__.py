"""A node's data directory: whose it is, and the evidence that forbids a start on it."""
