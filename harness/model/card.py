"""What an adapter's weights alone say: norms, spectra, overlaps, promoted tokens and signs of faults in training.

Nothing runs through a model. Of the base the config, the final norm and the output matrix are read, no block. Norms are
of what the adapter adds to a weight, scaling * B A; nothing says how large the inputs are that it meets.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import ModelError
from harness.model.attach import attach_lora
from harness.model.components import Component, Directions, directions, find_components
from harness.model.lens import Lens, cosine_p_value, decoded, skeleton, unread_reason
from harness.model.lora_folder import PLAIN_INITS, load_lora

if TYPE_CHECKING:
    from jaxtyping import Float

    from harness.model.subject import Subject

DOMINATES = 0.5
"""Share of the adapter's squared norm above which a module dominates; of 4 modules at least."""
OUTLIER = 10.0
"""Times the median norm of its projection above which a module is an outlier; of 4 layers at least."""
IDLE = 1e-3
"""Share of the module's largest singular value below which a rank is idle."""
FEWEST = 4
"""Modules from which a share or a median says something."""


@dataclass(frozen=True)
class ModuleRow:
    """An adapted matrix.

    `norm` is the Frobenius norm of scaling * B A, `share` its square over the adapter's, `spectrum` the singular values
    of scaling * B A, largest first, and `effective_rank` their participation ratio: (sum s^2)^2 / sum s^4.
    """

    module: str
    layer: int | None
    projection: str
    rank: int
    norm: float | None
    share: float | None
    spectrum: tuple[float, ...]
    effective_rank: float | None
    scaling: float
    reason: str | None = None


@dataclass(frozen=True)
class GroupRow:
    """All modules of a projection or a layer; norms add as squares. `largest` is the module with the largest norm."""

    scope: str
    name: str
    n_modules: int
    norm: float
    share: float
    median_norm: float
    largest: str
    largest_norm: float


@dataclass(frozen=True)
class PromotedRow:
    """One of the largest components that write into the residual stream, with the tokens that its b promotes.

    They are those of a positive scalar. `raised` and `lowered` are changes of logits per unit of the scalar, for a
    stream of RMS 1; `p_promoted` is the share of `n_null` random directions of b's norm with 10 tokens as strong.
    """

    component: str
    norm: float
    share: float
    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()
    raised: tuple[float, ...] = ()
    lowered: tuple[float, ...] = ()
    p_promoted: float | None = None
    p_suppressed: float | None = None
    n_null: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class OverlapRow:
    """Cosines between vectors of two projections that lie in the residual stream.

    `what` is `reads` (a with a), `writes` (b with b) or `feeds` (b with the a of a later layer, or of the MLP of the
    same one). The norm between them is not read, so its gain is left out. `expected` is the mean |cosine| of random
    directions; `p` is of the largest, times the number of pairs (Bonferroni).
    """

    what: str
    first: str
    second: str
    n_pairs: int
    mean_cosine: float
    expected: float
    largest: float
    largest_pair: str
    p: float


@dataclass(frozen=True)
class OtherRow:
    """A module that two adapters share.

    `weight_cosine` is that of their scaling * B A; `weight_null` is its root mean square where one of them is turned at
    random: the mean of <X, U Y V>^2 over rotations U, V is |X|^2 |Y|^2 / (d_out d_in). `read_overlap` and
    `write_overlap` are the mean squared cosines of the principal angles between the spaces that they read and write;
    random ones have `read_null` and `write_null`.
    """

    module: str
    weight_cosine: float | None
    weight_null: float
    read_overlap: float | None
    read_null: float
    write_overlap: float | None
    write_null: float
    norm_ratio: float | None
    reason: str | None = None


@dataclass(frozen=True)
class FaultRow:
    """A sign of a fault in training, with the threshold that it passed."""

    sign: str
    where: str
    value: float | None
    threshold: str
    meaning: str


@dataclass(frozen=True)
class Card:
    """All tables of an adapter; `other` is empty without another adapter."""

    faults: tuple[FaultRow, ...]
    projections: tuple[GroupRow, ...]
    layers: tuple[GroupRow, ...]
    modules: tuple[ModuleRow, ...]
    promoted: tuple[PromotedRow, ...]
    overlaps: tuple[OverlapRow, ...]
    other: tuple[OtherRow, ...] = ()


@dataclass(frozen=True)
class Adapter:
    """An adapter on a base without weights.

    Attributes:
        model: the PEFT model; the base's parameters are on the meta device.
        components: its scalar channels.
        vectors: their a and b.
        broken: modules with numbers that are not finite, which count as 0 -> which tensor.
    """

    model: Any
    components: tuple[Component, ...]
    vectors: tuple[Directions, ...]
    broken: dict[str, str]

    @classmethod
    def of(cls, subject: Subject) -> Adapter:
        """An adapter that is loaded on its base; its vectors stay when the subject goes."""
        vectors = (directions(subject.model, c) for c in subject.components)
        on_cpu = tuple(Directions(a=v.a.cpu(), b=v.b.cpu()) for v in vectors)
        return cls(subject.model, subject.components, on_cpu, {})

    @classmethod
    def read(cls, path: Path, base: str) -> Adapter:
        """Read an adapter's folder.

        Raises:
            ModelError: it is no plain LoRA, or does not fit the base.
        """
        lora = load_lora(path, finite=False)
        if lora.config.init_lora_weights not in PLAIN_INITS:
            raise ModelError(
                f"the adapter {path} was made with init_lora_weights={lora.config.init_lora_weights!r}: what it "
                "changes cannot be told without the base's weights; take it in with the plugin pretrained-adapter first"
            )
        broken = {n.rpartition(".lora_")[0]: n for n, t in lora.tensors.items() if not bool(t.isfinite().all())}
        finite = {n: torch.zeros_like(t) if n.rpartition(".lora_")[0] in broken else t for n, t in lora.tensors.items()}
        model = attach_lora(skeleton(base), replace(lora, tensors=finite), str(path))
        components = find_components(model)
        return cls(model, components, tuple(directions(model, c) for c in components), broken)

    def modules(self) -> dict[str, list[int]]:
        """Module -> indices of its components."""
        found: dict[str, list[int]] = defaultdict(list)
        for i, c in enumerate(self.components):
            found[c.module].append(i)
        return dict(found)


def size(component: Component) -> float:
    """Frobenius norm of what a component adds to its weight: a singular value of scaling * B A."""
    return component.write_norm * component.a_norm


def make_card(
    adapter: Path, base: str, other: Path | None = None, *, n_components: int = 16, n_null: int = 200, seed: int = 0,
    tokenizer: Any = None,
) -> Card:  # fmt: skip
    """The card of an adapter.

    Args:
        adapter: its folder.
        base: folder of the model that it was trained on.
        other: another adapter on the same base, to compare with.
        n_components: how many of the largest components are read through the output matrix.
        n_null: random directions that their tokens are held against.
        seed: of these.
        tokenizer: the base's; without it tokens are shown as their ids.

    Raises:
        ModelError: a folder cannot be read, or the adapter does not fit the base.
    """
    read = Adapter.read(adapter, base)
    modules = tuple(_module_rows(read))
    healthy = [m for m in modules if m.norm is not None]
    return Card(
        faults=tuple(faults(read, modules)),
        projections=tuple(_groups("projection", healthy, lambda m: m.projection)),
        layers=tuple(_groups("layer", healthy, lambda m: "outside" if m.layer is None else f"L{m.layer}")),
        modules=modules,
        promoted=tuple(_promoted(read, base, n_components, n_null, seed, tokenizer)),
        overlaps=tuple(overlaps(read)),
        other=tuple(compared(read, Adapter.read(other, base))) if other else (),
    )


def faults(adapter: Adapter, modules: Sequence[ModuleRow]) -> Iterable[FaultRow]:
    """The signs of faults, worst first."""
    for module, tensor in adapter.broken.items():
        yield FaultRow("not finite", module, None, "any", f"{tensor} holds NaN or infinity: training overflowed")
    whole = [m for m in modules if m.norm is not None]
    vectors = {adapter.components[i].module: i for i in range(len(adapter.components))}
    for m in whole:
        if m.norm == 0:
            c = adapter.components[vectors[m.module]]
            zero = "scaling" if c.scaling == 0 else "lora_B" if _zero(adapter, m.module, "lora_B") else "lora_A"
            yield FaultRow(f"zero {zero}", m.module, 0.0, "= 0", "the module changes nothing: it was not trained")
    for m in whole:
        if m.share is not None and len(whole) >= FEWEST and m.share > DOMINATES:
            yield FaultRow("dominates", m.module, m.share, f"> {DOMINATES:g}", "share of the adapter's squared norm")
    by_projection: dict[str, list[ModuleRow]] = defaultdict(list)
    for m in whole:
        by_projection[m.projection].append(m)
    for alike in by_projection.values():
        median = statistics.median(m.norm or 0.0 for m in alike)
        for m in alike:
            if len(alike) >= FEWEST and median > 0 and (ratio := (m.norm or 0.0) / median) > OUTLIER:
                yield FaultRow("outlier", m.module, ratio, f"> {OUTLIER:g}", "norm over the median of its projection")
    for m in whole:
        idle = sum(s <= IDLE * m.spectrum[0] for s in m.spectrum) if m.norm else 0
        if idle:
            meaning = f"ranks of {m.rank} whose singular value is that small a share of the largest"
            yield FaultRow("idle ranks", m.module, float(idle), f"<= {IDLE:g}", meaning)


def _zero(adapter: Adapter, module: str, which: str) -> bool:
    part = getattr(adapter.model.get_submodule(module), which)[adapter.components[0].adapter]
    return not bool(part.weight.any())


def _module_rows(adapter: Adapter) -> Iterable[ModuleRow]:
    total = sum(size(c) ** 2 for c in adapter.components)
    for module, indices in adapter.modules().items():
        first = adapter.components[indices[0]]
        spectrum = tuple(sorted((size(adapter.components[i]) for i in indices), reverse=True))
        squared, fourth = sum(s**2 for s in spectrum), sum(s**4 for s in spectrum)
        what = (module, first.layer, first.projection, first.rank)
        if module in adapter.broken:
            yield ModuleRow(*what, None, None, (), None, first.scaling, f"{adapter.broken[module]} is not finite")
        else:
            rank = squared**2 / fourth if fourth else None
            share = squared / total if total else None
            reason = None if squared else "it changes nothing"
            yield ModuleRow(*what, math.sqrt(squared), share, spectrum, rank, first.scaling, reason)


def _groups(scope: str, modules: Sequence[ModuleRow], name: Callable[[ModuleRow], str]) -> Iterable[GroupRow]:
    parts: dict[str, list[tuple[float, ModuleRow]]] = defaultdict(list)
    for m in modules:
        parts[name(m)].append((m.norm or 0.0, m))
    total = sum(norm**2 for part in parts.values() for norm, _ in part)
    for key, part in parts.items():
        norms = [norm for norm, _ in part]
        squared = sum(n**2 for n in norms)
        largest = max(part, key=lambda one: one[0])
        yield GroupRow(
            scope, key, len(part), math.sqrt(squared), squared / total if total else 0.0, statistics.median(norms),
            f"L{largest[1].layer}.{largest[1].projection}", largest[0],
        )  # fmt: skip


def _promoted(adapter: Adapter, base: str, n: int, n_null: int, seed: int, tokenizer: Any) -> Iterable[PromotedRow]:
    """The largest components that write into the residual stream; where none does, the largest with the reason."""
    order = sorted(range(len(adapter.components)), key=lambda i: -size(adapter.components[i]))
    why = {i: unread_reason(adapter.components[i], adapter.model) for i in order}
    live = [i for i in order if size(adapter.components[i]) > 0]
    read = [i for i in live if why[i] is None][:n]
    total = sum(size(c) ** 2 for c in adapter.components)
    if not read:
        for i in live[:n]:
            c = adapter.components[i]
            yield PromotedRow(c.name, size(c), size(c) ** 2 / total, reason=why[i])
        return
    lens = Lens.of_folder(adapter.model.get_base_model(), Path(base))
    written = torch.stack([adapter.components[i].scaling * adapter.vectors[i].b for i in read])

    def words(ids: Sequence[int]) -> tuple[str, ...]:
        return tuple(map(str, ids)) if tokenizer is None else decoded(tokenizer, ids)

    for i, found in zip(read, lens.tokens(written, n_null=n_null, seed=seed), strict=True):
        c = adapter.components[i]
        yield PromotedRow(
            component=c.name,
            norm=size(c),
            share=size(c) ** 2 / total,
            promoted=words(found.promoted),
            suppressed=words(found.suppressed),
            raised=found.raised,
            lowered=found.lowered,
            p_promoted=found.p_promoted,
            p_suppressed=found.p_suppressed,
            n_null=found.n_null,
        )


def overlaps(adapter: Adapter) -> Iterable[OverlapRow]:
    """Cosines of reads, of writes, and of writes with later reads, by pair of projections."""
    hidden = adapter.model.config.get_text_config().hidden_size
    live = [i for i, c in enumerate(adapter.components) if size(c) > 0 and c.layer is not None]
    writers = [i for i in live if unread_reason(adapter.components[i], adapter.model) is None]
    # What writes into the stream reads the inside of its block, whatever its width.
    readers = [i for i in live if i not in set(writers) and len(adapter.vectors[i].a) == hidden]
    a = _units([adapter.vectors[i].a for i in readers], hidden)
    b = _units([adapter.vectors[i].b for i in writers], hidden)
    yield from _by_projection("reads", adapter, readers, readers, a @ a.T, lambda i, j: i < j)
    yield from _by_projection("writes", adapter, writers, writers, b @ b.T, lambda i, j: i < j)

    def later(i: int, j: int) -> bool:
        first, second = adapter.components[i], adapter.components[j]
        within = first.block == "attention" and second.block == "mlp"
        return (second.layer or 0) > (first.layer or 0) or (second.layer == first.layer and within)

    yield from _by_projection("feeds", adapter, writers, readers, b @ a.T, later)


def _units(vectors: Sequence[torch.Tensor], hidden: int) -> Float[torch.Tensor, "n hidden"]:
    stacked = torch.stack(list(vectors)) if vectors else torch.zeros(0, hidden)
    return torch.nn.functional.normalize(stacked, dim=-1)


def _by_projection(
    what: str, adapter: Adapter, first: Sequence[int], second: Sequence[int], cosines: torch.Tensor,
    counts: Callable[[int, int], bool],
) -> Iterable[OverlapRow]:  # fmt: skip
    pairs: dict[tuple[str, str], list[tuple[float, int, int]]] = defaultdict(list)
    components, values = adapter.components, cosines.tolist()
    for row, i in enumerate(first):
        for column, j in enumerate(second):
            same_module = components[i].module == components[j].module  # orthogonal by their gauge
            if counts(i, j) and not same_module:
                pairs[components[i].projection, components[j].projection].append((values[row][column], i, j))
    hidden = adapter.model.config.get_text_config().hidden_size
    for (one, two), found in pairs.items():
        cosine, i, j = max(found, key=lambda pair: abs(pair[0]))
        absolute = [abs(c) for c, _, _ in found]
        yield OverlapRow(
            what=what,
            first=one,
            second=two,
            n_pairs=len(found),
            mean_cosine=sum(absolute) / len(absolute),
            expected=math.sqrt(2 / (math.pi * hidden)),
            largest=cosine,
            largest_pair=f"{components[i].name} {components[j].name}",
            p=min(1.0, len(found) * cosine_p_value(cosine, hidden)),
        )


def compared(adapter: Adapter, other: Adapter) -> Iterable[OtherRow]:
    """The modules that two adapters share.

    Raises:
        ModelError: they share none.
    """
    ours, theirs = adapter.modules(), other.modules()
    shared = [module for module in ours if module in theirs]
    if not shared:
        raise ModelError("the two adapters adapt no module in common: there is nothing to compare")
    for module in shared:
        a, b = _factors(adapter, ours[module]), _factors(other, theirs[module])
        widest = max(len(ours[module]), len(theirs[module]))
        nulls = widest / a[0].shape[1], widest / a[1].shape[0]
        turned = (a[0].shape[1] * a[1].shape[0]) ** -0.5
        norms = [math.sqrt(max(0.0, _inner(x, x))) for x in (a, b)]
        if module in adapter.broken or module in other.broken or not all(norms):
            reason = "one of the two changes nothing there, or holds numbers that are not finite"
            yield OtherRow(module, None, turned, None, nulls[0], None, nulls[1], None, reason)
        else:
            cosine = _inner(a, b) / (norms[0] * norms[1])
            reads, writes = _overlap(a[0].T, b[0].T), _overlap(a[1], b[1])
            yield OtherRow(module, cosine, turned, reads, nulls[0], writes, nulls[1], norms[1] / norms[0])


def _factors(adapter: Adapter, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """A [rank, d_in] and scaling * B [d_out, rank] of a module, float64, of the ranks that change something."""
    live = [i for i in indices if size(adapter.components[i]) > 0] or indices[:1]
    a = torch.stack([adapter.vectors[i].a for i in live]).double()
    return a, torch.stack([adapter.components[i].scaling * adapter.vectors[i].b for i in live], 1).double()


def _inner(first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]) -> float:
    """<B1 A1, B2 A2> = tr(A2 A1' B1' B2), without multiplying the weights out."""
    return float(((first[0] @ second[0].T) * (first[1].T @ second[1])).sum())


def _overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    """Mean squared cosine of the principal angles between two spaces of columns (Bjorck and Golub 1973)."""
    cosines = torch.linalg.svdvals(torch.linalg.qr(first).Q.T @ torch.linalg.qr(second).Q)
    return float((cosines.clamp(max=1) ** 2).mean())
