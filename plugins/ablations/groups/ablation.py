"""The implementation of `groups`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.benchmarks.answerer import answerers
from harness.benchmarks.evaluate import evaluate
from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.records import AblationScore, EvaluationResult, Trace

from ..cells import Cell, group_cells
from ..scores import Scorer
from . import GroupsConfig

if TYPE_CHECKING:
    from harness.model.subject import Subject


class Groups(Ablation):
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
                        traces=run.held_out,
                    )
