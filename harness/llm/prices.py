"""What a call costs. Prices are data with a date (`prices.yaml`), never code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, TypeAdapter

from harness.errors import UsageError
from harness.files import reading
from harness.records import LLMReply, LLMRequest

PACKAGED = Path(__file__).with_name("prices.yaml")
_SNAPSHOT = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2}|latest)")
_PER_MILLION = 1e6
CHARACTERS_PER_TOKEN = 3.0
"""For estimates: mathematical English under Qwen2.5's tokenizer gives 2.9 to 3.3."""
_FRAME_TOKENS = 64
"""Upper bound of what a chat format adds to a system prompt and a user turn."""


class _Rates(BaseModel):
    model_config = ConfigDict(extra="forbid")

    input: NonNegativeFloat
    cached_input: NonNegativeFloat | None = None
    output: NonNegativeFloat


class _Vendor(BaseModel):
    model_config = ConfigDict(extra="forbid")

    provider: str
    source: str
    as_of: date
    batch: NonNegativeFloat = 1.0
    models: dict[str, _Rates]


@dataclass(frozen=True)
class Price:
    """A model's prices in US dollars per million tokens.

    Attributes:
        input: prompt tokens.
        cached_input: prompt tokens that the vendor read from its cache.
        output: reply tokens, reasoning included.
        batch: share of these that the vendor's batch API charges.
        as_of: when the table was read off the vendor's page.
    """

    input: float
    cached_input: float
    output: float
    batch: float
    as_of: str

    def usd(self, reply: LLMReply, *, batch: bool = False) -> float | None:
        """What a reply cost in US dollars; None where the vendor does not say how many tokens it had."""
        if reply.input_tokens is None or reply.output_tokens is None:
            return None
        cached = min(reply.cached_tokens or 0, reply.input_tokens)
        return self._total(reply.input_tokens - cached, cached, reply.output_tokens, batch=batch)

    def expected_usd(self, n_input: float, n_output: float, *, batch: bool = False) -> float:
        """What so many tokens cost in US dollars, nothing cached."""
        return self._total(n_input, 0, n_output, batch=batch)

    def most_usd(self, request: LLMRequest, *, batch: bool = False) -> float:
        """What a request can cost at most: its longest reply, and a prompt of as many tokens as it has bytes."""
        return self._total(bytes_of(request) + _FRAME_TOKENS, 0, request.max_tokens, batch=batch)

    def _total(self, plain: float, cached: float, output: float, *, batch: bool) -> float:
        whole = plain * self.input + cached * self.cached_input + output * self.output
        return whole / _PER_MILLION * (self.batch if batch else 1.0)


def find_price(provider: str, model: str, file: str | None = None) -> Price | None:
    """The price of a provider's model; None where no table has it.

    Args:
        provider: the provider's name.
        model: as it is asked for; a snapshot's date after a known name does not matter.
        file: the user's own table, which goes before the package's.

    Raises:
        UsageError: the file cannot be read as a table of prices.
    """
    for path in ([Path(file)] if file else []) + [PACKAGED]:
        for vendor in _table(path):
            if vendor.provider == provider:
                rates = _match(vendor.models, model)
                if rates is not None:
                    cached = rates.input if rates.cached_input is None else rates.cached_input
                    return Price(rates.input, cached, rates.output, vendor.batch, vendor.as_of.isoformat())
    return None


def require_price(provider: str, model: str, file: str | None = None) -> Price:
    """`find_price`, for a budget that is in money.

    Raises:
        UsageError: no price is known.
    """
    price = find_price(provider, model, file)
    if price is None:
        raise UsageError(
            f"no price is known for {provider}:{model}, so --max-cost cannot be kept: give a table with "
            f"--set {provider}.prices=FILE (its form: harness/llm/prices.yaml), or limit the run with --max-calls"
        )
    return price


def estimated_tokens(request: LLMRequest) -> int:
    """Tokens of a request's prompt, from its characters: good to a third or so, never a bound."""
    return round((len(request.user) + len(request.system or "")) / CHARACTERS_PER_TOKEN) + _FRAME_TOKENS // 4


def bytes_of(request: LLMRequest) -> int:
    """UTF-8 bytes that a vendor may count as prompt: no byte-level tokenizer makes more tokens of a text than bytes."""
    schema = str(request.json_schema) if request.json_schema else ""
    return len(request.user.encode()) + len((request.system or "").encode()) + len(schema.encode())


def _match(models: dict[str, _Rates], model: str) -> _Rates | None:
    for name, rates in models.items():
        rest = model[len(name) :]
        if name == "*" or model == name or (model.startswith(name) and _SNAPSHOT.fullmatch(rest)):
            return rates
    return None


@lru_cache
def _table(path: Path) -> tuple[_Vendor, ...]:
    with reading(path, f"a table of prices has the form of {PACKAGED}", error_type=UsageError):
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(TypeAdapter(list[_Vendor]).validate_python(data))
