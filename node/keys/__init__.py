"""API keys at the edge: encrypted under the cluster's keys, and limited to addresses."""
