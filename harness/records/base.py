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
    """Names an `Estimate`'s bounds where the rule of `flat_names` does not: `Annotated[Estimate, Flat("share")]`."""

    base: str


_UNITS = ("_nats", "_s", "_usd", "_per_token")


def flat_names(field_name: str, flat: Flat | None = None) -> tuple[str, str, str]:
    """The columns and keys that a field of type `Estimate` becomes: of its value and of its bounds.

    `kl_nats` becomes `kl_nats`, `kl_ci_low` and `kl_ci_high`: bounds are named without the unit, or as `flat` says.
    """
    unit = next((unit for unit in _UNITS if field_name.endswith(unit)), "")
    base = flat.base if flat else field_name.removesuffix(unit)
    return field_name, f"{base}_ci_low", f"{base}_ci_high"


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Source = str
"""Where a feature comes from: the name of the activation set, e.g. `adapter-activations` or `batch-topk`."""


PLANTED = "planted"
"""The source of features whose right grade is known."""
