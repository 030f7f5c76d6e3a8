"""The implementations of `leave-one-out` and `groups`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.benchmarks.answerer import answerers
from harness.benchmarks.evaluate import evaluate
from harness.contract.context import RunContext
from harness.records import AblationScore, EvaluationResult, Trace

from .cells import Cell, cells, group_cells
from .scores import Chosen, Scorer

if TYPE_CHECKING:
    from harness.model.subject import Subject

    from .groups import GroupsConfig
    from .leave_one_out import LeaveOneOutConfig


class LeaveOneOut:
    """KL without each component, layer, block and projection, and without the whole adapter."""

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[AblationScore]:
        """Yield a score per cell that is not in `run.done`: estimates first, then what is measured.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
        """
        found = cells(subject.components, self.config.scopes, self.config.n_blocks)
        todo = [c for c in found if c.item not in run.done]
        with Scorer(subject, traces, self.config, run) as scorer:
            chosen = self._chosen(found, scorer, run.seed)
            for cell in todo:
                if cell.item not in chosen:
                    yield scorer.estimated(cell)
            yield from scorer.exact([c for c in todo if c.item in chosen], chosen)

    def _chosen(self, found: Sequence[Cell], scorer: Scorer, seed: int) -> dict[str, Chosen]:
        """Which cells are measured, and why. All cells take part, also those already stored: the choice is the same."""
        config, method = self.config, self.config.method
        single = [c for c in found if c.scope == "component"]
        if method == "auto":
            method = "screen" if config.probes and len(single) > config.exact_up_to else "exact"
        if method == "fisher":
            return {}
        if method == "exact" or scorer.probes is None:
            return {c.item: "all" for c in found}
        chosen: dict[str, Chosen] = {c.item: "all" for c in found if c.scope != "component"}
        size = [scorer.probes.estimate(c.off).value for c in single]
        order = [single[i].item for i in np.argsort(-np.array(size), kind="stable")]
        n_top = min(len(order), max(1, round(config.top_share * len(order)))) if order else 0
        n_audit = min(len(order) - n_top, round(config.audit_share * len(order)))
        audit = np.random.default_rng(seed).choice(len(order) - n_top, n_audit, replace=False)
        chosen |= dict.fromkeys(order[:n_top], "top")
        return chosen | {order[n_top + i]: "audit" for i in audit}


class Groups:
    """KL and benchmark scores without attention, without MLP and without each projection."""

    def __init__(self, config: GroupsConfig) -> None:
        self.config = config

    def measure(
        self, subject: Subject, traces: Sequence[Trace], run: RunContext
    ) -> Iterator[AblationScore | EvaluationResult]:
        """Yield the KL of every group, then its benchmarks, skipping items in `run.done`.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
            UnknownName: a benchmark that does not exist.
        """
        groups = group_cells(subject.components)
        with Scorer(subject, traces, self.config, run) as scorer:
            yield from scorer.exact([g for g in groups if g.item not in run.done])
        blocks = [g for g in groups if "projection" not in g.where]
        projections = [g for g in groups if "projection" in g.where]
        if self.config.benchmark_groups != "none":
            yield from self._benchmarks(subject, blocks, run.evaluate.limit, run)
        if self.config.benchmark_groups == "all":
            limits = [n for n in (run.evaluate.limit, self.config.projection_items) if n is not None]
            yield from self._benchmarks(subject, projections, min(limits, default=None), run)

    def _benchmarks(
        self, subject: Subject, groups: Sequence[Cell], limit: int | None, run: RunContext
    ) -> Iterator[EvaluationResult]:
        """Every benchmark of groups that are asked the same items."""
        update = {"limit": limit, "batch_size": self.config.evaluation_batch_size}
        for benchmark in run.evaluate.benchmarks:
            names = [f"without-{group.where['group']}" for group in groups]
            todo = [f"{name}/{benchmark}" not in run.done for name in names]
            if not any(todo):
                continue
            asked = answerers(subject, run, [group.off for group in groups])
            for name, variant, wanted in zip(names, asked, todo, strict=True):
                if wanted:
                    yield evaluate(
                        variant,
                        benchmark,
                        variant=name,
                        settings=run.evaluate.model_copy(update=update),
                        seed=run.seed,
                        progress=run.progress,
                    )
