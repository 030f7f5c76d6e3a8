"""Faults put into the numerics one at a time, to see whether the tests notice: `make mutants`."""
