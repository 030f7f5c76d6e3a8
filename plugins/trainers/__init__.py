"""Plugins of the stage trainers."""
