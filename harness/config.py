"""Config: the frozen, validated, hashable settings of a plugin or a study."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from harness.errors import UnknownName, UsageError, masked_argument


class Config(BaseModel):
    """Base of every plugin's config: frozen, nothing extra allowed, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)

    @classmethod
    def merged(cls, owner: str, *layers: Mapping[str, Any]) -> Self:
        """Build from layers of increasing precedence (registry row < preset < --set).

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
            if first["type"] == "missing":
                raise UsageError(
                    f"{owner} needs {where}: --set {where}=VALUE (harness plugins show {owner})"
                ) from error
            raise UsageError(f"{where}={masked_argument(repr(first.get('input')))}: {first['msg']}") from error

    def digest(self) -> str:
        """sha256 (hex) of the canonical JSON of all fields."""
        return digest(self.model_dump(mode="json"))

    def on_base(self) -> bool:
        """Whether a probe of these settings reads the base model alone, so that it needs no adapter."""
        return False

    def shared_pass(self) -> tuple[object, ...] | None:
        """How a probe of these settings runs the model; probes that give the same and have the same inputs share one
        pass (`harness.activations.capture.SharesPass`). None for a probe that runs it by itself."""
        return None

    def reads(self) -> tuple[str, ...]:
        """Folders from outside the study that a result depends on: what is in them is part of the step's key."""
        return ()


class ProviderConfig(Config):
    """Settings of every LLM provider: how fast it is asked, and for how long. They change no answer."""

    OPERATIONAL: ClassVar[frozenset[str]] = frozenset(
        {"model", "concurrency", "max_attempts", "timeout_s", "max_wait_s", "outage_after", "requests_per_minute",
         "tokens_per_minute", "prices"}
    )  # fmt: skip
    """Fields that do not change what is answered (the model's name is in each request): left out of `identity`."""

    model: str = ""
    """Model where the study names none."""
    concurrency: PositiveInt = 16
    """Most requests in flight."""
    max_attempts: PositiveInt = 5
    """Attempts per call: rate limits, overload, broken connections."""
    timeout_s: PositiveFloat = 300.0
    """Longest wait for one attempt; reasoning takes minutes."""
    max_wait_s: PositiveFloat = 300.0
    """Longest pause before another attempt; where the vendor asks for more, the next run asks again."""
    outage_after: PositiveInt = 20
    """After this many failed calls in a row the run ends."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit of your account; None is no limit."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit of your account, prompt and reply together; None is no limit."""
    prices: str | None = None
    """YAML file of prices that overrides the package's (harness/llm/prices.yaml)."""

    def identity(self) -> dict[str, Any]:
        """What an answer depends on beside the request: part of the journal's hash and of the steps' keys. No secrets.

        Fields at their default are left out, so that stored answers stay valid when a field is added; a field whose
        default changes must therefore be renamed.
        """
        return self.model_dump(mode="json", exclude_defaults=True, exclude=set(self.OPERATIONAL))

    def require(self, provider: str) -> None:
        """Check before a run begins that what every call needs is there, such as an API key.

        Raises:
            ProviderError: it is missing.
        """


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
