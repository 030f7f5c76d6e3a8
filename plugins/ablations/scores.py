"""From sums over documents to scores: means per token with their intervals, beside the estimates of Fisher probes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness.records import AblationScore, Trace
from harness.records.segments import HEADLINE, SEGMENTS, TOKENS_OF, field_of, places
from harness.stats import Estimate, ratio_over_documents

from .cells import Cell
from .divergence import KLSums, shares
from .documents import Texts, read_texts
from .fisher import Probes, gathered, pieces
from .sweeper import RunInfo, Sweeper

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.contract.executors import Workers
    from harness.model.subject import Subject

    from .config import KLConfig

_log = logging.getLogger(__name__)

Chosen = Literal["all", "top", "audit"]
Interval = Callable[["np.ndarray", "np.ndarray"], Estimate]
"""Sums of each document and its tokens -> their ratio."""


class Scorer:
    """Scores cells, with the workers of a run's executor for the while of a `with` block.

    The documents are read, and the probes run, when the first cell needs them.
    """

    def __init__(self, subject: Subject, traces: Sequence[Trace], config: KLConfig, run: RunContext) -> None:
        self._subject, self._traces, self._config, self._run = subject, traces, config, run
        self._floors_nats: dict[int, float] = {}
        self._open = ExitStack()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *ended: object) -> None:
        self._open.close()

    @cached_property
    def texts(self) -> Texts:
        """The documents."""
        return read_texts(self._subject, self._traces, self._config, self._run.generator())

    @cached_property
    def _workers(self) -> Workers[Sweeper]:
        sweeper = Sweeper(self._subject, self.texts, self._config, self._run.seed)
        return self._open.enter_context(self._run.executor.open(sweeper))

    @cached_property
    def run_info(self) -> RunInfo:
        """What is known before anything is switched off.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
        """
        ((_, run_info),) = self._workers.map(Sweeper.about, [None], SilentProgress())
        if run_info.prefix_reuse_error is not None:
            _log.warning("%s: ablations run whole passes: %s", self._subject.base.path, run_info.prefix_reuse_error)
        return run_info

    @cached_property
    def probes(self) -> Probes | None:
        """The Fisher probes; None where none are asked for."""
        n_probes = self._config.probes
        if not n_probes:
            return None
        self._run.progress.start(len(self.texts.ids), "probed document")
        gradients = self._workers.map(Sweeper.probe, pieces(self.texts), self._run.progress)
        return gathered(gradients, self._subject.components, self.texts, n_probes)

    def sweep(self, cells: Sequence[Cell], unit: str) -> Iterator[tuple[Cell, KLSums]]:
        """Every cell's sums, in the order of the sweep.

        Args:
            cells: what to switch off, one at a time.
            unit: what a cell is called while it is waited for.

        Raises:
            ModelError: a KL is not finite.
        """
        reuses, rows = self.run_info.prefix_reuse_error is None, self._config.ablations_per_batch
        self._run.progress.start(len(cells), unit)
        parts = shares(cells, reuses=reuses, rows=rows, n_workers=self._workers.n)
        for share, measured in self._workers.map(Sweeper.measure, parts, self._run.progress):
            if measured.floor_nats is not None:
                self._floors_nats[share.layer] = measured.floor_nats
            yield from zip(share.cells, measured.sums, strict=True)

    def exact(self, cells: Sequence[Cell], chosen: Mapping[str, Chosen] | None = None) -> Iterator[AblationScore]:
        """Measure cells, in the order of the sweep.

        Args:
            cells: what to switch off, one at a time.
            chosen: item -> why it is measured; `all` where it is not named.
        """
        if not cells:
            return
        _ = self.probes  # before the progress bar of the cells begins
        for cell, sums in self.sweep(cells, "cell"):
            yield self._exact(cell, sums, (chosen or {}).get(cell.item, "all"))

    def estimated(self, cell: Cell) -> AblationScore:
        """The probes' estimate of a cell that is not measured.

        Raises:
            ValueError: there are no probes.
        """
        if self.probes is None:
            raise ValueError("estimates need probes")
        return self.score(
            cell,
            method="fisher",
            kl_nats=self.probes.estimate(cell.off, seed=self._run.seed),
            reason="estimated by Fisher probes, which see the response only: not measured",
        )

    def _exact(self, cell: Cell, sums: KLSums, chosen: Chosen) -> AblationScore:
        n_targets = self.texts.n_targets.numpy()
        values = self.kls(sums.kl_nats)
        if n_targets.sum():
            values["ce_change_nats"] = ratio_over_documents(sums.ce_change_nats, n_targets, seed=self._run.seed)
            values["ce_nats"] = float((self.run_info.ce_full_nats + sums.ce_change_nats).sum() / n_targets.sum())
        return self.score(
            cell,
            method="exact",
            chosen_as=chosen,
            document_kl_sums={s: tuple(kl) for s, kl in zip(SEGMENTS, sums.kl_nats.T.tolist(), strict=True)},
            document_n_tokens={s: tuple(n) for s, n in zip(SEGMENTS, self.texts.n_tokens.T.tolist(), strict=True)},
            null_floor_nats=self._floors_nats.get(cell.first_layer),
            **values,
        )

    def kls(self, sums: Float[np.ndarray, "... document segment"], interval: Interval | None = None) -> dict[str, Any]:
        """Fields of a record: the KL per token of the headline, and of other tokens where documents have them.

        Args:
            sums: KL summed over tokens, nats.
            interval: (sums of each document, tokens of each document) -> the mean; a bootstrap over documents if not
                given.
        """
        made = interval or partial(ratio_over_documents, seed=self._run.seed)
        fields = {}
        for tokens_of in TOKENS_OF:
            n_tokens = self.texts.n_tokens.numpy()[:, places(tokens_of)].sum(1)
            if n_tokens.sum():
                fields[field_of("kl_nats", tokens_of)] = made(sums[..., places(tokens_of)].sum(-1), n_tokens)
        return fields

    def score(self, cell: Cell, *, estimate: bool = True, **values: Any) -> AblationScore:
        """A record of a cell with these values, and with the probes' estimate unless it has no meaning here."""
        if estimate and self.probes is not None:
            values |= {
                "fisher_nats": self.probes.estimate(cell.off, seed=self._run.seed),
                "n_draws": self.probes.n_draws,
            }
        n_tokens = {of: int(self.texts.n_tokens[:, places(of)].sum()) for of in TOKENS_OF}
        if 2 * n_tokens[HEADLINE] < n_tokens["all"]:
            few = f"only {n_tokens[HEADLINE]:,} of {n_tokens['all']:,} measured tokens are of the response"
            values["reason"] = "; ".join(filter(None, (values.get("reason"), few)))
        return AblationScore(
            item=cell.item,
            scope=cell.scope,
            mode=self._config.mode,
            engine=self.run_info.engine,
            **{field_of("n_tokens", of): n for of, n in n_tokens.items()},
            n_documents=len(self.texts.ids),
            n_components=len(cell.off),
            **cell.where,
            **values,
        )
