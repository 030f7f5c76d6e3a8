"""The base of all records, how a record is stored, and what records of several stages share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

UNITS = {"_nats": "nats per token", "_s": "seconds", "_usd": "US dollars", "_per_token": "share of tokens"}
"""Suffix of a field's name -> its unit."""


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


def flat_names(field_name: str, flat: Flat | None = None) -> tuple[str, str, str]:
    """The keys of an Estimate in a table, CSV or JSON: its value's, its lower bound's, its upper bound's.

    A unit is the value's alone: `kl_nats` becomes `kl_nats`, `kl_ci_low`, `kl_ci_high`, and `kl_nats_prompt` has
    `kl_prompt_ci_low`.
    """
    unit = next((unit for unit in UNITS if f"{unit}_" in f"{field_name}_"), "")
    bounds = flat.bounds if flat else f"{field_name}_".replace(f"{unit}_", "_").removesuffix("_")
    prefix = f"{bounds}_" if bounds else ""
    return field_name, f"{prefix}ci_low", f"{prefix}ci_high"


@dataclass(frozen=True)
class References:
    """Marks a field that holds the id of a row of another table: `Annotated[int, References("step")]`.

    Attributes:
        table: the other table.
        on_delete: what becomes of this row when the other is deleted.
    """

    table: str
    on_delete: str = "CASCADE"


@dataclass(frozen=True)
class StoredAs:
    """Marks a field whose name cannot be a column's: `Annotated[str, StoredAs("group_name")]`."""

    column: str


class Record(BaseModel):
    """Base of all records. A subclass with an `item` can be stored; its table is derived from its fields.

    Class variables say what the fields do not:
        TABLE: the table's name; by default the class's name in snake_case.
        IDENTITY: fields that, with the item, say that a record replaces one that is stored.
        INDEXES: groups of fields that rows are looked up by.
        UNIQUE: fields that no two rows share; of a part, within its record.
        PRIMARY_KEY: columns of the primary key.
        PROPERTIES: properties that are stored beside the fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    TABLE: ClassVar[str]
    IDENTITY: ClassVar[tuple[str, ...]] = ()
    INDEXES: ClassVar[tuple[tuple[str, ...], ...]] = ()
    UNIQUE: ClassVar[tuple[str, ...]] = ()
    PRIMARY_KEY: ClassVar[tuple[str, ...]] = ("id",)
    PROPERTIES: ClassVar[tuple[str, ...]] = ()


class Part(Record):
    """Base of records that are stored as rows of their own, which belong to the row of a record."""


Source = str
"""Where a feature comes from: the name of the activation set, e.g. `adapter-activations` or `batch-topk`."""


PLANTED = "planted"
"""The source of features whose right grade is known."""
