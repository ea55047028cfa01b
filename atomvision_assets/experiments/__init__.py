"""The experiments assets."""
