"""The vendors' batch APIs through their real SDKs and a real journal: submit, leave, run again, collect; each once."""

from collections import Counter

import pytest

from harness.contract.session import Session
from harness.errors import ProviderError, UsageError, Waiting
from harness.llm.client import Client
from harness.llm.errors import BudgetSpent
from harness.records import LLMRequest
from harness.store.writer import Store
from harness.testing import MemoryCalls
from harness_plugins.providers import anthropic_messages, openai_chat

MODELS = {"openai": "gpt-5-mini", "anthropic": "claude-opus-4-5"}
MODULES = {"openai": openai_chat, "anthropic": anthropic_messages}


@pytest.fixture(params=sorted(MODULES))
def name(request):
    return request.param


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "results.db") as opened:
        yield opened


class Run:
    """One call of the command: a new provider, journal and client."""

    def __init__(self, name, store, *, batch=True, **budget):
        registration = next(r for r in MODULES[name].harness_providers() if r.name == name)
        self.provider = registration.implementation()(registration.config())
        self.journal = store.calls(None)
        self.session = Session(batch=batch, **budget)
        self.client = Client(self.provider, self.journal, "explainer", model=MODELS[name], session=self.session)

    def ask(self, n, offset=0):
        asked = [LLMRequest(model=self.client.model, user=f"q{i}", max_tokens=50) for i in range(offset, offset + n)]
        return list(self.client.run(asked))


def sent(vendor):
    """How often the vendor was given each prompt, alone or in a batch."""
    return Counter(str(seen.body["messages"][-1]["content"]) for seen in vendor.seen if "messages" in seen.body)


def test_submit_leave_and_collect(name, vendor, store):
    with pytest.raises(Waiting, match="4 explainer calls"):
        Run(name, store).ask(4)
    with pytest.raises(Waiting):
        Run(name, store).ask(4)  # still running: nothing is submitted again
    with pytest.raises(Waiting):
        Run(name, store, batch=False).ask(4)  # and nothing is sent beside it
    vendor.batches.ready = True
    calls = Run(name, store, batch=False).ask(4)
    assert [c.status for c in calls] == ["ok"] * 4
    assert [c.request.user for c in calls] == ["q0", "q1", "q2", "q3"], "results come in any order"
    whole = {"openai": (12 * 0.25 + 5 * 0.025 + 7 * 2.0) / 1e6, "anthropic": (12 * 5 + 5 * 0.5 + 7 * 25) / 1e6}
    assert calls[0].price_usd == pytest.approx(whole[name] / 2, rel=1e-9), "batches cost half"
    assert Run(name, store).ask(4) == calls, "replayed"
    assert sent(vendor) == {f"q{i}": 1 for i in range(4)}
    assert len(vendor.batches.made) == 1


def test_a_second_set_of_calls_is_a_second_batch(name, vendor, store):
    with pytest.raises(Waiting):
        Run(name, store).ask(2)
    with pytest.raises(Waiting, match="3 explainer calls"):
        Run(name, store).ask(3)
    assert [len(b["asked"]) for b in vendor.batches.made.values()] == [2, 1]
    vendor.batches.ready = True
    assert [c.status for c in Run(name, store).ask(3)] == ["ok"] * 3
    assert set(sent(vendor).values()) == {1}


def test_where_the_answer_to_the_submission_is_lost_the_batch_is_found_again(name, vendor, store):
    vendor.batches.lose = "after"
    with pytest.raises(Waiting, match="may not have reached"):
        Run(name, store).ask(3)
    vendor.batches.lose = None
    with pytest.raises(Waiting):
        Run(name, store).ask(3)
    vendor.batches.ready = True
    assert [c.status for c in Run(name, store).ask(3)] == ["ok"] * 3
    assert len(vendor.batches.made) == 1
    assert set(sent(vendor).values()) == {1}


def test_a_batch_that_never_arrived_is_submitted_again(name, vendor, store):
    vendor.batches.lose = "before"
    with pytest.raises(Waiting, match="may not have reached"):
        Run(name, store).ask(3)
    vendor.batches.lose = None
    with pytest.raises(Waiting, match="3 explainer calls"):
        Run(name, store).ask(3)
    vendor.batches.ready = True
    assert [c.status for c in Run(name, store).ask(3)] == ["ok"] * 3
    assert len(vendor.batches.made) == 1
    assert set(sent(vendor).values()) == {1}


def test_a_run_that_is_killed_between_submission_and_journal_finds_its_batch(name, vendor, store, monkeypatch):
    run = Run(name, store)
    monkeypatch.setattr(run.journal, "confirm_batch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.ask(3)
    vendor.batches.ready = True
    assert [c.status for c in Run(name, store).ask(3)] == ["ok"] * 3
    assert len(vendor.batches.made) == 1


def test_calls_that_failed_in_a_batch_are_asked_again_and_stay_counted(name, vendor, store, canary):
    outcomes = {0: (200, ""), 1: (400, f"too long {canary}"), 2: (500, "overloaded"), 3: None}
    vendor.batches.outcome = outcomes.__getitem__
    vendor.batches.ready = True
    with pytest.raises(Waiting):
        Run(name, store).ask(4)
    run = Run(name, store, batch=False)
    calls = run.ask(4)
    assert [(c.status, c.final) for c in calls] == [
        ("ok", True),
        ("failed", True),
        ("failed", False),
        ("failed", False),
    ]
    assert run.journal.unanswered == {calls[2].key, calls[3].key}
    assert "too long" in calls[1].error
    assert canary not in calls[1].error
    vendor.batches.outcome = lambda i: (200, "")
    assert [c.status for c in Run(name, store, batch=False).ask(4)] == ["ok"] * 4
    assert sent(vendor) == {"q0": 1, "q1": 2, "q2": 2, "q3": 2}


def test_the_budget_bounds_a_batch(name, vendor, store):
    with pytest.raises(BudgetSpent, match="--max-calls"):
        Run(name, store, max_calls=2).ask(5)
    assert [len(b["asked"]) for b in vendor.batches.made.values()] == [2]
    with pytest.raises(BudgetSpent, match="--max-cost"):
        Run(name, store, max_cost_usd=1e-6).ask(5, offset=10)
    assert len(vendor.batches.made) == 1


def test_who_has_no_batches_says_so(vendor, store):
    registration = next(r for r in openai_chat.harness_providers() if r.name == "openai-compatible")
    provider = registration.implementation()(registration.config(base_url=f"{vendor.url}/v1"))
    asked = [LLMRequest(model="m", user="q")]
    with pytest.raises(UsageError, match="has no batch API"):
        list(Client(provider, store.calls(None), "explainer", session=Session(batch=True)).run(asked))
    (call,) = Client(provider, MemoryCalls(), "explainer").run(asked)
    assert call.status == "ok"


def test_a_batch_that_is_refused_leaves_nothing_open(name, vendor, store, monkeypatch):
    monkeypatch.delenv(f"{name.upper()}_API_KEY")
    with pytest.raises(ProviderError, match="environment variable"):
        Run(name, store).ask(2)
    monkeypatch.setenv(f"{name.upper()}_API_KEY", "k")
    with pytest.raises(Waiting):
        Run(name, store).ask(2)
    assert set(sent(vendor).values()) == {1}
