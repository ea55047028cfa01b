"""The images assets."""
