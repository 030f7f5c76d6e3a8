"""What the paper claims and how it was done, as data."""
