"""Checks before a run begins: what would fail after minutes of work fails now."""

from __future__ import annotations

from collections.abc import Sequence

from harness.contract.session import Session
from harness.errors import UsageError
from harness.llm.prices import require_price
from harness.model.traces import resolve
from harness.store.writer import Store
from harness.study.sizes import model_size
from harness.study.step import Plan, Step
from harness.study.steps import kind_of


def check_plan(
    plan: Plan, pending: Sequence[Step], store: Store, llm: Session, *, asks_llm: bool, dry_run: bool
) -> None:
    """Prices, API keys, and what the pending kinds of step check (context, benchmarks).

    Args:
        plan: what is to be done.
        pending: its steps that are not done.
        store: where answers of LLMs may be.
        llm: the budget.
        asks_llm: whether a pending step asks an LLM.
        dry_run: only a plan is wanted: nothing outside it is looked at.

    Raises:
        ProviderError: an LLM has no API key, and none of its answers is stored.
        UsageError: no LLM is named for what asks one, or the budget is in money and no price is known for an LLM.
        HarnessError: what the kinds of step raise.
    """
    if llm.max_cost_usd is not None:
        for choice in plan.llms.values():
            require_price(choice.provider, choice.model, choice.config.prices)
    if asks_llm and not dry_run:
        if not plan.llms:
            raise UsageError(
                "the study asks an LLM and names none: --provider NAME:MODEL, or providers in registry.yaml"
            )
        for choice in plan.llms.values():
            if not store.has_calls(choice.provider):  # what is in the journal is replayed without a key
                choice.config.require(choice.provider)
    for check in dict.fromkeys(check for step in pending for check in kind_of(step).checks):
        check(plan, dry_run)


def check_memory(plan: Plan, pending: Sequence[Step], free_bytes: float, device: str) -> None:
    """Refuse a run whose weights alone do not fit the device, before anything is loaded.

    Raises:
        UsageError: they do not; it names what is needed and the cures.
    """
    path = plan.study.model.path
    size = model_size(path, resolve(path))
    if size is None:
        return
    for step in pending:
        kind = kind_of(step)
        needed = kind.memory_bytes(step, plan, size) if kind.memory_bytes else 0.0
        if needed > free_bytes:
            raise UsageError(
                f"{step.name} needs about {needed / 1e9:.0f} GB for its weights, and {device} has "
                f"{free_bytes / 1e9:.0f} GB free: use a smaller model, --set model.dtype=bfloat16"
                f"{kind.memory_cure.format(plugin=step.plugin)}"
            )


def check_device(plan: Plan, pending: Sequence[Step], device: str) -> None:
    """A GPU's free memory.

    Raises:
        UsageError: the weights alone do not fit.
    """
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        check_memory(plan, pending, float(free), device)
