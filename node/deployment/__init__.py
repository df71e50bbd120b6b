"""Clusters as directories and processes: made, joined, started, changed."""
