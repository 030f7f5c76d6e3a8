"""Do attention and MLP do more together than apart? An ablation with a record, a report and an observer of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import Column, Config, Estimate, Record, Registration, Report, RunContext, Trace, hookimpl, measure_kl

if TYPE_CHECKING:
    from harness.model.subject import Subject


class LayerSynergy(Record):
    """KL of switching a layer's attention off, its MLP, and both."""

    item: str
    """`layer:` and the layer."""
    attention_nats: Estimate
    """KL without attention, mean over the response's tokens."""
    mlp_nats: Estimate
    """KL without MLP, mean over the response's tokens."""
    both_nats: Estimate
    """KL without both, mean over the response's tokens."""

    @property
    def more_nats(self) -> float:
        """By how much switching both off exceeds the sum of the two."""
        return self.both_nats.value - self.attention_nats.value - self.mlp_nats.value


class Synergy:
    """Measures every adapted layer three times, on the first eight documents."""

    def __init__(self, config: Config) -> None:
        """There are no settings."""

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[LayerSynergy]:
        """Yield a record per layer."""
        documents = [subject.chat.document(subject.tokenizer, t) for t in traces[:8]]
        for layer in sorted({c.layer for c in subject.components if c.layer is not None}):
            if f"layer:{layer}" not in run.done:
                both = [c for c in subject.components if c.layer == layer]
                parts = [[c for c in both if c.block == "attention"], [c for c in both if c.block == "mlp"], both]
                attention, mlp, joint = (measure_kl(subject, documents, off, seed=run.seed) for off in parts)
                yield LayerSynergy(item=f"layer:{layer}", attention_nats=attention, mlp_nats=mlp, both_nats=joint)


@hookimpl
def harness_ablations() -> list[Registration[Synergy]]:
    """Offer `synergy`."""
    return [Registration("synergy", Config, "harness_synergy:Synergy", "what attention and MLP do together")]


@hookimpl
def harness_records() -> list[type[Record]]:
    """Offer the record: its table, view, CSV and JSON follow from the class."""
    return [LayerSynergy]


def stored(connection: Any, run_id: int) -> list[LayerSynergy]:
    """What the steps of a run stored."""
    from harness import records_of

    return records_of(connection, LayerSynergy, run_id=run_id)


@hookimpl
def harness_reports() -> list[Report[LayerSynergy]]:
    """Offer `harness report synergy`."""
    layer = Column[LayerSynergy]("layer", lambda r: r.item, justify="left")
    more = Column[LayerSynergy]("more than the sum [nats]", lambda r: f"{r.more_nats:+.5f}")
    return [Report("synergy", "Attention and MLP together", stored, (layer, more), noun="layers")]


@hookimpl(wrapper=True)
def harness_run_step(step: str, stage: str) -> Generator[None, Any, Any]:
    """Write down how long each step takes, in whichever process does it."""
    began = time.monotonic()
    try:
        return (yield)
    finally:
        with Path("step_times.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, "stage": stage, "wall_s": time.monotonic() - began}) + "\n")
