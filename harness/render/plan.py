"""The plan as a table: each step, its key, done or to do, and what it will cost."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.study.costs import Cost, CostModel, total
from harness.study.machine import Machine
from harness.study.sizes import DECODE_TFLOPS, EFFECTIVE_TFLOPS, memory_bytes
from harness.study.step import Plan
from harness.study.steps import estimate

_SCALES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def print_plan(plans: Sequence[Plan], pending: Collection[str], console: Console, machine: Machine) -> None:
    """Print the plan of one seed or of several, with the cost of what is to do; steps that seeds share are one.

    Args:
        plans: one per seed, otherwise alike.
        pending: keys of the steps that are not done.
        console: where to.
        machine: what the times are of.

    Raises:
        DataError: the traces cannot be read.
    """
    plan, model = plans[0], CostModel.of(plans[0])
    costs = estimate(plan, model)  # a seed changes no cost
    seeds = f"seed {plan.seed}" if len(plans) == 1 else f"seeds {', '.join(str(p.seed) for p in plans)}"
    title = f"Plan of {plan.name}, preset {plan.preset or 'none'}, {seeds}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("step", overflow="fold")
    table.add_column("key", no_wrap=True)
    for name in ("tokens", "time", "GPU-h", "RAM", "disk", "LLM"):
        table.add_column(name, justify="right", no_wrap=True)
    to_do: list[Cost] = []
    for step in plan.steps:
        keys = dict.fromkeys(p.step(step.name).key for p in plans)
        left = [costs[step.name] for key in keys if key in pending]
        cells = _cells(total(left), machine) if left else [Text("done", style="green"), *["-"] * 5]
        many = f" ({_of(len(left), len(keys))} seeds)" if len(keys) > 1 else ""
        table.add_row(Text(step.name + many), step.key[:8] if len(keys) == 1 else f"{len(keys)} keys", *cells)
        to_do += left
    whole = total(to_do)
    table.add_section()
    table.add_row("total to do", "", *_cells(whole, machine))
    console.print(_subject(model), markup=False, highlight=False)
    console.print(table)
    n_steps = len({step.key for p in plans for step in p.steps})
    shared = f"; {sum(s.shared for s in plan.steps)} are shared by the seeds and counted once" if len(plans) > 1 else ""
    console.print(f"{len(to_do)} of {n_steps} steps to do{shared}", markup=False)
    console.print(in_all(to_do, machine), markup=False, highlight=False)
    for line in _notes(whole):
        console.print(line, markup=False, highlight=False)
    if whole.unknown:
        console.print(f"Missing: {whole.unknown}.", markup=False)


def _of(n: int, total: int) -> str:
    return str(n) if n in (0, total) else f"{n} of {total}"


def in_all(to_do: Sequence[Cost], machine: Machine) -> str:
    """Time, memory and disk of what is to do on this machine."""
    whole = total(to_do)
    wall_s = seconds_of(whole, machine) / machine.jobs
    largest = sorted((cost.memory_bytes for cost in to_do), reverse=True)[: machine.jobs]
    parts = [
        f"about {_lasting(wall_s)} on this machine", f"{_scaled(sum(largest))}B of memory",
        f"{_scaled(whole.disk_bytes + whole.scratch_bytes)}B of disk",
    ]  # fmt: skip
    how = f"{machine.jobs} processes at" if machine.jobs > 1 else "matrix products at"
    waiting = ", waiting for LLMs not counted" if whole.llm_calls else ""
    return "; ".join(parts) + f" ({how} {_scaled(machine.flops_per_s)}FLOP/s, measured just now{waiting})"


def seconds_of(cost: Cost, machine: Machine) -> float:
    """Of one process of this machine."""
    return machine.seconds(cost.cpu_flops, cost.other_s, cost.gpu_h)


def _lasting(wall_s: float) -> str:
    for size, unit in ((365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "min")):
        if wall_s >= 1.5 * size:
            n = wall_s / size
            return f"{n:,.0f} {unit}" if n >= 10 else f"{n:.1f} {unit}"
    return f"{wall_s:.0f} s" if wall_s >= 0.5 else "<1 s"


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


def _subject(costs: CostModel) -> str:
    """What the plan is of: the model and its size, the traces and how many tokens they are."""
    model, data, size = costs.plan.study.model, costs.plan.study.data, costs.size
    shape = "size not known" if size is None else (
        f"{_scaled(size.n_parameters)} parameters in {size.n_layers} layers, "
        f"{_scaled(memory_bytes(size.n_parameters, model.dtype))}B of weights in {model.dtype}"
    )  # fmt: skip
    tokens = f"{'' if costs.counted else 'about '}{_scaled(costs.n_tokens)} tokens"
    return f"Model {model.path}: {shape}\nData {data.path}: {costs.n_traces:,} traces, {tokens}"


def _cells(cost: Cost, machine: Machine) -> list[str]:
    if cost.unknown and not cost.tokens:
        return [*["?"] * 5, "-"]
    hours = cost.gpu_h
    asked = f"{_scaled(cost.llm_calls)} {_price(cost)}" if cost.llm_calls else "-"
    return [
        _scaled(cost.tokens or cost.llm_tokens), _lasting(seconds_of(cost, machine)),
        "-" if not hours else "<0.1" if hours < 0.1 else f"{hours:,.1f}",
        f"{_scaled(cost.memory_bytes)}B", f"{_scaled(cost.disk_bytes)}B" if cost.disk_bytes else "-", asked,
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
