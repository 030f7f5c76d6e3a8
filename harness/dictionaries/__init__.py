"""Room: dictionaries."""
