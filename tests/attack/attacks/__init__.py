"""One module for each family of attacks; each registers its attacks when it is imported."""
