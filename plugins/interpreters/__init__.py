"""Plugins of the stage interpreters."""
