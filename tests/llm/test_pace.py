"""Rate limits: requests and tokens per minute are kept from the first second on, without a burst."""

from __future__ import annotations

import asyncio
import time

import pytest

from harness.calls import LLMReply, LLMRequest
from harness.llm.pace import Pace


def times(pace_of: tuple[int | None, int | None], requests: list[LLMRequest]) -> list[float]:
    """Seconds after the start at which each request might go, all asked for at once."""

    async def go() -> list[float]:
        pace, began = Pace(*pace_of), time.monotonic()

        async def one(request: LLMRequest) -> float:
            await pace.wait(request)
            return time.monotonic() - began

        return list(await asyncio.gather(*(one(r) for r in requests)))

    return asyncio.run(go())


def ask(max_tokens: int = 10) -> LLMRequest:
    return LLMRequest(model="m", user="q", max_tokens=max_tokens)


def test_requests_go_evenly() -> None:
    passed = times((600, None), [ask()] * 5)
    assert passed == sorted(passed), "first come, first served"
    assert passed[-1] == pytest.approx(0.4, abs=0.15)
    assert passed[-1] >= 0.35


def test_tokens_hold_back_what_would_pass_the_limit() -> None:
    one = ask(max_tokens=200)  # some 216 tokens with the prompt; 60,000 a minute are 1,000 a second
    passed = times((None, 60_000), [one] * 9)
    assert passed[0] < 0.1
    assert passed[-1] >= 0.7


def test_without_limits_nothing_waits() -> None:
    assert max(times((None, None), [ask()] * 100)) < 0.2


def test_tokens_that_were_not_counted_are_held_back_from_the_next() -> None:
    async def go() -> float:
        pace = Pace(None, 60_000)
        counted = await pace.wait(ask())
        spent = LLMReply(text="", finish_reason="stop", model="m", input_tokens=600, output_tokens=900)
        pace.answered(spent, counted)
        began = time.monotonic()
        await pace.wait(ask())
        return time.monotonic() - began

    assert asyncio.run(go()) > 0.4
