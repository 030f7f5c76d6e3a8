"""Benchmark answers compared by an LLM: through a study and the real SDK, against a server on the loopback."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.contract.session import Session
from harness.organism import BENCHMARKS
from harness.reports.common.run import resolve_run
from harness.reports.grader import grader
from harness.store.writer import Store
from harness.study.display import RunSummary
from harness.study.manager import Manager
from harness.study.plan import make_plan, parse_settings
from harness.study.registry import read_registry
from harness.study.runner import Runner

ROSTER = """
version: 1
default_study: mini
plugins:
  - {name: rank1-lora, stage: trainers, module: harness_plugins.trainers.rank1_lora}
  - {name: openai, stage: providers, module: harness_plugins.providers.openai_chat,
     config: {concurrency: 4, max_attempts: 1}}
studies:
  mini:
    summary: "twelve answers, each compared with a gold answer that no rule reads"
    model: {path: package://harness/organism/checkpoint}
    data: {path: package://harness/organism/data/traces.jsonl, trace: trace, answer: answer, limit: 16}
    adapter: rank1-lora
    evaluate: {benchmarks: [math500], data: {math500: items.jsonl}, max_gen_toks: 120}
    set: {rank1-lora.epochs: 1, rank1-lora.batch_size: 4, rank1-lora.micro_batch_size: 4}
"""
GOLD = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in BENCHMARKS["organism_chain"].read_text().splitlines()]
    items = [{"problem": r["question"], "answer": f"the digit {g}"} for g, r in zip(GOLD, rows, strict=False)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    (tmp_path / "registry.yaml").write_text(ROSTER)
    return tmp_path


def run(study: Path, *settings: str, model: str = "m", budget: Session | None = None) -> RunSummary:
    registry = read_registry(study / "registry.yaml")
    manager = Manager(registry)
    plan = make_plan(registry, manager, "mini", settings=parse_settings(settings), provider=[f"grader=openai:{model}"])
    with Store.open(study / "results.db") as store:
        return Runner(plan, manager, store, study / "artifacts", llm=budget).run()


def table(study: Path, sql: str) -> list[Any]:
    with sqlite3.connect(study / "results.db") as connection:
        return connection.execute(sql).fetchall()


def equal(value: object) -> str:
    return json.dumps({"equal": value, "reason": "so it is"})


def test_verdicts_stand_beside_the_rules_scores_and_another_grader_generates_nothing_again(
    vendor: Any, answer: Any, study: Path
) -> None:
    vendor.choose = lambda body: answer(text=equal("digit three\n" in body["messages"][-1]["content"]))
    first = run(study)
    assert not first.unfinished
    rows = table(study, "SELECT variant, doc_id, score_rules, equal, status, grader FROM answer_verdict")
    n_asked = Counter(row[0] for row in rows)
    assert set(n_asked) == {"base", "adapter"}
    assert all(row[2] == 0 and row[4:] == ("answered", "openai:m") for row in rows)
    assert {row[1] for row in rows if row[3]} == {3}
    assert table(study, "SELECT avg(score) FROM sample") == [(0.0,)], "the rules' scores stay"
    sent = len(vendor.seen)
    assert sent == len({seen.body["messages"][-1]["content"] for seen in vendor.seen}) <= len(rows)

    generated = table(study, "SELECT id, response FROM sample ORDER BY id")
    second = run(study, model="another")
    assert second.n_reused == 3, "training and both evaluations"
    assert table(study, "SELECT id, response FROM sample ORDER BY id") == generated
    assert len(vendor.seen) == 2 * sent, "another grader is asked anew"
    third = run(study, "answers.both_orders=true", model="another")
    assert third.n_reused == 3
    assert len(vendor.seen) == 3 * sent, "of the two orders one had been answered"
    assert run(study, "answers.both_orders=true", model="another").n_reused == 5


def test_a_position_bias_is_caught_by_asking_both_orders(vendor: Any, answer: Any, study: Path) -> None:
    def first_is_gold(body: dict[str, Any]) -> Any:
        prompt = body["messages"][-1]["content"]
        return answer(text=equal("the digit" in prompt.partition("</answer_1>")[0]))

    vendor.choose = first_is_gold
    run(study, "answers.both_orders=true")
    rows = table(study, "SELECT equal, equal_gold_first, equal_gold_last, status, reason FROM answer_verdict")
    assert rows
    assert {row[:4] for row in rows} == {(None, 1, 0, "orders-disagree")}
    assert all("the rules' score stands" in row[4] for row in rows)


def test_failed_and_unreadable_replies_keep_the_rules_score_and_are_asked_again(
    vendor: Any, answer: Any, study: Path
) -> None:
    vendor.script = [answer(status=503, text="busy"), answer(text="I think <true or false>")]
    vendor.default = answer(text=equal(True))
    first = run(study)
    assert [name.partition("/")[0] for name in first.unfinished] == ["verify"]
    statuses = Counter(row[0] for row in table(study, "SELECT status FROM answer_verdict WHERE equal IS NULL"))
    assert statuses["failed"] >= 1
    assert statuses["unparsed"] >= 1
    assert not run(study).unfinished
    prompts = Counter(seen.body["messages"][-1]["content"] for seen in vendor.seen)
    assert sorted(prompts.values()) == [1] * (len(prompts) - 1) + [2], "only the failed call is sent again"
    assert table(study, "SELECT count(*) FROM answer_verdict WHERE status = 'failed'") == [(0,)]
    with Store.open(study / "results.db") as store, store.engine.connect() as connection:
        for row in grader(connection, resolve_run(connection, "latest")):
            assert row.n_asked == row.n_answered + row.n_unparsed
            assert row.score_rules.value == 0
            assert row.score_graded.value == row.n_answered / len(GOLD)


def test_the_budget_holds_for_the_grader(vendor: Any, answer: Any, study: Path) -> None:
    """Nothing else needs the grades: the run goes on without them, and says which step failed and why."""
    vendor.default = answer(text=equal(True))
    failed = run(study, budget=Session(max_calls=2)).failed
    assert {name.partition("/")[0] for name in failed} == {"verify"}
    assert all("max-calls" in why for why in failed.values())
    assert len(vendor.seen) == 2


def test_a_grader_alone_leaves_interpretation_and_the_keys_of_other_steps_as_they_are() -> None:
    from harness.study.registry_file import find_registry

    registry = read_registry(find_registry(None))
    without, graded = (
        make_plan(registry, Manager(registry), "rank1-lora", provider=given) for given in ((), ("grader=openai:m",))
    )
    added = {s.name for s in graded.steps} - {s.name for s in without.steps}
    assert added == {"verify/base", "verify/adapter", "verify/full"}
    assert {s.key for s in without.steps} < {s.key for s in graded.steps}
