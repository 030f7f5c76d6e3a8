"""Speed as a ratio against a named rival, measured in one process. `make bench`. Nothing here asserts."""
