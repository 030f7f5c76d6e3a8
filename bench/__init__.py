"""Speed as a ratio against a named rival, measured in one process. `make bench`. Nothing here asserts.

One module per thing measured; its `BENCHES` are functions that return a `measure.Ratio` each. `docs/benchmarks.md` is
written by the runner (`python -m bench`), one section per module.
"""
