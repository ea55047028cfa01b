"""The evaluation assets."""
