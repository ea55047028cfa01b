"""Assets of the models domain."""
