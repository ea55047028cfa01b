"""The literature assets."""
