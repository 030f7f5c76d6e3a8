"""Figures of a run with matplotlib, light and dark, at a paper's column width. `catalogue` lists and draws them.

Import this package's modules inside commands only: they load matplotlib.
"""
