"""The dictionary of tables and columns."""
