"""Reports of a run: one query, its rows and their columns each."""
