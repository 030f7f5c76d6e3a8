"""The plan as a table: each step, its key, done or to do, and what it will cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.model.traces import resolve
from harness.study.costs import Cost, study_tokens, total
from harness.study.sizes import DECODE_TFLOPS, EFFECTIVE_TFLOPS, memory_bytes, model_size
from harness.study.step import Plan
from harness.study.steps import estimate

_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_plan(plan: Plan, pending: Sequence[str], console: Console) -> None:
    """Print the plan with the cost of what is to do.

    Raises:
        DataError: the traces cannot be read.
    """
    costs = estimate(plan)
    title = f"Plan of {plan.name}, preset {plan.preset or 'none'}, seed {plan.seed}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    table.add_column("step", overflow="fold")
    table.add_column("key", no_wrap=True)
    for name in ("tokens", "FLOP", "GPU-h", "disk", "LLM"):
        table.add_column(name, justify="right", no_wrap=True)
    to_do = [step for step in plan.steps if step.name in pending]
    for step in plan.steps:
        done = [Text("done", style="green"), *["-"] * 4]
        table.add_row(Text(step.name), step.key[:8], *(_cells(costs[step.name]) if step in to_do else done))
    whole = total(costs[step.name] for step in to_do)
    table.add_section()
    table.add_row("total to do", "", *_cells(whole))
    console.print(_subject(plan), markup=False, highlight=False)
    console.print(table)
    console.print(f"{len(pending)} of {len(plan.steps)} steps to do", markup=False)
    for line in _notes(whole):
        console.print(line, markup=False, highlight=False)
    if whole.unknown:
        console.print(f"Missing: {whole.unknown}.", markup=False)


def _notes(whole: Cost) -> list[str]:
    """What to know to read the table, and what has no column."""
    notes = [
        f"GPU-h: hours of one H200 at {EFFECTIVE_TFLOPS:.0f} TFLOP/s reading and {DECODE_TFLOPS:.0f} TFLOP/s writing "
        "(assumed; small batches write several times slower). Answers to benchmarks are counted at their longest."
    ]
    if whole.llm_calls:
        notes.append(
            f"LLM: {_scaled(whole.llm_calls)} calls at most, {_scaled(whole.llm_tokens)} tokens of prompts and replies "
            f"(in their steps' rows, not in the total), {_price(whole)} ($?: price not known)."
        )
    if whole.scratch_bytes:
        notes.append(f"Besides, training keeps up to {_scaled(whole.scratch_bytes)}B of checkpoints while it runs.")
    return notes


def _subject(plan: Plan) -> str:
    """What the plan is of: the model and its size, the traces and how many tokens they are."""
    model, data = plan.study.model, plan.study.data
    size = model_size(model.path, resolve(model.path))
    shape = "size not known" if size is None else (
        f"{_scaled(size.n_parameters)} parameters in {size.n_layers} layers, "
        f"{_scaled(memory_bytes(size.n_parameters, model.dtype))}B of weights in {model.dtype}"
    )  # fmt: skip
    n_traces, n_tokens = study_tokens(plan)
    return f"Model {model.path}: {shape}\nData {data.path}: {n_traces:,} traces, about {_scaled(n_tokens)} tokens"


def _cells(cost: Cost) -> list[str]:
    if cost.unknown and not cost.tokens:
        return ["?", "?", "?", "?", "-"]
    hours = cost.gpu_h
    asked = f"{_scaled(cost.llm_calls)} {_price(cost)}" if cost.llm_calls else "-"
    return [
        _scaled(cost.tokens or cost.llm_tokens), _scaled(cost.flops),
        "-" if not hours else "<0.1" if hours < 0.1 else f"{hours:,.1f}",
        f"{_scaled(cost.disk_bytes)}B" if cost.disk_bytes else "-", asked,
    ]  # fmt: skip


def _price(cost: Cost) -> str:
    return "$?" if cost.usd is None else f"${cost.usd:,.2f}"


def _scaled(value: float) -> str:
    if not value:
        return "-"
    for size, unit in _SCALES:
        if value >= size:
            scaled = value / size
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"
