"""KL(full ‖ ablated) and cross-entropy per document and segment, over fixed text.

An ablation whose first component is in layer l changes nothing before layer l, so the hidden states that enter it are
stored and only layers l and up run again. The sweep goes up the layers, so one hidden state per token is stored, for
any number of layers. Logits (vocabulary-sized) exist only for a chunk of positions. All ablations of a layer share the
full adapter's; an ablation's are the difference of two hidden states through the output matrix.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harness.errors import ModelError
from harness.model.blocks import Blocks, Inputs
from harness.model.components import Component
from harness.model.in_place import InPlace
from harness.model.kl import Comparison, Reference, compare
from harness.model.readout import Readout
from harness.model.taps import component_sites, tap
from harness.records.segments import SEGMENTS, places

from .cells import Cell
from .documents import Batch, Texts

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from harness.model.subject import Subject

    from .config import KLConfig

_CELLS_AT_ONCE = 16
"""Ablations whose hidden states are held together, so that they share the full adapter's distributions."""


@dataclass(frozen=True)
class KLSums:
    """Sums of one ablation over the tokens of each document, in float64.

    Attributes:
        kl_nats: KL(full ‖ ablated), [document, segment].
        ce_change_nats: rise of the cross-entropy of the next token, over the headline's tokens, [document].
    """

    kl_nats: Float[np.ndarray, "document segment"]
    ce_change_nats: Float[np.ndarray, " document"]


@dataclass(frozen=True)
class ReplaceScalars:
    """Edit of a tap: set the components that are off in a row of the batch to `to`.

    Attributes:
        off: which components, for each row.
        to: what they are set to.
    """

    off: Bool[torch.Tensor, "row component"]
    to: Float[torch.Tensor, " component"]

    def __call__(self, values: torch.Tensor, columns: slice) -> torch.Tensor:
        """Replace one site's values."""
        return torch.where(self.off[:, None, columns], self.to[columns].to(values.dtype), values)


@dataclass(frozen=True)
class Share:
    """Cells that are measured together.

    Attributes:
        layer: the layer whose entering hidden states their passes begin with.
        cells: what to switch off, one at a time.
        first: whether they are the layer's first, with which its null floor is measured.
    """

    layer: int
    cells: tuple[Cell, ...]
    first: bool


def shares(cells: Sequence[Cell], *, reuses: bool, rows: int, n_workers: int = 1) -> list[Share]:
    """The cells in the order of the sweep, by the first layer that they change.

    Smaller shares for several workers change no number: the cells that share a pass stay together.

    Args:
        cells: what to switch off.
        reuses: whether passes begin at the first layer that changes.
        rows: cells that share a pass.
        n_workers: workers that measure them; at least four shares for each keep all of them busy to the end.
    """
    size = min(_CELLS_AT_ONCE, rows * max(1, len(cells) // (4 * n_workers * rows))) if n_workers > 1 else _CELLS_AT_ONCE
    starts: dict[int, list[Cell]] = defaultdict(list)
    for cell in cells:
        starts[cell.first_layer if reuses else 0].append(cell)
    parts = []
    for layer in sorted(starts):
        for i in range(0, len(starts[layer]), _CELLS_AT_ONCE):
            together = starts[layer][i : i + _CELLS_AT_ONCE]
            for j in range(0, len(together), size):
                parts.append(Share(layer, tuple(together[j : j + size]), first=i + j == 0))
    return parts


class Divergence:
    """Ablations of an adapter against the full adapter, on the same documents.

    Attributes:
        model: the subject's model.
        texts: the documents.
        prefix_reuse_error: why passes cannot begin at the first layer that changes; None where they can.
        engine: how the numbers are made, for the record: prefix reuse or whole passes, and the dtype.
        ce_full_nats: cross-entropy of the full adapter, sum over the headline's tokens with a next one: [document].
        to: component -> what switching it off sets it to; 0 where it is not named.
        floors_nats: layer -> KL per token of the headline that rounding noise entering it makes; filled by the sweep.
    """

    def __init__(self, subject: Subject, texts: Texts, config: KLConfig, seed: int) -> None:
        """Run the full adapter over the documents once.

        Args:
            subject: an adapter on its base.
            texts: the documents.
            config: mode, batching, null floor.
            seed: of the null floor's noise.

        Raises:
            ModelError: the subject has no adapter, or its logits cannot be read (see Readout).
        """
        if not subject.components:
            raise ModelError("there is no adapter to ablate: the checkpoint is a base or a fully fine-tuned model")
        self.model: Any = subject.model
        self._subject, self._rows = subject, config.ablations_per_batch
        self._floor_documents, self._seed = config.floor_documents, seed
        self.texts = texts.on(subject.device)
        self.blocks, self.readout = Blocks(subject.model), Readout(subject.model)
        in_place = config.numerics == "in-place"
        self._numerics = InPlace(self.model, subject.components) if in_place else nullcontext()
        self._reached: tuple[int, list[torch.Tensor]] | None = None
        self._full = [self._hidden(b) for b in self.texts.batches]
        self._refuse_broken_model()
        short = {name: value[:1, :8] for name, value in self.texts.batches[0].inputs.items()}
        self.readout.check(subject.model, short)
        self.prefix_reuse_error = self.blocks.prefix_reuse_error(short)
        self.reuses = self.prefix_reuse_error is None
        dtype = str(next(self.blocks.backbone.parameters()).dtype).removeprefix("torch.")
        self.engine = f"{'prefix reuse' if self.reuses else 'whole passes'}, {config.numerics}, {dtype}"
        self.ce_full_nats = self._cross_entropy()
        self.floors_nats: dict[int, float] = {}
        self.to: dict[str, float] = self._means() if config.mode == "mean" else {}

    @property
    def n_tokens(self) -> tuple[int, ...]:
        """Tokens of each document that count."""
        return tuple(self.texts.n_tokens.sum(1).tolist())

    def sweep(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, KLSums]]:
        """Every cell's sums, by the first layer that the cells change.

        Raises:
            ModelError: a KL is not finite.
        """
        for share in shares(cells, reuses=self.reuses, rows=self._rows):
            yield from zip(share.cells, self.measure(share), strict=True)

    @torch.no_grad()
    def measure(self, share: Share) -> list[KLSums]:
        """The sums of each of the share's cells.

        The hidden states that enter its layer are kept, for a share of the same layer or one above it.

        Raises:
            ModelError: a KL is not finite.
        """
        entering = self._climb(share.layer) if self.reuses else [None] * len(self.texts.batches)
        if share.first:
            self._measure_floor(share.layer, entering)
        return self._measure(share.cells, share.layer, entering)

    def _climb(self, layer: int) -> Sequence[torch.Tensor]:
        """Each batch's hidden states entering a layer, from those of the layer where the last climb ended."""
        at, states = self._reached or (0, [self.blocks.entering(b.inputs) for b in self.texts.batches])
        if layer < at:
            self._reached = None
            return self._climb(layer)
        for block in range(at, layer):
            with self._numerics:
                pairs = zip(self.texts.batches, states, strict=True)
                states = [self.blocks.step(b.inputs, block, h) for b, h in pairs]
        self._reached = layer, states
        return states

    def _compare(self, full: torch.Tensor, others: Sequence[torch.Tensor]) -> Iterator[tuple[int, slice, Comparison]]:
        """Chunk by chunk of tokens: (which of the others, the chunk, how it compares with the full adapter)."""
        for chunk in self.readout.chunks(len(full)):
            reference = Reference.of(self.readout.precise_logits(full[chunk]))
            for which, other in enumerate(others):
                yield which, chunk, compare(reference, self.readout.difference(full[chunk], other[chunk]))

    def _measure(self, cells: Sequence[Cell], layer: int, entering: Sequence[torch.Tensor | None]) -> list[KLSums]:
        D, S = self.texts.n_tokens.shape  # documents, segments
        kl = np.zeros((len(cells), D * S))
        ce = np.zeros((len(cells), D * S))
        for index, (batch, state) in enumerate(zip(self.texts.batches, entering, strict=True)):
            hidden = [
                h[batch.mask]
                for i in range(0, len(cells), self._rows)
                for h in self._ablated(cells[i : i + self._rows], batch, layer, state)
            ]
            for which, chunk, comparison in self._compare(self._full[index][batch.mask], hidden):
                bins, has = batch.bins[chunk], batch.has_target[chunk]
                change = comparison.cross_entropy_change(batch.targets[chunk])[has]
                kl[which] += _binned(comparison.kl_nats, bins, D * S)
                ce[which] += _binned(change, bins[has], D * S)
        self._refuse_not_finite(cells, kl.reshape(len(cells), D, S))
        return [KLSums(k.reshape(D, S), c.reshape(D, S)[:, places()].sum(1)) for k, c in zip(kl, ce, strict=True)]

    def _measure_floor(self, layer: int, entering: Sequence[torch.Tensor | None]) -> None:
        """KL when every number that enters the layer moves to a neighbour, up or down at random."""
        generator = torch.Generator().manual_seed(self._seed * 1009 + layer)
        left, total, n = self._floor_documents, 0.0, 0
        for batch, state, full in zip(self.texts.batches, entering, self._full, strict=True):
            rows = slice(0, left)
            left -= len(batch.documents[rows])
            if state is None or not batch.documents[rows]:
                continue
            up = torch.rand(state[rows].shape, generator=generator).to(state.device) < 0.5
            where = torch.where(up, torch.inf, -torch.inf).to(state.dtype)
            inputs = {k: v[rows] for k, v in batch.inputs.items()}
            with self._numerics:
                noisy = self.blocks.run(inputs, layer, torch.nextafter(state[rows], where))
            headline = batch.headline[rows]
            for _, _, comparison in self._compare(full[rows][headline], [noisy[headline]]):
                total += float(comparison.kl_nats.double().sum())
                n += len(comparison.kl_nats)
        if n:
            self.floors_nats[layer] = total / n

    def _ablated(
        self, cells: Sequence[Cell], batch: Batch, layer: int, entering: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Last hidden states of each cell, from one forward pass in which every cell has its own rows."""
        n, rows = len(cells), len(batch.documents)
        inputs: Inputs = {k: v.repeat(n, 1) for k, v in batch.inputs.items()} if n > 1 else batch.inputs
        state = entering.repeat(n, 1, 1) if entering is not None and n > 1 else entering
        with self._numerics, self.switched_off([cell.off for cell in cells], rows):
            hidden = self.blocks.run(inputs, layer if entering is not None else 0, state)
        return list(hidden.split(rows))

    def switched_off(self, off: Sequence[Sequence[Component]], rows_each: int) -> AbstractContextManager[Any]:
        """A tap on the modules concerned: the components `off[i]` are off in the i-th `rows_each` rows."""
        modules = {c.module for some in off for c in some}
        near = [c for c in self._subject.components if c.module in modules]
        names = [{c.name for c in some} for some in off]
        device = self._subject.device
        which = torch.tensor([[c.name in row for c in near] for row in names], device=device)
        to = torch.tensor([self.to.get(c.name, 0.0) for c in near], device=device)
        edit = ReplaceScalars(which.repeat_interleave(rows_each, 0), to)
        return tap(self._subject.model, component_sites(near), edit, read=False)

    @torch.no_grad()
    def _hidden(self, batch: Batch) -> torch.Tensor:
        with self._numerics:
            return self.blocks.run(batch.inputs)

    @torch.no_grad()
    def _cross_entropy(self) -> Float[np.ndarray, " document"]:
        D, S = self.texts.n_tokens.shape
        total = np.zeros(D * S)
        for batch, hidden in zip(self.texts.batches, self._full, strict=True):
            full = hidden[batch.mask]
            for chunk in self.readout.chunks(len(full)):
                has = batch.has_target[chunk]
                reference = Reference.of(self.readout.precise_logits(full[chunk]))
                total += _binned(reference.cross_entropy(batch.targets[chunk])[has], batch.bins[chunk][has], D * S)
        return total.reshape(D, S)[:, places()].sum(1)

    @torch.no_grad()
    def _means(self) -> dict[str, float]:
        """Mean of each component over the tokens that count."""
        components = self._subject.components
        total = torch.zeros(len(components), dtype=torch.float64, device=self._subject.device)
        for batch in self.texts.batches:
            with tap(self._subject.model, component_sites(components)) as reading:
                self._hidden(batch)
            total += (reading.values().double() * batch.mask.unsqueeze(-1)).sum((0, 1))
        means = total / int(self.texts.n_tokens.sum())
        return {c.name: float(means[i]) for i, c in enumerate(components)}

    def _refuse_broken_model(self) -> None:
        for batch, hidden in zip(self.texts.batches, self._full, strict=True):
            for row, index in enumerate(batch.documents):
                if not bool(torch.isfinite(hidden[row][batch.mask[row]]).all()):
                    raise ModelError(
                        f"the model's hidden states are not finite in document {self.texts.ids[index]!r}, with nothing "
                        "switched off: a weight is not a number, or the dtype overflows (--set model.dtype=float32)"
                    )

    def _refuse_not_finite(self, cells: Sequence[Cell], kl: np.ndarray) -> None:
        bad = np.argwhere(~np.isfinite(kl))
        if len(bad):
            cell, document, segment = bad[0]
            raise ModelError(
                f"KL is not finite with {cells[cell].item} switched off, in document {self.texts.ids[document]!r} "
                f"({SEGMENTS[segment]}): activations overflow there (--set model.dtype=float32 has more room)"
            )


def _binned(values: torch.Tensor, bins: torch.Tensor, n: int) -> np.ndarray:
    """KLSums per bin, in float64."""
    return np.bincount(bins.cpu().numpy(), weights=values.double().cpu().numpy(), minlength=n)
