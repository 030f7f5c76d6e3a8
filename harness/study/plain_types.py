"""The type of a setting in words: `whole number above 0, or none`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", datetime.date: "date", Path: "path"}
_BOUNDS = (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))


def type_of_field(field: FieldInfo) -> str:
    """A field's type, its bounds included."""
    return _of(field.annotation, field.metadata)


def _of(kind: Any, metadata: Sequence[Any] = ()) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = [m for part in parts[1:] for m in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _of(parts[0], [*inner, *metadata])
    if origin in (Union, UnionType):
        words = [_of(part, metadata) for part in parts if part is not NoneType]
        return " or ".join(words) + (", or none" if NoneType in parts else "")
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_of(parts[0])}"
    if origin is dict:
        return f"mapping of {_of(parts[0])} to {_of(parts[1])}"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "mapping"
    name = _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
    bounds = [f"{word} {getattr(m, name):g}" for m in metadata for name, word in _BOUNDS if hasattr(m, name)]
    return " ".join([name, " and ".join(bounds)]).strip()
