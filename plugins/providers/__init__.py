"""Plugins of the stage providers."""
