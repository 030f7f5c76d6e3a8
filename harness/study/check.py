"""What is looked at before a run begins: what would fail after minutes of work fails now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.llm.prices import require_price
from harness.llm.session import Session
from harness.store.writer import Store
from harness.study.estimate import check_context, check_memory
from harness.study.plan import Plan, Step


def check_plan(
    plan: Plan, pending: Sequence[Step], store: Store, llm: Session, *, asks_llm: bool, dry_run: bool
) -> None:
    """Prices, context, API keys and benchmarks.

    Args:
        plan: what is to be done.
        pending: its steps that are not done.
        store: where answers of LLMs may be.
        llm: the budget.
        asks_llm: whether a pending step asks an LLM.
        dry_run: only a plan is wanted: nothing outside it is looked at.

    Raises:
        DataError: a benchmark's data cannot be read.
        ProviderError: an LLM has no API key, and none of its answers is stored.
        UnknownName: a benchmark's name.
        UsageError: no LLM is named for what asks one, the budget is in money and no price is known for an LLM, answers
            do not fit the model's context, or the benchmarks need vLLM and it is not installed.
    """
    if llm.max_cost_usd is not None:
        for choice in plan.llms.values():
            require_price(choice.provider, choice.model, choice.config.prices)
    check_context(plan)
    if asks_llm and not dry_run:
        if not plan.llms:
            raise UsageError(
                "the study asks an LLM and names none: --provider NAME:MODEL, or providers in registry.yaml"
            )
        for choice in plan.llms.values():
            if not store.has_calls(choice.provider):  # what is in the journal is replayed without a key
                choice.config.require(choice.provider)
    if any(step.kind in ("evaluate", "ablate") for step in pending):
        from harness.benchmarks.catalogue import check_benchmarks, check_data
        from harness.benchmarks.engine import require_vllm

        evaluate = plan.row.evaluate
        if evaluate.backend == "vllm" and not dry_run:
            require_vllm("evaluate.backend=vllm")
        check_benchmarks(evaluate.benchmarks, [Path(p) for p in evaluate.task_paths])
        if not dry_run:
            check_data(evaluate)


def check_device(plan: Plan, pending: Sequence[Step], device: str) -> None:
    """A GPU's free memory.

    Raises:
        UsageError: the weights alone do not fit.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        check_memory(plan, [step.name for step in pending], float(free), device)
