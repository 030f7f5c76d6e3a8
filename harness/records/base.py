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


@dataclass(frozen=True)
class Flat:
    """Marks an Estimate field whose bounds have another name: `Annotated[Estimate, Flat("share")]`.

    Attributes:
        bounds: what precedes `_ci_low` and `_ci_high`; with an empty one they are `ci_low` and `ci_high`.
    """

    bounds: str


_UNITS = ("_nats", "_s", "_usd", "_per_token")


def flat_names(field_name: str, flat: Flat | None = None) -> tuple[str, str, str]:
    """The keys of an Estimate in a table, CSV or JSON: its value's, its lower bound's, its upper bound's.

    A unit is the value's alone: `kl_nats` becomes `kl_nats`, `kl_ci_low`, `kl_ci_high`.
    """
    unit = next((suffix for suffix in _UNITS if field_name.endswith(suffix)), "")
    bounds = flat.bounds if flat else field_name.removesuffix(unit)
    prefix = f"{bounds}_" if bounds else ""
    return field_name, f"{prefix}ci_low", f"{prefix}ci_high"


@dataclass(frozen=True)
class StoredAs:
    """Marks a field whose name cannot be a column's or a key's: `Annotated[str, StoredAs("group_name")]`."""

    column: str


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Source = str
"""Where a feature comes from: the name of the activation set, e.g. `adapter-activations` or `batch-topk`."""


PLANTED = "planted"
"""The source of features whose right grade is known."""
