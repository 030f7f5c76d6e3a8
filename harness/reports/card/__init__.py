"""Judging the claims of the paper: how a clause is tested, and by which rule."""
