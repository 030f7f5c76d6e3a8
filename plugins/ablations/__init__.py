"""Plugins of the stage ablations."""
