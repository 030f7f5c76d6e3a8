"""Rate limits: requests and tokens per minute are kept from the first second on, without a burst."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from harness.llm.pace import Pace
from harness.records import LLMReply, LLMRequest


class Skipping(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Waits for nothing: the loop's clock is put forward instead."""

    loop: Clock

    def select(self, timeout: float | None = None) -> Any:
        self.loop.now += max(timeout or 0.0, 1e-6)  # a turn takes a moment, else rounding could stop the clock
        return super().select(0)


class Clock(asyncio.SelectorEventLoop):
    """A loop in which time passes only where everybody waits: exact, and done at once."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = Skipping()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        return runner.run(coroutine)


def now() -> float:
    return asyncio.get_running_loop().time()


def times(pace_of: tuple[int | None, int | None], requests: list[LLMRequest]) -> list[float]:
    """Seconds after the start at which each request might go, all asked for at once."""

    async def go() -> list[float]:
        pace, began = Pace(*pace_of), now()

        async def one(request: LLMRequest) -> float:
            await pace.wait(request)
            return now() - began

        return list(await asyncio.gather(*(one(r) for r in requests)))

    passed: list[float] = run(go())
    return passed


def ask(max_tokens: int = 10) -> LLMRequest:
    return LLMRequest(model="m", user="q", max_tokens=max_tokens)


def test_requests_go_evenly() -> None:
    passed = times((600, None), [ask()] * 5)
    assert passed == sorted(passed), "first come, first served"
    assert passed == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.01)


def test_tokens_hold_back_what_would_pass_the_limit() -> None:
    one = ask(max_tokens=200)  # some 216 tokens with the prompt; 60,000 a minute are 1,000 a second
    passed = times((None, 60_000), [one] * 9)
    assert passed[0] < 0.1
    assert 0.7 <= passed[-1] < 1


def test_without_limits_nothing_waits() -> None:
    assert max(times((None, None), [ask()] * 100)) < 0.01


def test_tokens_that_were_not_counted_are_held_back_from_the_next() -> None:
    async def go() -> float:
        pace = Pace(None, 60_000)
        counted = await pace.wait(ask())
        spent = LLMReply(text="", finish_reason="stop", model="m", input_tokens=600, output_tokens=900)
        pace.answered(spent, counted)
        began = now()
        await pace.wait(ask())
        return now() - began

    assert run(go()) > 0.4
