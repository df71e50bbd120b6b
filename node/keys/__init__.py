"""API keys: making them, signing with them, encrypting them under the cluster's keys, limiting them to addresses."""
