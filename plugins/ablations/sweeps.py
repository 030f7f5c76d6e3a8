"""The implementations of `leave-one-out` and `groups`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from harness.benchmarks.evaluate import evaluate
from harness.model.components import Component
from harness.model.taps import ablate
from harness.records import AblationScore, EvaluationResult, Trace
from harness.stages import RunContext
from harness.stats import ratio_over_documents

from .divergence import Divergence

if TYPE_CHECKING:
    from harness.model.subject import Subject

    from .config import KLConfig
    from .groups import GroupsConfig
    from .leave_one_out import LeaveOneOutConfig

Scope = Literal["component", "layer", "projection", "block", "group", "adapter"]


@dataclass(frozen=True)
class Cell:
    """One thing to switch off.

    Attributes:
        item: its name within the step.
        scope: what kind of thing.
        off: the components.
        where: layer, projection, rank_index and group, as far as it has them.
    """

    item: str
    scope: Scope
    off: tuple[Component, ...]
    where: dict[str, Any] = field(default_factory=dict)


def cells(components: Sequence[Component], scopes: Sequence[str]) -> list[Cell]:
    """The cells of leave-one-out, the widest first."""
    found = [Cell("adapter", "adapter", tuple(components))]
    for layer in sorted({c.layer for c in components if c.layer is not None}):
        found.append(Cell(f"layer:{layer}", "layer", _where(components, layer=layer), {"layer": layer}))
    for name in dict.fromkeys(c.projection for c in components):
        found.append(
            Cell(f"projection:{name}", "projection", _where(components, projection=name), {"projection": name})
        )
    for c in components:
        where = {"layer": c.layer, "projection": c.projection, "rank_index": c.rank_index}
        found.append(Cell(f"component:{c.name}", "component", (c,), where))
    return [cell for cell in found if cell.scope in scopes]


def group_cells(components: Sequence[Component]) -> list[Cell]:
    """Blocks (attention, mlp; `other` where a module is neither), then projections."""
    found = []
    for block in ("attention", "mlp", "other"):
        off = _where(components, block=block)
        if off:
            found.append(Cell(f"group:{block}", "group", off, {"group": block}))
    for name in dict.fromkeys(c.projection for c in components):
        where = {"group": name, "projection": name}
        found.append(Cell(f"group:{name}", "group", _where(components, projection=name), where))
    return found


def _where(components: Sequence[Component], **values: Any) -> tuple[Component, ...]:
    return tuple(c for c in components if all(getattr(c, k) == v for k, v in values.items()))


class _Scorer:
    """Scores cells; the documents are read when the first cell needs them."""

    def __init__(self, subject: Subject, traces: Sequence[Trace], config: KLConfig, run: RunContext) -> None:
        self._subject, self._traces, self._config, self._run = subject, traces, config, run

    @cached_property
    def _divergence(self) -> Divergence:
        return Divergence(self._subject, self._traces, self._config, self._run.generator())

    def score(self, cell: Cell) -> AblationScore:
        """KL(full ‖ without the cell), mean over tokens, with its interval over documents."""
        n_tokens = self._divergence.n_tokens
        kl = ratio_over_documents(self._divergence.kl_sums(cell.off), n_tokens, seed=self._run.seed)
        return AblationScore(
            item=cell.item,
            scope=cell.scope,
            mode=self._config.mode,
            kl_nats=kl.estimate,
            kl_ci_low=kl.low,
            kl_ci_high=kl.high,
            n_tokens=sum(n_tokens),
            n_documents=len(n_tokens),
            n_components=len(cell.off),
            **cell.where,
        )


class LeaveOneOut:
    """KL without each component, layer and projection, and without the whole adapter."""

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[AblationScore]:
        """Yield a score per cell that is not in `run.done`.

        Raises:
            ModelError: the subject has no adapter.
        """
        scorer = _Scorer(subject, traces, self.config, run)
        todo = [c for c in cells(subject.components, self.config.scopes) if c.item not in run.done]
        run.progress.start(len(todo), "cell")
        for cell in todo:
            yield scorer.score(cell)
            run.progress.advance()


class Groups:
    """KL and benchmark scores without attention, without MLP and without each projection."""

    def __init__(self, config: GroupsConfig) -> None:
        self.config = config

    def measure(
        self, subject: Subject, traces: Sequence[Trace], run: RunContext
    ) -> Iterator[AblationScore | EvaluationResult]:
        """Yield the KL of every group, then its benchmarks, skipping items in `run.done`.

        Raises:
            ModelError: the subject has no adapter.
            UnknownName: a benchmark that does not exist.
        """
        groups = group_cells(subject.components)
        scorer = _Scorer(subject, traces, self.config, run)
        todo = [g for g in groups if g.item not in run.done]
        run.progress.start(len(todo), "group")
        for group in todo:
            yield scorer.score(group)
            run.progress.advance()
        for group in groups:
            if self._benchmarked(group):
                yield from self._benchmarks(subject, group, run)

    def _benchmarked(self, group: Cell) -> bool:
        wanted = self.config.benchmark_groups
        return wanted == "all" or (wanted == "blocks" and "projection" not in group.where)

    def _benchmarks(self, subject: Subject, group: Cell, run: RunContext) -> Iterator[EvaluationResult]:
        variant = f"without-{group.where['group']}"
        limits = [run.evaluate.limit, self.config.projection_items if "projection" in group.where else None]
        limit = min((n for n in limits if n is not None), default=None)
        for benchmark in run.evaluate.benchmarks:
            if f"{variant}/{benchmark}" in run.done:
                continue
            yield evaluate(
                subject,
                benchmark,
                variant=variant,
                edit=ablate(subject.components, group.off),
                settings=run.evaluate.model_copy(
                    update={"limit": limit, "batch_size": self.config.evaluation_batch_size}
                ),
                seed=run.seed,
                progress=run.progress,
            )
