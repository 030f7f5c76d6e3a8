"""The base of all records, and what records of several stages share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % confidence interval: one type from the statistics to the table's cell.

    Attributes:
        value: the point estimate, from the data alone.
        low: lower bound; -inf where the data do not bound it.
        high: upper bound; inf where the data do not bound it.
        n: units that it was computed from (documents, items, features); None where they are a field of their own.
    """

    value: float
    low: float
    high: float
    n: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Source = str
"""Where a feature comes from: the name of the activation set, e.g. `adapter-activations` or `batch-topk`."""


PLANTED = "planted"
"""The source of features whose right grade is known."""
