"""The Python door: what `import harness` offers to notebooks and scripts (docs/python.md)."""
