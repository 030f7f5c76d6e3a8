"""Config: the frozen, validated, hashable settings of a plugin or a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import UnknownName, UsageError


class Config(BaseModel):
    """Base of every plugin's config: frozen, nothing extra allowed, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def merged(cls, owner: str, *layers: Mapping[str, Any]) -> Self:
        """Build from layers of increasing precedence (roster row < preset < --set).

        Raises:
            UnknownName: a key that the config does not have.
            UsageError: a value that is out of range or of the wrong type.
        """
        values: dict[str, Any] = {}
        for layer in layers:
            values.update(layer)
        for key in values:
            if key not in cls.model_fields:
                raise UnknownName(f"key of {owner}", key, cls.model_fields, hint=f"harness plugins show {owner}")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([owner, *(str(p) for p in first["loc"])])
            raise UsageError(f"{where}={first.get('input')!r}: {first['msg']}") from error

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all fields."""
        return digest(self.model_dump(mode="json"))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
