"""The implementation of `leave-one-out`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.records import AblationScore, Trace

from ..cells import Cell, cells
from ..scores import Chosen, Scorer
from . import LeaveOneOutConfig

if TYPE_CHECKING:
    from harness.model.subject import Subject


class LeaveOneOut(Ablation):
    """KL without each component, layer, block and projection, and without the whole adapter."""

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[AblationScore]:
        """Yield a score per cell that is not in `run.done`: estimates first, then what is measured.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
        """
        sweep = cells(subject.components, self.config.scopes, self.config.n_blocks)
        todo = [c for c in sweep if c.item not in run.done]
        with Scorer(subject, traces, self.config, run) as scorer:
            chosen = self._chosen(sweep, scorer, run.seed)
            for cell in todo:
                if cell.item not in chosen:
                    yield scorer.estimated(cell)
            yield from scorer.exact([c for c in todo if c.item in chosen], chosen)

    def _chosen(self, sweep: Sequence[Cell], scorer: Scorer, seed: int) -> dict[str, Chosen]:
        """Which cells are measured, and why. Stored cells take part, so a resumed run chooses the same."""
        config, method = self.config, self.config.method
        single = [c for c in sweep if c.scope == "component"]
        if method == "auto":
            method = "screen" if config.probes and len(single) > config.exact_up_to else "exact"
        if method == "fisher":
            return {}
        if method == "exact" or scorer.probes is None:
            return {c.item: "all" for c in sweep}
        chosen: dict[str, Chosen] = {c.item: "all" for c in sweep if c.scope != "component"}
        size = [scorer.probes.estimate(c.off).value for c in single]
        order = [single[i].item for i in np.argsort(-np.array(size), kind="stable")]
        n_top = min(len(order), max(1, round(config.top_share * len(order)))) if order else 0
        n_audit = min(len(order) - n_top, round(config.audit_share * len(order)))
        audit = np.random.default_rng(seed).choice(len(order) - n_top, n_audit, replace=False)
        chosen |= dict.fromkeys(order[:n_top], "top")
        return chosen | {order[n_top + i]: "audit" for i in audit}
