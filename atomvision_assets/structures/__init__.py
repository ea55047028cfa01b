"""The structures assets."""
