"""API keys at the edge: sealed under the cluster's keys, and limited to addresses."""
