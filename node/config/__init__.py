"""A node's configuration: one TOML file, read, checked, changed."""
