"""The journal in results.db: what it keeps of a call before, while and after it is sent."""

import sqlite3

import pytest

from harness.records import LLMCall, LLMReply, LLMRequest
from harness.store.writer import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "results.db") as opened:
        yield opened


def call(user, status, **more):
    reply = LLMReply(text="x", finish_reason="stop", model="m") if status == "ok" else None
    return LLMCall(
        key=user, provider="openai", role="explainer", request=LLMRequest(model="gpt", user=user), status=status,
        reply=reply, n_attempts=0, latency_s=0.0, **more,
    )  # fmt: skip


def statuses(tmp_path):
    with sqlite3.connect(tmp_path / "results.db") as connection:
        return dict(connection.execute("SELECT key, status FROM llm_call"))


def test_begun_calls_are_in_doubt_until_they_end(store, tmp_path):
    journal = store.calls(None)
    journal.begin([call(user, "begun") for user in "abcd"])
    assert journal.in_doubt() == {"openai:gpt": 4}
    journal.store([call("a", "ok"), call("b", "failed", error="HTTP 500", final=False)])
    journal.withdraw(["c"])
    assert statuses(tmp_path) == {"a": "ok", "b": "failed", "d": "begun"}
    assert journal.in_doubt() == {"openai:gpt": 1}
    requests = {user: LLMRequest(model="gpt", user=user) for user in "abcd"}
    assert set(journal.find(requests)) == {"a"}, "what is in doubt is asked again"


def test_beginning_again_loses_nothing(store, tmp_path):
    journal = store.calls(None)
    journal.store([call("a", "ok"), call("b", "failed", error="HTTP 500", final=False)])
    journal.begin([call("a", "begun"), call("b", "begun"), call("c", "begun")])
    journal.begin([call("c", "begun")])
    assert statuses(tmp_path) == {"a": "ok", "b": "begun", "c": "begun"}
    journal.withdraw(["a", "b", "c"])
    assert statuses(tmp_path) == {"a": "ok", "b": "failed"}
    with sqlite3.connect(tmp_path / "results.db") as connection:
        assert connection.execute("SELECT error FROM llm_call WHERE key = 'b'").fetchone() == ("HTTP 500",)


def test_the_journals_commits_are_on_the_disk_and_others_are_not_slowed_down(store):
    """SQLite's own `synchronous` at each commit: 2 (FULL) syncs the file, 1 (NORMAL) leaves it to the checkpoint."""
    from sqlalchemy import event

    from harness.store.database import transaction

    levels = []

    @event.listens_for(store.engine, "commit")
    def _(connection):
        levels.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())

    journal = store.calls(None)
    journal.begin([call("a", "begun")])
    journal.store([call("a", "ok")])
    journal.withdraw(["a"])
    assert levels == [2, 2, 2]
    with transaction(store.engine, "results.db"):
        pass
    assert levels[3:] == [1]
    journal.store([call("b", "ok")])
    assert levels[4:] == [2]
