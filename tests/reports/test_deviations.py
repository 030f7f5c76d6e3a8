"""The deviation ledger: the paper's own preset deviates where it is known to, the demo in more, and gaps are named."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from harness.paper.claims import paper
from harness.records import Checkpoint, LLMCall, LLMReply, LLMRequest, ModelRef
from harness.reports.deviations import DIFFERS, SAME, UNKNOWN, DeviationRow, deviations
from harness.store.writer import Store
from harness.study.manager import Manager
from harness.study.plan import make_plan
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry


def _ledger(
    store: Store, synthetic: ModuleType, preset: str | None, *, llms: tuple[tuple[str, str], ...] = (),
    target: str = "rank1-lora", settings: bool = True,
) -> dict[str, DeviationRow]:  # fmt: skip
    """The ledger of a planned study: its steps with their settings, and what training and LLMs leave behind."""
    registry = read_registry(find_registry(None))
    provider = ["openai:gpt-5-mini"] if llms else []
    plan = make_plan(
        registry,
        Manager(registry),
        target,
        preset=preset,
        provider=provider,
        settings={"pretrained-adapter": {"path": "/none"}},
    )
    run = store.begin_run(
        study=plan.name, preset=preset, seed=0, provenance=synthetic.PROVENANCE, model=plan.study.model.path,
        settings=plan.study.resolved() if settings else None,
    )  # fmt: skip
    for position, step in enumerate(plan.steps):
        values = synthetic.step_values(step.name, step.stage, step.plugin)
        values |= {"kind": step.kind, "config": step.config.model_dump(mode="json"), "key": step.key}
        step_id, _ = store.begin_step(run, position, **values)
        if step.kind == "train":
            store.write(step_id, Checkpoint(
                kind="full" if step.plugin == "full-finetune" else "adapter", path=Path("/a"), chat_hash="c",
                base=ModelRef(path="m"), n_parameters=1, n_examples=1000,
            ))  # fmt: skip
        if step.kind == "interpret" and llms:
            reply = LLMReply(text="x", finish_reason="stop", model="m", input_tokens=1, output_tokens=1)
            calls = [
                LLMCall(key=f"{step.name}/{role}", provider="openai", role=role, n_attempts=1, status="ok", reply=reply,
                        request=LLMRequest(model=model, user="x"), latency_s=1.0)
                for role, model in llms
            ]  # fmt: skip
            store.calls(step_id).store(calls)
    with store.engine.connect() as connection:
        rows = deviations(connection, run)
    assert [r.what for r in rows] == [s.what for s in paper().setup]
    assert all((r.reason is not None) == (r.status == UNKNOWN) for r in rows)
    return {r.what: r for r in rows}


ASKED = (("explainer", "gpt-5-mini-2025-08-07"), ("categories", "claude-opus-4.1"), ("categoriser", "gpt-5-mini"))


def test_the_papers_preset_differs_where_it_is_known_to(store: Store, synthetic: ModuleType) -> None:
    ledger = _ledger(store, synthetic, "paper-text", llms=ASKED)
    assert {what for what, r in ledger.items() if r.status == DIFFERS} == {
        "grader of answers", "most contexts from one document", "tokens beside a context's target",
        "chat template of the text that features are read on", "selection of the top contexts", "mean of the KL",
        "arithmetic of the KL", "seeds of the training", "tokens in the KL",
        "single components' KL",  # planned, not measured
    }  # fmt: skip
    assert {what for what, r in ledger.items() if r.status == UNKNOWN} == {"longest answer (tokens)"}
    assert ledger["base model"] == DeviationRow(
        "base model", "section 2", "Qwen2.5-32B-Instruct", "Qwen/Qwen2.5-32B-Instruct", SAME, None
    )
    assert ledger["LLM that explains and grades"].this_run == "gpt-5-mini-2025-08-07"
    assert (ledger["items per benchmark"].this_run, ledger["answers per item"].this_run) == ("all", "1")


def test_the_demo_differs_in_model_data_benchmarks_judge_and_k(store: Store, synthetic: ModuleType) -> None:
    ledger = _ledger(store, synthetic, None)
    for what, ours in (
        ("base model", "package://harness/organism/checkpoint"),
        ("training data", "package://harness/organism/data/traces.jsonl"),
        ("benchmarks", "organism_chain, organism_long, organism_choice"),
        ("interpreter", "lexical"),
        ("LLM that explains and grades", "none in this run"),
        ("evidence shown to the LLM", "none in this run"),
        ("k of the SAE", "4"),
        ("most contexts from one document", "4"),
    ):
        assert (ledger[what].this_run, ledger[what].status) == (ours, DIFFERS), what
    assert {ledger[what].status for what in ("epochs", "rank", "contexts per feature", "expansion of the SAE")} == {
        SAME
    }
    assert (ledger["temperature of answers"].status, ledger["temperature of answers"].this_run) == (UNKNOWN, None)


def test_what_an_adapter_from_elsewhere_was_trained_with_cannot_be_known(store: Store, synthetic: ModuleType) -> None:
    ledger = _ledger(store, synthetic, None, target="existing-adapter")
    assert (ledger["epochs"].status, ledger["epochs"].reason) == (UNKNOWN, "its step has no such setting")
    full = ledger["learning rate of the full fine-tune"]
    assert (full.status, full.this_run) == (DIFFERS, "none in this run")


def test_a_run_without_stored_settings_says_so(store: Store, synthetic: ModuleType) -> None:
    ledger = _ledger(store, synthetic, None, settings=False)
    assert ledger["training data"].reason == "the run did not store its settings"
    assert ledger["epochs"].status == SAME


def test_secrets_in_settings_are_masked_before_they_are_stored() -> None:
    registry = read_registry(find_registry(None))
    settings = {"data": {"path": "https://me:canary@host/traces.jsonl"}}
    plan = make_plan(registry, Manager(registry), "rank1-lora", settings=settings)
    assert "canary" not in str(plan.study.resolved())
    assert plan.study.resolved()["features"]["exemplars"] == 64
