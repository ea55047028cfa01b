"""The models assets."""
