"""Flat values of dataclasses and records: an estimate becomes three keys, by the rule of `flat_names`."""

from __future__ import annotations

import math
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from harness.records.base import Estimate, Flat, StoredAs, flat_names


class FlatField(NamedTuple):
    """A field of a class, and the key (of an estimate: the keys of value and bounds) that it becomes."""

    name: str
    keys: tuple[str, ...]


@cache
def flat_fields(row_class: Any) -> tuple[FlatField, ...]:
    """The fields of a dataclass or a record, in order."""
    hints = get_type_hints(row_class, include_extras=True)
    names = getattr(row_class, "__dataclass_fields__", None) or row_class.model_fields
    return tuple(FlatField(name, _keys(name, hints[name])) for name in names)


def _keys(name: str, hint: Any) -> tuple[str, ...]:
    notes: list[Any] = []
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if Estimate in kinds:
        return flat_names(name, next((note for note in notes if isinstance(note, Flat)), None))
    return (next((note.column for note in notes if isinstance(note, StoredAs)), name),)


def flat_keys(row_class: Any) -> list[str]:
    """The keys of a class, in order."""
    return [key for field in flat_fields(row_class) for key in field.keys]


def flat_values(row: Any) -> dict[str, Any]:
    """Key -> value; a bound that is not finite is None."""
    row_class: Any = type(row)
    values: dict[str, Any] = {}
    for name, keys in flat_fields(row_class):
        value = getattr(row, name)
        if len(keys) == 1:
            values[keys[0]] = value
        else:
            bounds = (None, None) if value is None else (value.low, value.high)
            finite = (bound if bound is not None and math.isfinite(bound) else None for bound in bounds)
            values.update(zip(keys, (None if value is None else value.value, *finite), strict=True))
    return values
