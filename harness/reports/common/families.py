"""Families of tests: p-values adjusted for all that a table shows together."""

from __future__ import annotations

from collections.abc import Sequence

from harness.contract.cells import Cell, p_value
from harness.interpretation import agreement


def holm_where_tested(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm (1979) over the p-values that exist, in their places; None stays None and counts for nothing."""
    adjusted = iter(agreement.holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def with_holm(p: float | None, p_holm: float | None) -> Cell:
    """A p-value over the one adjusted for its family."""
    return p_value(p) if p is None else (p_value(p), p_value(p_holm))
