"""Requests to LLMs, their replies, and the journal's rows: no vendor's spelling, no network."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from harness.records import Record


class LLMRequest(Record):
    """One request to an LLM, without a vendor's spelling."""

    model: str
    """Model name as the provider knows it."""
    system: str | None = None
    """System prompt."""
    user: str
    """The user's turn."""
    max_tokens: NonNegativeInt = 4096
    """Longest reply, reasoning included."""
    temperature: float | None = None
    """None leaves it to the model (reasoning models refuse the parameter)."""
    json_schema: dict[str, object] | None = None
    """Schema of the reply, for providers that constrain output to one."""
    repeat: NonNegativeInt = 0
    """Index among repetitions of the same request; part of the journal's hash."""


class LLMReply(Record):
    """What came back."""

    text: str
    """The reply's text; may be cut (see finish_reason)."""
    finish_reason: str | None
    """The vendor's word: `stop`, `length`, `end_turn`, `refusal`, ..."""
    model: str
    """Model that answered, as the vendor reports it."""
    request_id: str | None = None
    """The vendor's id of the request."""
    input_tokens: NonNegativeInt | None = None
    """All prompt tokens, cached ones included; None where the vendor does not say."""
    cached_tokens: NonNegativeInt | None = None
    """Prompt tokens read from the vendor's cache."""
    output_tokens: NonNegativeInt | None = None
    """Reply tokens, reasoning included."""


class LLMCall(Record):
    """A row of the journal: a request that was answered or given up. A stored answer is replayed, never sent again."""

    key: str
    """sha256 of (provider, request)."""
    provider: str
    """Provider name."""
    role: str
    """What it was for: `explainer`, `categories`, `categoriser`."""
    request: LLMRequest
    """What was asked."""
    status: Literal["ok", "failed"]
    """`failed`: given up after retries; asked again by the next run."""
    reply: LLMReply | None
    """None where it failed."""
    error: str | None = None
    """Why it failed. Never holds a key."""
    n_attempts: NonNegativeInt
    """Requests sent, retries included."""
    latency_s: NonNegativeFloat
    """From the first attempt to the end, waits included."""
