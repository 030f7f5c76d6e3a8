"""Requests to LLMs, their replies, and the rows of the journal, without any vendor's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from harness.config import digest
from harness.records.base import Record

ROLES = ("explainer", "judge", "second-judge", "categories", "categoriser", "scorer", "grader")
"""What LLMs are asked for; a study may name another model for each (`default` for those that it does not name).

`explainer` also grades, in the same reply, unless a `judge` is named: it is then shown the same contexts and the
explanation, and its grade counts. `second-judge` grades again what was graded, to see how far two models agree.
`grader` compares benchmark answers with the gold ones."""

MAX_REPLY_CHARS = 1_000_000
"""Longest text that is kept of a reply: some 250,000 tokens."""
TOO_LONG = "too_long"
"""`finish_reason` of a reply whose text was cut there."""


class LLMRequest(Record):
    """One request to an LLM, in no vendor's format."""

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
    """The reply to a request."""

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


def call_hash(provider: str, settings: Mapping[str, object], request: LLMRequest) -> str:
    """sha256 (hex) of what decides an answer: the journal's key, and the Idempotency-Key that a server is sent.

    `settings` are those of the provider that decide an answer (`ProviderConfig.identity`).
    """
    return digest({"provider": provider, "settings": settings, "request": request.model_dump(mode="json")})


def capped(reply: LLMReply) -> LLMReply:
    """The reply with at most `MAX_REPLY_CHARS` of its text; a longer one has the finish_reason `TOO_LONG`."""
    if len(reply.text) <= MAX_REPLY_CHARS:
        return reply
    return reply.model_copy(update={"text": reply.text[:MAX_REPLY_CHARS], "finish_reason": TOO_LONG})


class LLMCall(Record):
    """A row of the journal: a request that was answered or given up. A stored answer is never asked for again."""

    key: str
    """sha256 of (provider, its settings, request)."""
    provider: str
    """Provider name."""
    settings: dict[str, object] = Field(default_factory=dict)
    """What of the provider's settings decides an answer, e.g. a compatible server's address; never a secret."""
    role: str
    """What it was for, one of `ROLES`."""
    request: LLMRequest
    """What was asked."""
    status: Literal["begun", "ok", "failed", "submitted"]
    """`begun`: about to be sent; where it stays so, the run ended before the answer came, and the vendor may have
    charged for it. `failed`: given up after retries, or refused. Both are asked again by the next run that needs them.
    `submitted`: in a batch whose results are not collected."""
    reply: LLMReply | None
    """None where it failed."""
    error: str | None = None
    """Why it failed. Never holds a key."""
    n_attempts: NonNegativeInt
    """Requests sent, retries included."""
    latency_s: NonNegativeFloat
    """From the first attempt to the end, waits included; of a batch, from its submission."""
    price_usd: NonNegativeFloat | None = None
    """What the answer cost; None where the price or the usage is not known."""
    price_date: str | None = None
    """Date of the price table that it was computed with."""
    batch: str | None = None
    """Label of the batch that it was sent in; None where it was sent by itself."""
    final: bool = True
    """Of a failed call: False where asking again may succeed, so that its step is not complete."""


class OpenBatch(Record):
    """A vendor's batch whose results are not collected."""

    label: str
    """Our name of it."""
    vendor_id: str | None
    """The vendor's name of it; None where we do not know whether it arrived."""
    role: str
    """What its calls are for."""
    submitted_at: str
    """When we began to submit it, ISO 8601, UTC."""
    requests: Mapping[str, LLMRequest]
    """Its calls, by the journal's hash."""
