"""The implementation of `steer`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness.contract.settings import OF_TRACES
from harness.contract.stages import Ablation
from harness.records import EvaluationResult, Sample, SteeringEffect, Trace
from harness.stats import Undefined, paired_t, ratio_over_documents

from ..documents import choose as choose_traces
from . import SteerConfig
from .features import Steered, choose, latents_of, unrelated
from .push import Astray, Pushes, RowPushes
from .text import CE, Batch, Text, cut

if TYPE_CHECKING:
    from harness.model.subject import Subject

ITSELF = "itself"
Where = Literal["text", "generated"]


@dataclass(frozen=True)
class Point:
    """One push of one feature, or a control of it.

    Attributes:
        push: gain or dose.
        size: how much.
        control: `itself` or the control's name.
        feature: what is pushed: the feature, or the one that is its control.
        unit: standard deviation of `feature`, for doses.
    """

    push: Literal["gain", "dose"]
    size: float
    control: str
    feature: Steered
    unit: float

    @property
    def name(self) -> str:
        """Within the feature's records."""
        return f"{self.push} {self.size:g}/{self.control}"


@dataclass(frozen=True)
class Measured:
    """A quantity of one push: sums of the change and weights of each document (or item), and the sums at rest."""

    change: np.ndarray
    n: np.ndarray
    at_rest: np.ndarray


class Steer(Ablation):
    """Dose-response of features, beside controls."""

    def __init__(self, config: SteerConfig) -> None:
        self.config = config

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[SteeringEffect]:
        """Yield every feature's records, in text and then in generated answers; skip items in `run.done`.

        Raises:
            ModelError: the subject has no adapter, its logits cannot be read, or activations overflow.
            UnknownName: a setting names a feature that there is not.
        """
        generator, config = run.generator(), self.config
        chosen = choose_traces(traces, config.n_documents, generator)
        documents = [cut(subject.chat.document(subject.tokenizer, t), config.max_tokens) for t in chosen]
        text = Text(subject, documents, config.events, config.batch_tokens, run.progress)
        scalars, ranked = text.scalars()
        latents = latents_of(run.made, subject.components)
        alive = {name: _alive(one.codec, scalars, ranked) for name, one in latents.items()}
        std = scalars[ranked].double().std(0).float()
        features = choose(config, run.made, subject.components, latents, std)
        names = [f.name for f in features]
        astray = Astray(subject, generator)
        benchmark = config.benchmark or next((b for b in run.evaluate.benchmarks if b not in OF_TRACES), None)
        answers = Answers(subject, astray, config, run, benchmark) if benchmark and config.items else None
        for feature in features:
            other = unrelated(
                feature, names, subject.components, latents, alive.get(feature.name.rpartition("/")[0], ()), generator
            )
            curve = Curve(feature, other, scalars, ranked, config)
            counted = [name for name, n in text.sums.n.items() if n.sum()]
            wanted = {curve.item("text", p, q) for p in curve.points for q in counted}
            if not wanted <= run.done:
                run.progress.start(len(text.batches) * len(curve.points), "push in text")
                measured = dict(zip(curve.points, _in_text(text, curve, astray, run), strict=True))
                yield from (r for r in curve.records("text", measured, run.seed) if r.item not in run.done)
            if answers is not None and curve.written:
                wanted = {curve.item("generated", p, q) for p in curve.written for q in answers.rest}
                if not wanted <= run.done:
                    run.progress.start(len(curve.written), "push in answers")
                    written = answers.measure(curve)
                    yield from (r for r in curve.records("generated", written, run.seed) if r.item not in run.done)


def _alive(codec: Any, scalars: torch.Tensor, ranked: torch.Tensor) -> list[int]:
    """Latents that are active on these tokens."""
    return sorted(set(codec.encode_sparse(scalars[ranked]).tocoo().col.tolist()))


class Curve:
    """A feature's pushes, and their records.

    Attributes:
        points: the feature's own pushes and their controls.
    """

    def __init__(
        self, feature: Steered, other: Steered | None, scalars: torch.Tensor, ranked: torch.Tensor, config: SteerConfig
    ) -> None:
        """Work out the units, on these tokens' scalars, and list the pushes."""
        self.feature = feature
        active = feature.activation(scalars, ranked).double()
        self.std = float(active.std()) if len(active) > 1 else 0.0
        sizes = active.abs()[active != 0]
        self.normal = float(sizes.mean()) if len(sizes) else 0.0
        units = {ITSELF: (feature, self.std)}
        for control in config.controls:
            if control == "unrelated":
                if other is not None:
                    units[control] = (other, float(other.activation(scalars, ranked).double().std()))
            else:
                units[control] = (feature, self.std)
        doses = config.doses if feature.kind != "group" and self.std > 0 else ()
        pushes: list[tuple[Literal["gain", "dose"], float]] = [("gain", g) for g in config.gains]
        pushes += [("dose", d) for d in doses]
        self.points = [
            Point(push, size, control, which, unit)
            for push, size in pushes
            for control, (which, unit) in units.items()
            if not (push == "dose" and control == "shuffled")
        ]

    def in_text(self, point: Point, batch: Batch, seed: int) -> Pushes:
        """The push over a batch of documents."""
        B, T, C = batch.scalars.shape  # rows, tokens, components
        plain = torch.ones(B, C)
        itself = point.control in (ITSELF, "unrelated")
        if point.push == "gain" and itself and point.feature.latents is None:
            return Pushes(torch.where(point.feature.direction != 0, point.size, plain))
        if point.push == "dose":
            added = batch.response[:, :, None] * (point.size * point.unit * point.feature.direction)
        else:
            flat = batch.scalars.reshape(B * T, C), batch.ranked.reshape(B * T)
            added = (point.size - 1) * point.feature.contribution(*flat).reshape(B, T, C)
        if point.control == "shuffled":
            added = _shuffled(added, batch.response, seed)
        if point.control == "random":
            return Pushes(plain, astray=added)
        return Pushes(plain, -added if point.control == "flipped" else added)

    def in_answers(self, point: Point) -> Pushes | None:
        """The push of one row while answers are written; None where it cannot be made token by token."""
        direction = point.feature.direction
        if point.push == "dose":
            added = (point.size * point.unit * direction)[None, None]
            plain = torch.ones(1, len(direction))
            if point.control == "random":
                return Pushes(plain, astray=added)
            return Pushes(plain, -added if point.control == "flipped" else added)
        if point.feature.latents is not None or point.control in ("random", "shuffled"):
            return None
        gain = 2 - point.size if point.control == "flipped" else point.size
        return Pushes(torch.where(direction != 0, gain, torch.ones(len(direction)))[None])

    @property
    def written(self) -> dict[Point, Pushes]:
        """The pushes that can be made while answers are written."""
        return {point: push for point in self.points if (push := self.in_answers(point)) is not None}

    def times_normal(self, point: Point) -> float | None:
        """The push in units of the feature's mean size where it is active."""
        if point.push == "gain":
            return point.size
        return point.size * self.std / self.normal if self.normal else None

    def item(self, where: Where, point: Point, quantity: str) -> str:
        """The name of a record."""
        return f"{self.feature.name}/{point.name}/{where}/{quantity}"

    def records(
        self, where: Where, measured: Mapping[Point, dict[str, Measured]], seed: int
    ) -> Iterator[SteeringEffect]:
        """A record per push and quantity; those of controls with the excess of the feature over them."""
        own = {(p.push, p.size): q for p, q in measured.items() if p.control == ITSELF}
        for point, quantities in measured.items():
            for quantity, m in quantities.items():
                if not m.n.sum():
                    continue
                excess: dict[str, Any] = {}
                if point.control != ITSELF:
                    mine = own[point.push, point.size][quantity]
                    p = paired_t(mine.change, m.change)
                    excess = {
                        "excess": ratio_over_documents(mine.change - m.change, m.n, seed=seed),
                        "p_value": None if isinstance(p, Undefined) else p,
                    }
                yield SteeringEffect(
                    item=self.item(where, point, quantity),
                    source=self.feature.latents.name if self.feature.latents else "adapter",
                    feature=self.feature.name,
                    kind=self.feature.kind,
                    chosen_by=self.feature.chosen_by,
                    push=point.push,
                    size=point.size,
                    std=self.std,
                    times_normal=self.times_normal(point),
                    control=point.control,
                    control_feature=point.feature.name if point.control == "unrelated" else None,
                    where=where,
                    quantity=quantity,
                    unit=_unit(quantity),
                    at_rest=float(m.at_rest.sum() / m.n.sum()),
                    change=ratio_over_documents(m.change, m.n, seed=seed),
                    n_documents=len(m.n),
                    n_units=int(m.n.sum()),
                    **excess,
                )


def _unit(quantity: str) -> str:
    if quantity == "kl" or quantity in CE:
        return "nats"
    return "tokens" if quantity == "tokens" else "count" if quantity.startswith("n ") else "share"


def _shuffled(added: torch.Tensor, response: torch.Tensor, seed: int) -> torch.Tensor:
    """What is added on the response's tokens of each row, in another order."""
    generator, moved = torch.Generator().manual_seed(seed), added.clone()
    for row, counted in enumerate(response):
        places = counted.nonzero()[:, 0]
        moved[row, places] = added[row, places[torch.randperm(len(places), generator=generator)]]
    return moved


def _in_text(text: Text, curve: Curve, astray: Astray, run: RunContext) -> list[dict[str, Measured]]:
    """Each point's quantities."""
    names, n_documents = list(text.sums.n), len(text.sums.n["kl"])
    sums = [{name: np.zeros(n_documents) for name in names} for _ in curve.points]
    for batch in text.batches:
        text.changes(batch, [curve.in_text(p, batch, run.seed) for p in curve.points], astray, sums)
    return [{q: Measured(s[q], text.sums.n[q], text.sums.at_rest[q]) for q in names} for s in sums]


class Answers:
    """Questions of a benchmark, answered under pushes; the answers at rest are kept."""

    def __init__(self, subject: Subject, astray: Astray, config: SteerConfig, run: RunContext, benchmark: str) -> None:
        """Nothing is generated yet."""
        self._subject, self._astray, self._config, self._run = subject, astray, config, run
        self._benchmark = benchmark
        update = {"limit": config.items, "thinking_tokens": None, "repeats": None, "backend": "hf"}
        if config.new_tokens is not None:
            update["max_gen_toks"] = config.new_tokens
        self._settings = run.evaluate.model_copy(update=update)

    @cached_property
    def rest(self) -> dict[str, np.ndarray]:
        """The answers' quantities without a push, of every item."""
        self._run.progress.start(1, "answers of the adapter as it is")
        (rest,) = self._asked([Pushes(torch.ones(1, len(self._subject.components)))])
        return rest

    def measure(self, curve: Curve) -> dict[Point, dict[str, Measured]]:
        """Each point that can be pushed while answers are written -> its quantities."""
        rows = curve.written
        n = np.ones(len(next(iter(self.rest.values()))))
        return {
            point: {q: Measured(values[q] - rest, n, rest) for q, rest in self.rest.items()}
            for point, values in zip(rows, self._asked(list(rows.values())), strict=True)
        }

    def _asked(self, pushes: Sequence[Pushes]) -> list[dict[str, np.ndarray]]:
        """Each push's quantities of every item. All pushes write in shared batches where there is room."""
        from harness.benchmarks.answerer import InMemory
        from harness.benchmarks.evaluate import evaluate
        from harness.benchmarks.together import Together, Variant

        from .text import stacked

        if not pushes:
            return []
        table, together = stacked(pushes), Together(torch.arange(len(pushes))[:, None])
        found = []
        for i in range(len(pushes)):
            edit = RowPushes(table, i)
            answerer = InMemory(self._subject, writer=partial(Variant, together, i), edit=edit)
            with edit.straying(self._subject, self._astray):
                result: EvaluationResult = evaluate(
                    answerer, self._benchmark, variant="steered", settings=self._settings, seed=self._run.seed,
                    progress=SilentProgress(), traces=self._run.held_out,
                )  # fmt: skip
            found.append(self._quantities(result.samples))
            self._run.progress.advance()
        return found

    def _quantities(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        header: str = self._subject.chat.own_marks.answer_header.strip()
        counted: dict[str, Sequence[Any]] = {
            **{f"n {event}": [len(re.findall(pattern, s.response)) for s in samples]
               for event, pattern in self._config.events.items()},
            "ends trace": [header in str(s.response) for s in samples],
            "has answer": [s.extracted is not None for s in samples],
            "tokens": [s.n_tokens for s in samples],
            "loops": [s.loops for s in samples],
            "score": [s.score for s in samples],
        }  # fmt: skip
        return {name: np.array(v, dtype=np.float64) for name, v in counted.items() if None not in v}
