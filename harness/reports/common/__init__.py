"""What several reports share: the queries they have in common, and statistics of their rows."""
