"""The implementation of `attribute`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.contract.context import RunContext
from harness.contract.stages import Ablation
from harness.errors import DataError, ModelError
from harness.model.batching import length_batches
from harness.model.components import Component
from harness.records import Dictionary, Trace
from harness.records.attribute import Attribution

from ..documents import choose
from . import AttributeConfig
from .gradients import Gradients, Outcome, Point, Targets, by_row, nodes
from .latents import Latents, LatentShares
from .targets import Item, batch_of, span_of

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.blocks import Inputs
    from harness.model.subject import Subject


@dataclass(frozen=True)
class _Integrated:
    """The path from base to adapter.

    Attributes:
        shares: integrated contributions.
        latents: those of each dictionary's latents.
        n_nodes: gains.
    """

    shares: Float[torch.Tensor, "row token component"]
    latents: tuple[LatentShares, ...]
    n_nodes: int


class Attribute(Ablation):
    """Attributes outcomes to components and latents, and switches components off exactly beside it."""

    def __init__(self, config: AttributeConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[Attribution]:
        """Yield a record per token, or span, that is not in `run.done`.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read.
            DataError: no document has such a span within `max_tokens`, or no token of the vocabulary is the event.
        """
        if not subject.components:
            raise ModelError("there is no adapter to attribute to: the checkpoint is a base or a full fine-tune")
        run.progress.start(1, "check of the model")
        gradients = Gradients(subject.model, subject.components, self._outcome(subject))
        short = {"input_ids": torch.zeros(1, 8, dtype=torch.long, device=subject.device)}
        short["attention_mask"] = torch.ones_like(short["input_ids"])
        gradients.readout.check(subject.model, short)
        reuses = gradients.blocks.prefix_reuse_error(short) is None
        todo = [i for i in self._items(subject, traces, gradients, run) if i.name not in run.done]
        names = tuple(c.name for c in subject.components)
        dictionaries = [d for d in run.made.records(Dictionary) if d.columns == names]
        batch = _Batch(self.config, subject, gradients, [Latents(d.name, run.made.codec(d), len(names))
                                                         for d in dictionaries], reuses, run.seed)  # fmt: skip
        run.progress.start(len(todo), "answer")
        for chosen in length_batches([i.n_read for i in todo], self.config.batch_tokens):
            yield from batch.attributed([todo[i] for i in chosen])
            run.progress.advance(len(chosen))

    def _outcome(self, subject: Subject) -> Outcome:
        if self.config.event is None:
            return Outcome(self.config.outcome)
        pattern, n = re.compile(self.config.event), subject.model.get_output_embeddings().weight.shape[0]
        known = min(n, len(subject.tokenizer))
        is_event = [pattern.search(str(subject.tokenizer.decode([i]))) is not None for i in range(known)]
        if not any(is_event):
            raise DataError(
                f"no token of the vocabulary is the event {self.config.event!r}; set another attribute.event"
            )
        return Outcome("event", torch.tensor(is_event + [False] * (n - known), device=subject.device))

    def _items(self, subject: Subject, traces: Sequence[Trace], gradients: Gradients, run: RunContext) -> list[Item]:
        """What is attributed, in the documents' order: for each, one pass of the adapter and one of the base."""
        config = self.config
        documents = [subject.chat.document(subject.tokenizer, t)
                     for t in choose(traces, config.n_documents, run.generator())]  # fmt: skip
        spans = [span_of(d, config.span, config.max_tokens) for d in documents]
        whole = [Item(d, s, (0,) * len(s), whole=True) for d, s in zip(documents, spans, strict=True) if s]
        if not whole:
            raise DataError(f"no document has tokens of the span {config.span!r} within {config.max_tokens} tokens")
        run.progress.start(len(whole), "answer read")
        items: dict[int, list[Item]] = {}
        for chosen in length_batches([i.n_read for i in whole], config.batch_tokens):
            inputs, targets = batch_of([whole[i] for i in chosen], subject, mean=False)
            if config.outcome == "logit-difference":
                targets = replace(targets, foils=gradients.foils(inputs, targets))
            ones, zeros = ([gain] * len(subject.components) for gain in (1.0, 0.0))
            change = (gradients.values(inputs, targets, ones) - gradients.values(inputs, targets, zeros)).abs()
            for row, index in enumerate(chosen):
                at = (targets.rows == row).nonzero()[:, 0]
                item = replace(whole[index], foils=tuple(targets.foils[at].tolist()))
                items[index] = self._most_changed(item, change[at]) if config.tokens_per_answer else [item]
            run.progress.advance(len(chosen))
        return [item for index in sorted(items) for item in items[index]]

    def _most_changed(self, item: Item, change: torch.Tensor) -> list[Item]:
        largest = change.argsort(descending=True, stable=True)[: self.config.tokens_per_answer].tolist()
        return [Item(item.document, (item.positions[i],), (item.foils[i],)) for i in sorted(largest)]


class _Batch:
    """Attributes a batch of items."""

    def __init__(
        self, config: AttributeConfig, subject: Subject, gradients: Gradients, latents: Sequence[Latents],
        reuses: bool, seed: int,
    ) -> None:  # fmt: skip
        self._config, self._subject, self._gradients, self._latents = config, subject, gradients, latents
        self._reuses, self._seed = reuses, seed
        self._names = [c.name for c in gradients.components]

    def attributed(self, items: Sequence[Item]) -> Iterator[Attribution]:
        """A record of each."""
        inputs, targets = batch_of(items, self._subject, mean=self._config.outcome == "event")
        adapter = self._gradients.at(inputs, targets, 1.0)
        base = by_row(self._gradients.values(inputs, targets, [0.0] * len(self._names)), targets, len(items))
        made = self._integrated(inputs, targets, (adapter.outcome - base).cpu())
        totals = made.shares.sum(1)
        first = (adapter.scalars * adapter.gradient).double().sum(1)
        measured = [self._chosen(totals[row], item) for row, item in enumerate(items)]
        left_out, own = self._one_by_one(inputs, targets, adapter.outcome, [{*top, *drawn} for top, drawn in measured])
        for row, item in enumerate(items):
            yield self._record(
                item,
                with_adapter=float(adapter.outcome[row]),
                without_adapter=float(base[row]),
                n_nodes=made.n_nodes,
                first_order=dict(zip(self._names, first[row].tolist(), strict=True)),
                integrated=dict(zip(self._names, totals[row].tolist(), strict=True)),
                own=own[row],
                left_out=left_out[row],
                drawn=tuple(self._names[i] for i in measured[row][1]),
                by_token=tuple(made.shares[row, : item.n_read].sum(-1).tolist()),
                latents={s.dictionary: s.largest(row, self._config.sources) for s in made.latents},
                unexplained={s.dictionary: float(totals[row].sum()) - s.total(row) for s in made.latents},
                sources=self._sources(made, row),
            )

    def _integrated(self, inputs: Inputs, targets: Targets, difference: torch.Tensor) -> _Integrated:
        """Integrate along the common gain, with more nodes while the remainder is too large."""
        n = self._config.nodes
        while True:
            made = self._quadrature(inputs, targets, n)
            remainder = (difference - made.shares.sum((1, 2))).abs() / difference.abs().clamp_min(1e-12)
            if float(remainder.median()) <= self._config.tolerance or 2 * n > self._config.max_nodes:
                return made
            n *= 2

    def _quadrature(self, inputs: Inputs, targets: Targets, n: int) -> _Integrated:
        shares: Any = 0.0
        latents = tuple(LatentShares.of(known, *inputs["input_ids"].shape) for known in self._latents)
        for gain, weight in nodes(n):
            point = self._gradients.at(inputs, targets, gain)
            shares = shares + weight * (point.scalars * point.gradient).double().cpu()
            for known, of in zip(self._latents, latents, strict=True):
                of.add(known, point, weight)
        return _Integrated(shares, latents, n)

    def _chosen(self, totals: torch.Tensor, item: Item) -> tuple[list[int], list[int]]:
        """Components that are switched off exactly: the largest, and others drawn (with the item, so that a resumed
        run draws the same)."""
        order = totals.abs().argsort(descending=True, stable=True).tolist()
        top, rest = order[: self._config.exact_top], order[self._config.exact_top :]
        words = np.frombuffer(item.name.encode(), dtype=np.uint8)
        draw = np.random.default_rng([self._seed, *words.tolist()])
        return top, sorted(draw.permutation(rest)[: self._config.exact_random].tolist())

    def _one_by_one(
        self, inputs: Inputs, targets: Targets, outcome: torch.Tensor, wanted: Sequence[set[int]]
    ) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
        """Each row's wanted components: the exact fall without one, and its contribution along its own gain.

        Passes begin at the component's layer, where the model allows it, with the hidden states of the adapter.
        """
        left_out: list[dict[str, float]] = [{} for _ in wanted]
        own: list[dict[str, float]] = [{} for _ in wanted]
        components, blocks = self._gradients.components, self._gradients.blocks
        layer_of = [c.layer if self._reuses and c.layer is not None else 0 for c in components]
        at, state = 0, self._entering(inputs)
        for index in sorted(set().union(*wanted), key=lambda i: layer_of[i]):
            component = components[index]
            while at < layer_of[index] and state is not None:
                with torch.no_grad():
                    state = blocks.step(inputs, at, state)
                at += 1
            rows = [row for row, some in enumerate(wanted) if index in some]
            some, of = _rows(inputs, targets, rows)
            entering = None if state is None else state[rows]
            near = [c for c in components if c.module == component.module]
            gates = [float(c.name != component.name) for c in near]
            without = by_row(self._gradients.values(some, of, gates, near, at, entering), of, len(rows))
            along = self._along(some, of, component, near, at, entering) if self._config.own_nodes else None
            for i, row in enumerate(rows):
                left_out[row][component.name] = float(outcome[row] - without[i])
                if along is not None:
                    own[row][component.name] = float(along[i])
        return left_out, own

    def _along(
        self, inputs: Inputs, targets: Targets, component: Component, near: Sequence[Component], start: int,
        entering: torch.Tensor | None,
    ) -> torch.Tensor:  # fmt: skip
        """A component's contribution along its own gain: [row]."""
        column, total = [c.name for c in near].index(component.name), torch.zeros(len(inputs["input_ids"]))
        for gain, weight in nodes(self._config.own_nodes):
            point: Point = self._gradients.at(inputs, targets, gain, near, component.name, start, entering)
            total = total + weight * (point.scalars * point.gradient)[..., column].double().sum(1).cpu()
        return total

    @torch.no_grad()
    def _entering(self, inputs: Inputs) -> torch.Tensor | None:
        return self._gradients.blocks.entering(inputs) if self._reuses else None

    def _sources(self, made: _Integrated, row: int) -> tuple[tuple[str, str, int, float], ...]:
        values = made.shares[row]
        largest = values.abs().flatten().argsort(descending=True, stable=True)[: self._config.sources].tolist()
        width = values.shape[1]
        own = [("", self._names[i % width], i // width, float(values.flatten()[i])) for i in largest]
        return (*own, *(source for s in made.latents for source in s.sources(row, self._config.sources)))

    def _record(self, item: Item, **values: Any) -> Attribution:
        position = None if item.whole else item.positions[0]
        start, end = item.document.offsets[item.positions[0]]
        return Attribution(
            item=item.name,
            document=item.document.id,
            outcome=self._config.outcome,
            span=self._config.span,
            position=position,
            token=self._config.span if position is None else item.document.text[start:end],
            n_tokens=len(item.positions),
            **values,
        )


def _rows(inputs: Inputs, targets: Targets, rows: Sequence[int]) -> tuple[Inputs, Targets]:
    """Some rows of a batch, numbered anew."""
    if len(rows) == inputs["input_ids"].shape[0]:
        return inputs, targets
    index = torch.tensor(rows, device=targets.rows.device)
    where = torch.isin(targets.rows, index)
    number = torch.searchsorted(index, targets.rows[where])
    of = Targets(number, targets.positions[where], targets.tokens[where], targets.foils[where], targets.weights[where])
    return {name: value[index] for name, value in inputs.items()}, of
