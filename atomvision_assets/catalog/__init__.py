"""The catalog assets."""
