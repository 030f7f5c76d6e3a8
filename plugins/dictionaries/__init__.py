"""Plugins of the stage dictionaries."""
