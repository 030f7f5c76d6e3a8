"""Config: the frozen, validated, hashable settings of a plugin or a study."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, get_origin

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, model_validator

from harness.errors import UnknownName, UsageError, masked_argument

SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "r": ("rank",),
    "lora_rank": ("rank",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "use_rslora": ("rslora",),
    "modules": ("target_modules",),
    "batch": ("batch_size", "micro_batch_size"),
    "per_device_train_batch_size": ("micro_batch_size",),
    "gradient_accumulation_steps": ("micro_batch_size", "batch_size"),
    "num_train_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "max_steps": ("steps", "epochs"),
    "max_seq_length": ("max_length",),
    "seq_len": ("max_length",),
    "warmup": ("warmup_ratio", "warmup_steps"),
    "n_latents": ("expansion",),
    "d_sae": ("expansion",),
    "expansion_factor": ("expansion",),
    "l0": ("k",),
    "topk": ("k",),
    "tasks": ("benchmarks",),
    "max_new_tokens": ("max_gen_toks", "new_tokens", "max_tokens"),
    "samples": ("limit",),
    "n_samples": ("limit",),
    "file": ("path",),
    "name": ("path",),
    "name_or_path": ("path",),
    "model_name_or_path": ("path",),
    "torch_dtype": ("dtype",),
    "n_docs": ("n_documents", "documents"),
    "docs": ("n_documents", "documents"),
    "prompt": ("question",),
    "system_prompt": ("system",),
    "tp": ("tensor_parallel_size",),
    "dp": ("data_parallel_size",),
}
"""Names that people bring from transformers, PEFT, TRL, lm-eval and SAELens -> ours."""

_PLAIN_NAME = re.compile(r"[\w./:-]+")


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
                meant = SYNONYMS.get(key, ())
                raise UnknownName(
                    f"key of {owner}", key, cls.model_fields, hint=f"harness plugins show {owner}", meant=meant
                )
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

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, values: Any) -> Any:
        """Take `benchmarks=gsm8k` and `benchmarks=gsm8k,math500` for lists: there is nothing else they could mean."""
        if not isinstance(values, Mapping):
            return values
        lists = {key for key, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {k: _as_list(v) if k in lists and isinstance(v, str | int | float) else v for k, v in values.items()}

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


def _as_list(value: str | float) -> list[Any]:
    """A list of one; of several where a text is plain names with commas between."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    return list(parts) if parts and all(_PLAIN_NAME.fullmatch(part) for part in parts) else [value]


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
