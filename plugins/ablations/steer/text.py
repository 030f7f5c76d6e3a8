"""Pushes in fixed text: KL, cross-entropy and the probability of events, per document, against the adapter as it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.contract.progress import Progress
from harness.errors import ModelError
from harness.model.batching import length_batches, padded, ranked_mask
from harness.model.blocks import Blocks
from harness.model.chat import Document
from harness.model.kl import Reference, compare
from harness.model.readout import Readout
from harness.model.taps import component_sites, tap

from .push import Astray, Pushes, pushed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from harness.model.subject import Subject

CE = {"ce question": "prompt", "ce trace": "think", "ce answer": "answer"}
"""Quantity -> segment of the token that is predicted."""


@dataclass(frozen=True)
class Sums:
    """Sums over each document's tokens.

    Attributes:
        at_rest: quantity -> of the adapter as it is, [document].
        n: quantity -> tokens of each document, [document].
    """

    at_rest: dict[str, Float[np.ndarray, " document"]]
    n: dict[str, Float[np.ndarray, " document"]]


@dataclass(frozen=True)
class Batch:
    """Documents that share a pass.

    Attributes:
        documents: index of each row's document.
        inputs: of the model.
        ranked: tokens that count as activating.
        response: tokens of the response: what a dose is added on.
        scalars: of the adapter as it is.
        hidden: last hidden states of the adapter as it is, of all tokens that have a next one: [position, hidden].
        places: row and token of each position.
        targets: the token that follows each.
    """

    documents: tuple[int, ...]
    inputs: dict[str, torch.Tensor]
    ranked: Bool[torch.Tensor, "row token"]
    response: Bool[torch.Tensor, "row token"]
    scalars: Float[torch.Tensor, "row token component"]
    hidden: Float[torch.Tensor, "position hidden"]
    places: Bool[torch.Tensor, "row token"]
    targets: Int[torch.Tensor, " position"]
    quantities: dict[str, Bool[torch.Tensor, " position"]]


class Text:
    """Documents, and what the adapter does on them as it is.

    Attributes:
        batches: documents in batches of similar length.
        sums: at rest.
    """

    @torch.no_grad()
    def __init__(
        self, subject: Subject, documents: Sequence[Document], events: Mapping[str, str], batch_tokens: int,
        progress: Progress,
    ) -> None:  # fmt: skip
        """Run the adapter as it is over the documents.

        Args:
            subject: an adapter on its base.
            documents: what to measure on.
            events: name -> regular expression that a token's text begins with.
            batch_tokens: tokens of a pass.
            progress: is told of batches read, and later of pushes measured.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read (see `Readout`).
        """
        if not subject.components:
            raise ModelError("there is no adapter to steer: the checkpoint is a base or a fully fine-tuned model")
        grouped = list(length_batches([len(d.ids) for d in documents], batch_tokens // 4))
        progress.start(len(grouped), "pass of the adapter as it is")
        self._subject, self._documents, self._batch_tokens, self._progress = subject, documents, batch_tokens, progress
        self._blocks, self._readout = Blocks(subject.model), Readout(subject.model)
        self._readout.check(subject.model, {"input_ids": torch.tensor([documents[0].ids[:8]], device=subject.device)})
        self._events = event_tokens(subject, events)
        self.batches = [self._batch(rows) for rows in grouped]
        names = ("kl", *CE, *(f"p {event}" for event in self._events))
        self.sums = Sums(*({name: np.zeros(len(documents)) for name in names} for _ in range(2)))
        for batch in self.batches:
            for chunk in self._readout.chunks(len(batch.hidden)):
                reference = Reference.of(self._readout.precise_logits(batch.hidden[chunk]))
                at_rest = partial(_of_tokens, reference.p)
                values = self._values(reference.cross_entropy(batch.targets[chunk]), at_rest)
                for name, value in values.items():
                    self._add(self.sums.at_rest[name], batch, name, chunk, value)
                for name in names:
                    self._add(self.sums.n[name], batch, name, chunk, torch.ones(len(batch.hidden[chunk])))
            progress.advance()

    def scalars(self) -> tuple[Float[torch.Tensor, "token component"], Bool[torch.Tensor, " token"]]:
        """The scalars of all tokens of all documents, and which tokens count."""
        kept = [
            (b.scalars[i, :n], b.ranked[i, :n])
            for b in self.batches
            for i, n in enumerate(b.inputs["attention_mask"].sum(1).tolist())
        ]
        return torch.cat([s for s, _ in kept]), torch.cat([r for _, r in kept])

    @torch.no_grad()
    def changes(self, batch: Batch, pushes: Sequence[Pushes], astray: Astray, into: Sequence[dict[str, Any]]) -> None:
        """Add each push's changes on a batch to its sums.

        Args:
            batch: documents.
            pushes: each over the batch's rows, `added` and `astray` of the batch's width.
            astray: random directions.
            into: of each push, quantity -> sums of the change, [document].

        Raises:
            ModelError: a KL is not finite.
        """
        B, T = batch.response.shape  # rows, tokens
        at_once = max(1, self._batch_tokens // (B * T))
        for start in range(0, len(pushes), at_once):
            some = pushes[start : start + at_once]
            inputs = {name: value.repeat(len(some), 1) for name, value in batch.inputs.items()}
            with pushed(self._subject, stacked(some), astray):
                hidden = self._blocks.run(inputs).split(B)
            steered = [h[batch.places.to(h.device)] for h in hidden]
            for chunk in self._readout.chunks(len(batch.hidden)):
                reference = Reference.of(self._readout.precise_logits(batch.hidden[chunk]))
                for h, sums in zip(steered, into[start : start + at_once], strict=True):
                    difference = self._readout.difference(batch.hidden[chunk], h[chunk])
                    self._change(reference, difference, batch, chunk, sums)
            self._progress.advance(len(some))

    def _change(
        self, reference: Reference, difference: torch.Tensor, batch: Batch, chunk: slice, sums: dict[str, Any]
    ) -> None:
        comparison = compare(reference, difference)
        if not bool(torch.isfinite(comparison.kl_nats).all()):
            raise ModelError(
                "the steered model's activations overflow: use smaller steer.doses, or model.dtype=float32"
            )

        def gained(ids: list[int]) -> torch.Tensor:
            # the KL is also log E_p[exp(centred)]: what normalises the steered distribution
            return reference.p[:, ids] * torch.expm1(comparison.centred[:, ids] - comparison.kl_nats[:, None])

        values = self._values(comparison.cross_entropy_change(batch.targets[chunk]), gained)
        for name, value in {"kl": comparison.kl_nats, **values}.items():
            self._add(sums[name], batch, name, chunk, value)

    def _values(self, ce: torch.Tensor, p_of: Callable[[list[int]], torch.Tensor]) -> dict[str, torch.Tensor]:
        """Each quantity's value at each position: the cross-entropy, and probabilities summed over events' tokens.

        Only these tokens' probabilities are worked out: an event has few of the vocabulary.
        """
        events = {f"p {event}": p_of(ids).sum(1) for event, ids in self._events.items()}
        return {**dict.fromkeys(CE, ce), **events}

    def _add(self, sums: np.ndarray, batch: Batch, name: str, chunk: slice, values: torch.Tensor) -> None:
        counted = batch.quantities[name if name in CE else "response"][chunk]
        rows = batch.places.nonzero()[:, 0][chunk][counted]
        of = torch.tensor(batch.documents)[rows].numpy()
        np.add.at(sums, of, values.double().cpu()[counted].numpy())

    def _batch(self, rows: Sequence[int]) -> Batch:
        chosen = [self._documents[i] for i in rows]
        inputs = padded(chosen, self._subject.tokenizer, self._subject.device)
        with tap(self._subject.model, component_sites(self._subject.components)) as reading:
            hidden = self._blocks.run(inputs)
            scalars = reading.values().cpu()
        T = hidden.shape[1]  # tokens
        segments = np.array([[*d.segments, *[""] * (T - len(d.ids))] for d in chosen])
        places = torch.tensor([[i + 1 < len(d.ids) for i in range(T)] for d in chosen])
        after = np.roll(segments, -1, axis=1)
        response = torch.from_numpy(np.isin(segments, ["think", "answer"]))
        quantities = {name: torch.from_numpy(after == segment)[places] for name, segment in CE.items()}
        ids = inputs["input_ids"]
        where = places.to(ids.device)
        return Batch(
            documents=tuple(rows), inputs=inputs, ranked=ranked_mask(chosen, T), response=response, scalars=scalars,
            hidden=hidden[where], places=places, targets=ids.roll(-1, 1)[where],
            quantities={**quantities, "response": response[places]},
        )  # fmt: skip


def stacked(pushes: Sequence[Pushes]) -> Pushes:
    """Several pushes' rows one below the other."""

    def joined(name: str) -> torch.Tensor | None:
        parts = [getattr(push, name) for push in pushes]
        like = next((part for part in parts if part is not None), None)
        if like is None:
            return None
        return torch.cat([torch.zeros_like(like) if part is None else part for part in parts])

    return Pushes(torch.cat([push.gains for push in pushes]), joined("added"), joined("astray"))


def event_tokens(subject: Subject, events: Mapping[str, str]) -> dict[str, list[int]]:
    """Event -> the tokens whose text, without the space before it, begins one; and the end of the trace."""
    vocabulary = min(len(subject.tokenizer), subject.model.get_output_embeddings().weight.shape[0])
    texts = [str(subject.tokenizer.decode([i])).strip() for i in range(vocabulary)]
    found = {name: [i for i, t in enumerate(texts) if re.match(pattern, t)] for name, pattern in events.items()}
    header = subject.chat.own_marks.answer_header
    ends = subject.tokenizer(header, add_special_tokens=False)["input_ids"][:1] if header else []
    return {name: ids for name, ids in {**found, "end of trace": ends}.items() if ids}


def cut(document: Document, n: int) -> Document:
    """Its first tokens."""
    kept = {name: getattr(document, name)[:n] for name in ("ids", "offsets", "segments", "ranked")}
    return replace(document, **kept)


def _of_tokens(p: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """[token, id] columns of probabilities [token, vocab]."""
    return p[:, ids]
