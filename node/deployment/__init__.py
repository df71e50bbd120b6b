"""Clusters as directories and processes: creates, starts and changes them, and lets nodes join."""
