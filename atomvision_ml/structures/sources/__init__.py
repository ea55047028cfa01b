"""structures.sources."""
