"""From sums over documents to scores: means per token with their intervals, beside the estimates of Fisher probes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.model.chat import SEGMENTS
from harness.records import AblationScore, Trace
from harness.stages import RunContext
from harness.stats import ratio_over_documents

from .cells import Cell
from .divergence import Divergence, Sums
from .documents import read_texts
from .fisher import Probes, probe

if TYPE_CHECKING:
    from harness.model.subject import Subject

    from .config import KLConfig

Chosen = Literal["all", "top", "audit"]


class Scorer:
    """Scores cells; the documents are read, and the probes run, when the first cell needs them."""

    def __init__(self, subject: Subject, traces: Sequence[Trace], config: KLConfig, run: RunContext) -> None:
        self._subject, self._traces, self._config, self._run = subject, traces, config, run

    @cached_property
    def divergence(self) -> Divergence:
        """The sweep over the documents."""
        texts = read_texts(self._subject, self._traces, self._config, self._run.generator())
        return Divergence(self._subject, texts, self._config, self._run.seed)

    @cached_property
    def probes(self) -> Probes | None:
        """The Fisher probes; None where none are asked for."""
        if not self._config.probes:
            return None
        components = self._subject.components
        return probe(self.divergence, components, self._config.probes, self._run.seed, self._run.progress)

    def exact(self, cells: Sequence[Cell], chosen: Mapping[str, Chosen] | None = None) -> Iterator[AblationScore]:
        """Measure cells, in the order of the sweep.

        Args:
            cells: what to switch off, one at a time.
            chosen: item -> why it is measured; `all` where it is not named.
        """
        if not cells:
            return
        _ = self.probes  # before the progress bar of the cells begins
        self._run.progress.start(len(cells), "cell")
        for cell, sums in self.divergence.sweep(cells):
            yield self._exact(cell, sums, (chosen or {}).get(cell.item, "all"))
            self._run.progress.advance()

    def estimated(self, cell: Cell) -> AblationScore:
        """The probes' estimate of a cell that is not measured.

        Raises:
            ValueError: there are no probes.
        """
        if self.probes is None:
            raise ValueError("estimates need probes")
        found = self.probes.estimate(cell.off)
        return self.score(
            cell,
            method="fisher",
            kl_nats=found.estimate,
            kl_ci_low=found.low,
            kl_ci_high=found.high,
            reason="estimated by Fisher probes, not measured",
        )

    def _exact(self, cell: Cell, sums: Sums, chosen: Chosen) -> AblationScore:
        texts = self.divergence.texts
        n_tokens, n_targets = texts.n_tokens.numpy(), texts.n_targets.numpy()
        kl = ratio_over_documents(sums.kl_nats.sum(1), n_tokens.sum(1), seed=self._run.seed)
        values: dict[str, Any] = {}
        for i, segment in enumerate(SEGMENTS):
            values[f"n_tokens_{segment}"] = int(n_tokens[:, i].sum())
            if n_tokens[:, i].sum():
                values |= _named(f"kl_{segment}", sums.kl_nats[:, i], n_tokens[:, i], self._run.seed)
        if n_targets.sum():
            values |= _named("ce_change", sums.ce_change_nats, n_targets, self._run.seed)
            values["ce_nats"] = float((self.divergence.ce_full_nats + sums.ce_change_nats).sum() / n_targets.sum())
        return self.score(
            cell,
            method="exact",
            chosen_as=chosen,
            kl_nats=kl.estimate,
            kl_ci_low=kl.low,
            kl_ci_high=kl.high,
            document_kl_nats=tuple(float(v) for v in sums.kl_nats.sum(1) / n_tokens.sum(1)),
            document_n_tokens=tuple(int(n) for n in n_tokens.sum(1)),
            null_floor_nats=self.divergence.floors_nats.get(cell.first_layer),
            **values,
        )

    def score(self, cell: Cell, *, estimate: bool = True, **values: Any) -> AblationScore:
        """A record of a cell with these values, and with the probes' estimate unless it has no meaning here."""
        if estimate and self.probes is not None:
            found = self.probes.estimate(cell.off)
            values |= {"fisher_nats": found.estimate, "fisher_ci_low": found.low, "fisher_ci_high": found.high}
            values["n_draws"] = self.probes.n_draws
        n_tokens = self.divergence.n_tokens
        return AblationScore(
            item=cell.item,
            scope=cell.scope,
            mode=self._config.mode,
            engine=self.divergence.engine,
            n_tokens=sum(n_tokens),
            n_documents=len(n_tokens),
            n_components=len(cell.off),
            **cell.where,
            **values,
        )


def _named(name: str, sums: np.ndarray, counts: np.ndarray, seed: int) -> dict[str, float | None]:
    """A mean per token and its interval under `NAME_nats`, `NAME_ci_low`, `NAME_ci_high`; None for an unbounded end."""
    found = ratio_over_documents(sums, counts, seed=seed)
    ends = {"low": found.low, "high": found.high}
    return {f"{name}_nats": found.estimate} | {
        f"{name}_ci_{end}": value if math.isfinite(value) else None for end, value in ends.items()
    }
