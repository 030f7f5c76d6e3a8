"""Rounding of numbers in the data scripts: five significant digits; activations as small integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

LEVELS = 1000
"""Activations are integers from -LEVELS to LEVELS, in units of the column's scale / LEVELS. The largest error is half a
unit: 0.05 % of the scale."""

BINS = 40
"""Bins of an activation histogram."""


def short(value: float | None) -> float | None:
    """A number to 5 significant digits."""
    return None if value is None else float(f"{value:.5g}")


def quantise(values: Float[np.ndarray, ...], scale: Float[np.ndarray, ...] | float) -> np.ndarray:
    """Activations as integers in units of scale / LEVELS; beyond the scale they stay at it. A scale of 0 gives 0."""
    safe = np.where(np.asarray(scale) > 0, scale, 1)
    levels = np.rint(np.clip(values / safe, -1, 1) * LEVELS)
    return np.where(np.asarray(scale) > 0, levels, 0).astype(np.int64)
