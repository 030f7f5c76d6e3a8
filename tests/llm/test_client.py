"""The client, with a provider in memory."""

import asyncio
import random
import signal

import pytest

from harness.config import ProviderConfig
from harness.contract.session import Session
from harness.errors import ProviderError, StorageError
from harness.llm.client import Client
from harness.llm.errors import BudgetSpent, MissingKey, Refused, Retryable
from harness.records import LLMReply, LLMRequest
from harness.testing import MemoryCalls


class Fake:
    """Answers with the prompt; `plan` maps a prompt to failures that come first."""

    name = "fake"

    def __init__(self, plan=None, delays=None, **settings):
        self.plan, self.delays = plan or {}, delays or {}
        self.config = ProviderConfig(**settings)
        self.sent, self.closed = [], 0

    async def complete(self, request):
        self.sent.append(request.user)
        await asyncio.sleep(self.delays.get(request.user, 0))
        failures = self.plan.get(request.user, [])
        if failures:
            raise failures.pop(0)
        return LLMReply(text=request.user.upper(), finish_reason="stop", model=request.model)

    async def aclose(self):
        self.closed += 1


def requests(*users):
    return [LLMRequest(model="m", user=u) for u in users]


async def no_sleep(_):
    await asyncio.sleep(0)


def test_order_is_the_requests_order_and_progress_is_the_answers():
    fake, seen = Fake(delays={"a": 0.05}), []
    calls = list(
        Client(fake, MemoryCalls(), "explainer").run(requests("a", "b", "a"), on_call=lambda c: seen.append(c))
    )
    assert [c.reply.text for c in calls] == ["A", "B", "A"]
    assert [c.request.user for c in seen] == ["b", "a"]
    assert sorted(fake.sent) == ["a", "b"]
    assert fake.closed == 1
    assert calls[0].role == "explainer"


def test_key_depends_on_provider_and_request_alone():
    client = Client(Fake(), MemoryCalls(), "a")
    one, two = requests("x", "y")
    assert client.key(one) == Client(Fake(), MemoryCalls(), "b").key(one)
    assert len({client.key(one), client.key(two), client.key(one.model_copy(update={"repeat": 1}))}) == 3


def test_failed_calls_are_stored_and_asked_again():
    journal = MemoryCalls()
    plan = {"a": [Refused("no"), Retryable("busy")], "b": [Retryable("busy")] * 3}
    fake = Fake(plan, max_attempts=3)
    settings = {"sleep": no_sleep}
    a, b = Client(fake, journal, "r", **settings).run(requests("a", "b"))
    assert (a.status, a.error, a.n_attempts) == ("failed", "no", 1)
    assert (b.status, b.error, b.n_attempts) == ("failed", "busy", 3)
    a, b = Client(fake, journal, "r", **settings).run(requests("a", "b"))
    assert (a.status, a.n_attempts, b.status, b.n_attempts) == ("ok", 2, "ok", 1)
    assert [c.status for c in journal.calls].count("ok") == 2


def test_pauses_grow_obey_retry_after_and_are_capped():
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    waits = [None, None, None, None, 0.1, 500.0]
    fake = Fake({"a": [Retryable("busy", retry_after_s=w) for w in waits]}, max_wait_s=3, max_attempts=9)
    (call,) = Client(fake, MemoryCalls(), "r", rng=random.Random(1), sleep=sleep).run(requests("a"))
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0 <= pauses[2] <= 2.0
    assert 2.0 <= pauses[3] <= 3.0, "never above max_wait_s"
    assert "asked to wait 500 s" in call.error
    assert (call.n_attempts, call.final) == (6, False)


def test_an_attempt_that_takes_too_long_is_retried():
    fake = Fake(delays={"a": 5}, timeout_s=0.02, max_attempts=2)
    (call,) = Client(fake, MemoryCalls(), "r", sleep=no_sleep).run(requests("a"))
    assert (call.status, call.error, call.n_attempts) == ("failed", "no answer within 0.02 s", 2)


def test_the_budget_stops_the_run_and_the_next_goes_on():
    fake, journal = Fake({"b": [Retryable("busy")]}), MemoryCalls()
    session, got = Session(max_calls=3), []
    calls = Client(fake, journal, "r", session=session, sleep=no_sleep).run(requests(*"abcabcde"))
    with pytest.raises(BudgetSpent, match="--max-calls"):
        got.extend(call.reply.text for call in calls)
    assert got == list("ABCABC")
    assert len(journal.calls) == session.n_sent == 3
    more = Client(fake, journal, "r", session=Session(max_calls=2)).run(requests(*"abcde"))
    assert [c.reply.text for c in more] == list("ABCDE")
    assert sorted(fake.sent) == list("abbcde")


def test_a_fatal_error_keeps_what_is_in_flight():
    fake, journal = Fake({"b": [MissingKey("fake", "FAKE_KEY")]}, delays={"a": 0.05, "b": 0.01}), MemoryCalls()
    fake.config = ProviderConfig(concurrency=2)
    with pytest.raises(ProviderError, match="FAKE_KEY"):
        list(Client(fake, journal, "r").run(requests("a", "b", "c", "d")))
    assert [c.request.user for c in journal.calls] == ["a"]
    assert fake.sent == ["a", "b"]
    assert fake.closed == 1


def test_closing_the_iterator_or_ctrl_c_loses_only_calls_in_flight():
    fake, journal = Fake(delays={"b": 5}), MemoryCalls()
    calls = Client(fake, journal, "r").run(requests("a", "b"))
    assert next(calls).status == "ok"
    calls.close()
    assert [c.request.user for c in journal.calls] == ["a"]

    def interrupt(call):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        list(Client(fake, journal, "r").run(requests("c", "b"), on_call=interrupt))
    assert [c.request.user for c in journal.calls] == ["a", "c"]
    assert fake.closed == 2


class Watched(MemoryCalls):
    """Says when calls are begun and withdrawn."""

    def __init__(self):
        super().__init__()
        self.log = []

    def begin(self, calls):
        super().begin(calls)
        self.log += [f"begin {call.request.user}" for call in calls]

    def withdraw(self, keys):
        super().withdraw(keys)
        self.log += ["withdraw"] * len(keys)


def test_a_call_is_journalled_before_it_is_sent():
    fake, journal = Fake({"a": [Retryable("busy")]}, max_attempts=2), Watched()
    complete, begun_when_sent = fake.complete, []

    async def watched(request):
        begun_when_sent.append((request.user, Client(fake, journal, "r").key(request) in journal.begun))
        return await complete(request)

    fake.complete = watched
    list(Client(fake, journal, "r", sleep=no_sleep).run(requests("a", "b", "a")))
    assert sorted(begun_when_sent) == [("a", True), ("a", True), ("b", True)]
    assert sorted(journal.log) == ["begin a", "begin b"], "once per call, not per attempt"
    assert journal.begun == set()


@pytest.mark.parametrize("failure", [ProviderError("no credit"), MissingKey("fake", "FAKE_KEY")])
def test_calls_that_were_turned_away_are_not_in_doubt(failure):
    journal = Watched()
    with pytest.raises(ProviderError):
        list(Client(Fake({"a": [failure]}), journal, "r").run(requests("a")))
    assert journal.log == ["begin a", "withdraw"]
    assert journal.begun == set()


def test_calls_in_flight_at_an_interrupt_are_in_doubt():
    fake, journal = Fake({"b": [Retryable("busy")]}, delays={"c": 5}), Watched()

    async def long_pause(seconds):
        await asyncio.sleep(60)

    calls = Client(fake, journal, "r", sleep=long_pause).run(requests("a", "b", "c"))
    next(calls)
    calls.close()
    client = Client(fake, journal, "r")
    assert journal.begun == {client.key(requests("c")[0])}, "b was turned away, and paused for another attempt"


def test_where_the_journal_cannot_be_written_nothing_is_sent():
    class Full(MemoryCalls):
        def begin(self, calls):
            raise StorageError("no space left")

    fake = Fake()
    with pytest.raises(StorageError):
        list(Client(fake, Full(), "r").run(requests("a", "b")))
    assert fake.sent == []


def test_one_run_at_a_time():
    client = Client(Fake(), MemoryCalls(), "r")
    first = client.run(requests("a", "b"))
    next(first)
    with pytest.raises(RuntimeError, match="one run at a time"):
        next(client.run(requests("c")))
    assert next(first).status == "ok"
    assert list(client.run([])) == []


class Priced(Fake):
    """Says how many tokens each answer had."""

    name = "openai"

    async def complete(self, request):
        reply = await super().complete(request)
        return reply.model_copy(update={"input_tokens": 100, "output_tokens": 1000})


def test_a_budget_in_money_is_never_passed_and_the_next_run_goes_on(tmp_path):
    table = tmp_path / "prices.yaml"
    table.write_text(
        "- {provider: openai, source: made up, as_of: 2026-01-02, models: {m: {input: 0.0, output: 1000000.0}}}\n"
    )  # a dollar per reply token
    fake, journal = Priced(prices=str(table)), MemoryCalls()
    asked = [LLMRequest(model="m", user=u, max_tokens=1000) for u in "abcde"]
    session = Session(max_cost_usd=2500.0)
    with pytest.raises(BudgetSpent, match="--max-cost"):
        list(Client(fake, journal, "r", model="m", session=session).run(asked))
    assert session.cost_usd == 2000.0, "two calls of at most 1,000 dollars fit into 2,500, a third does not"
    assert len(fake.sent) == 2
    more = Session(max_cost_usd=5000.0)
    assert len(list(Client(fake, journal, "r", model="m", session=more).run(asked))) == 5
    assert (len(fake.sent), more.cost_usd) == (5, 3000.0)


def test_a_budget_in_money_needs_a_price():
    from harness.errors import UsageError

    with pytest.raises(UsageError, match="no price is known"):
        list(Client(Fake(), MemoryCalls(), "r", model="m", session=Session(max_cost_usd=1.0)).run(requests("a")))
