"""State on disk: RocksDB snapshots with a manifest, and the schema ABI. May import `statemachine` only."""
