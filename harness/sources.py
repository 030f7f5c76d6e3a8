"""Names of sources of features that the harness itself makes. Free of imports: reports start with it."""

PLANTED = "planted"
"""The source of features whose right grade is known."""
