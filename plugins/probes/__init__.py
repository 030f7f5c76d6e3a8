"""Plugins of the stage probes."""
