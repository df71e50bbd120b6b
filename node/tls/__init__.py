"""Certificates: the cluster's authority, TLS contexts, checks of the files, and renewal while a node runs."""
