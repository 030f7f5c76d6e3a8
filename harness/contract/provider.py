"""What an LLM provider is, and the journal that keeps its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from harness.config import ProviderConfig
from harness.records import LLMCall, LLMReply, LLMRequest


class Provider(Protocol):
    """Sends one request to an LLM. Knows its vendor's wire format and nothing else."""

    name: str
    """`openai`, `anthropic`, ...; part of the journal's hash."""

    @property
    def config(self) -> ProviderConfig:
        """Its settings. `config.identity()` is part of the journal's hash; the others say how fast it may be asked."""
        ...

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt, without retries of its own.

        Raises:
            harness.llm.errors.CallFailed: with what the client needs to decide about another attempt.
        """
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


class CallStore(Protocol):
    """The journal of LLM calls. The runner writes it; providers and interpreters never see the database."""

    def find(self, requests: Mapping[str, LLMRequest]) -> dict[str, LLMCall]:
        """Those of the calls (hash -> request) that are answered, whichever step asked."""
        ...

    def begin(self, calls: Sequence[LLMCall]) -> None:
        """Store durably that these calls (`begun`) are about to be sent."""
        ...

    def withdraw(self, keys: Sequence[str]) -> None:
        """Undo `begin` for calls that were not sent or were turned away."""
        ...

    def store(self, calls: Sequence[LLMCall]) -> None:
        """Keep calls, durably, all or none, before anything is made of them."""
        ...
