"""Held-out contexts for scoring tests: drawn alike for yes and no, and never shown to the explainer.

Documents are cut into windows of the same length, wherever the feature fires in them, so that the place of a token says
nothing. A window activates a feature where a token reaches `active_share` of its maximum, and is quiet where none
exceeds `inactive_share`; those between are left out. Both kinds come from the same sample of documents; those that
activate also from the contexts that were sampled over the feature's activation quantiles. Half of the negatives are
hard where there are such: they hold a token on which the feature fires elsewhere. Where a feature is too dense to have
quiet windows, its negatives are its quietest ones, and its positives are stronger than all of them: leaving it out
would leave out the features that are hardest to explain.

Detection, fuzzing and intruder are delphi's (EleutherAI) tasks: https://github.com/EleutherAI/delphi. Simulation is
Bills et al. (2023), "Language models can explain neurons in language models": half of its contexts are the strongest
that were not shown, half are drawn at random, whatever the feature does in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from harness.activations.store import StoredActivations, token_texts, whole_characters
from harness.interpretation.config import ScoringConfig
from harness.records import Feature, ScoringContext, ScoringKind, ScoringTest

if TYPE_CHECKING:
    from jaxtyping import Float

INTRUDER_SHOWN = 4
"""Activating contexts beside each intruder (delphi's default is five examples in all)."""

_KEY_WINDOWS = 64
"""Activating windows, over all quantiles, whose tokens make a negative hard."""


@dataclass(frozen=True)
class Column:
    """Where a feature is in a set."""

    index: int
    sign: int


@dataclass(frozen=True)
class _Window:
    document: str
    start: int
    stop: int


@dataclass(frozen=True)
class TooFew:
    """A feature that cannot be tested, and why."""

    feature: str
    reason: str


class ContextPool:
    """Windows of a sample of documents, with the maximum of every chosen feature in each."""

    def __init__(self, stored: StoredActivations, columns: Sequence[Column], config: ScoringConfig, seed: int) -> None:
        self._stored, self._columns, self._config = stored, columns, config
        ids = sorted(stored.document_ids)
        Random(seed).shuffle(ids)
        index = [c.index for c in columns]
        signs = np.array([c.sign for c in columns], dtype=np.float32)
        length = 2 * config.window + 1
        self.windows: list[_Window] = []
        maxima: list[np.ndarray] = []
        for document in stored.documents(ids[: config.documents]):
            values = np.maximum(document.values[:, index].astype(np.float32) * signs, 0)
            values[~document.ranked] = 0
            for start in range(1, max(2, len(values) - length // 2), length):
                stop = min(start + length, len(values))
                if stop == start:
                    continue
                maxima.append(values[start:stop].max(0))
                self.windows.append(_Window(document.id, start, stop))
        self.maxima: Float[np.ndarray, "window feature"] = np.stack(maxima)
        self._tokens = [frozenset(self.token_ids(w).tolist()) for w in range(len(self.windows))]
        self._index = {window: i for i, window in enumerate(self.windows)}

    def window_at(self, document: str, position: int) -> int:
        """The window of a document, cut as all are, that holds a position; added where its document was not drawn."""
        length = 2 * self._config.window + 1
        n = len(self._stored.document(document).ids)
        start = 1 + max(position - 1, 0) // length * length
        window = _Window(document, start, min(start + length, n))
        if window not in self._index:
            self._index[window] = len(self.windows)
            self.windows.append(window)
        return self._index[window]

    def activations(self, window: int, column: int) -> Float[np.ndarray, " token"]:
        """The feature's activation on each token of a window; special tokens read 0."""
        w, c = self.windows[window], self._columns[column]
        document = self._stored.document(w.document)
        values = np.maximum(c.sign * document.values[w.start : w.stop, c.index].astype(np.float32), 0)
        values[~document.ranked[w.start : w.stop]] = 0
        return values

    def simulated(self, window: int, column: int, *, strongest: bool) -> ScoringContext:
        """A window with the activation of each token that counts."""
        shown = self.context(window, (), label=strongest)
        document, c = self._stored.document(shown.document), self._columns[column]
        stop = shown.start + len(shown.tokens)
        values = np.maximum(c.sign * document.window(shown.start, stop, c.index), 0).tolist()
        ranked = document.ranked[shown.start : stop].tolist()
        activations = tuple(value if counts else None for value, counts in zip(values, ranked, strict=True))
        return shown.model_copy(update={"activations": activations})

    def token_ids(self, window: int) -> np.ndarray:
        """The ids of a window's tokens."""
        w = self.windows[window]
        return self._stored.document(w.document).ids[w.start : w.stop]

    def holding(self, tokens: set[int]) -> np.ndarray:
        """Bool [window]: whether it holds one of the tokens."""
        return np.array([not own.isdisjoint(tokens) for own in self._tokens], dtype=bool)

    def context(
        self, window: int, marked: Sequence[int], *, label: bool, hard: bool = False, quiet: bool = True
    ) -> ScoringContext:
        """A window as it is shown."""
        w = self.windows[window]
        document = self._stored.document(w.document)
        start, stop = whole_characters(document, w.start, w.stop)
        return ScoringContext(
            document=w.document,
            start=start,
            tokens=token_texts(document, start, stop),
            marked=tuple(i + w.start - start for i in sorted(marked)),
            label=label,
            hard=hard,
            quiet=quiet,
        )


class FeatureTests:
    """Makes one feature's scoring tests."""

    def __init__(self, pool: ContextPool, feature: Feature, column: int, config: ScoringConfig, seed: str) -> None:
        self._pool, self._feature, self._column, self._config = pool, feature, column, config
        self._rng = Random(seed)
        top = feature.activation_max
        self._active, self._quiet = config.active_share * top, config.inactive_share * top
        unseen = self._not_shown()
        strongest = pool.maxima[:, column]
        self._unseen_windows = np.flatnonzero(unseen)
        self._negative = np.flatnonzero(unseen & (strongest <= self._quiet))
        self._loudest = self._quiet
        if len(self._negative) < config.min_contexts:
            order = self._unseen_windows[np.argsort(strongest[unseen], kind="stable")]
            self._negative = np.sort(order[: config.contexts])
            self._loudest = float(strongest[self._negative].max(initial=0))
        active = unseen & (strongest >= self._active) & (strongest > self._loudest)
        found = {w: strongest[w] for w in np.flatnonzero(active).tolist()}
        found |= {w: m for w, m in self._sampled().items() if m > self._loudest}
        self._positive = np.array(sorted(found, key=lambda w: (found[w], w)), dtype=np.int64)
        some = self._positive[:: max(1, len(self._positive) // _KEY_WINDOWS)].tolist()
        self._keys = {int(t) for w in some for t in self._marked_ids(w)}

    def tests(self) -> Iterator[ScoringTest] | TooFew:
        """The tests, or why there are none."""
        least, name = self._config.min_contexts, self._feature.feature
        if not self._feature.exemplars:
            return TooFew(name, "dead: no activating context")
        if len(self._negative) < least:
            return TooFew(name, f"fewer than {least} contexts that were not shown")
        if len(self._positive) < least:
            quietest = " that are stronger than the quietest" if self._loudest > self._quiet else ""
            return TooFew(name, f"fewer than {least} held-out activating contexts{quietest}")
        return self._made()

    def _made(self) -> Iterator[ScoringTest]:
        n = min(self._config.contexts, len(self._positive), len(self._negative))
        yes = self._over_quantiles(n)
        no = self._negatives(n)
        yield self._test("detection", 0, [
            *(self._pool.context(w, (), label=True) for w in yes),
            *(self._pool.context(w, (), label=False, hard=hard, quiet=self._is_quiet(w)) for w, hard in no),
        ])  # fmt: skip
        wrong = [self._wrongly_marked(w) for w in self._over_quantiles(n // 2)]
        wrong += [self._intruder(w, hard, label=False) for w, hard in no[: n - len(wrong)]]
        right = [self._pool.context(w, self._marks(w), label=True) for w in yes]
        yield self._test("fuzzing", 0, [*right, *(c for c in wrong if c.marked)])
        if len(self._positive) >= INTRUDER_SHOWN:
            for number, (w, hard) in enumerate(self._negatives(min(self._config.intruders, len(self._negative)))):
                shown = self._rng.sample(self._positive.tolist(), INTRUDER_SHOWN)
                others = [self._pool.context(v, self._marks(v), label=False) for v in shown]
                yield self._test("intruder", number, [*others, self._intruder(w, hard, label=True)])
        yield from self._simulations()

    def _simulations(self) -> Iterator[ScoringTest]:
        """One test per context: the strongest, and as many of all that were not shown."""
        n = self._config.simulated
        top = self._positive[::-1][:n].tolist()
        rest = sorted(set(self._unseen_windows.tolist()) - set(top))
        chosen = [(w, True) for w in top] + [(w, False) for w in self._rng.sample(rest, min(n, len(rest)))]
        for number, (window, strongest) in enumerate(chosen):
            context = self._pool.simulated(window, self._column, strongest=strongest)
            yield self._test("simulation", number, [context])

    def _test(self, kind: ScoringKind, number: int, contexts: list[ScoringContext]) -> ScoringTest:
        self._rng.shuffle(contexts)
        name = self._feature.feature
        return ScoringTest(
            item=f"{kind}/{name}/{number}",
            kind=kind,
            source=self._feature.source,
            feature=name,
            contexts=tuple(contexts),
        )

    def _sampled(self) -> dict[int, float]:
        """Window -> maximum, of those round the contexts that were sampled over the feature's activation quantiles."""
        windows = [self._pool.window_at(e.document, e.position) for e in self._feature.sampled]
        maxima = {w: float(self._pool.activations(w, self._column).max()) for w in windows}
        return {w: m for w, m in maxima.items() if m >= self._active and self._unseen(w)}

    def _not_shown(self) -> np.ndarray:
        """Bool [window]: no token of it was in an exemplar's window."""
        self._shown: dict[str, list[tuple[int, int]]] = {}
        for e in self._feature.exemplars:
            self._shown.setdefault(e.document, []).append((e.start, e.start + len(e.tokens)))
        return np.array([self._unseen(w) for w in range(len(self._pool.maxima))], dtype=bool)

    def _unseen(self, window: int) -> bool:
        w = self._pool.windows[window]
        return all(w.stop <= start or w.start >= stop for start, stop in self._shown.get(w.document, ()))

    def _over_quantiles(self, n: int) -> list[int]:
        """N activating windows, one drawn from each n-quantile of their maxima."""
        return [int(self._rng.choice(part)) for part in np.array_split(self._positive, n)] if n else []

    def _negatives(self, n: int) -> list[tuple[int, bool]]:
        """N quiet windows; half of them hold a token on which the feature fires, where there are so many."""
        holds = self._pool.holding(self._keys)
        hard = [w for w in self._negative.tolist() if holds[w]]
        rest = [w for w in self._negative.tolist() if not holds[w]]
        self._rng.shuffle(hard)
        self._rng.shuffle(rest)
        n_hard = min(len(hard), max((n + 1) // 2, n - len(rest)))
        return [*((w, True) for w in hard[:n_hard]), *((w, False) for w in rest[: n - n_hard])]

    def _is_quiet(self, window: int) -> bool:
        """Whether no token of a drawn window exceeds `inactive_share` of the feature's maximum."""
        return bool(self._pool.maxima[window, self._column] <= self._quiet)

    def _marks(self, window: int) -> list[int]:
        """Tokens that reach the threshold of an active context."""
        return np.flatnonzero(self._pool.activations(window, self._column) >= self._active).tolist()

    def _marked_ids(self, window: int) -> np.ndarray:
        return self._pool.token_ids(window)[self._marks(window)]

    def _wrongly_marked(self, window: int) -> ScoringContext:
        """An activating window in which as many quiet tokens are marked as it has active ones; else its quietest."""
        marks, (places, quiet) = self._marks(window), self._quiet_places(window)
        wrong = [place for place in places if place not in marks]
        return self._pool.context(
            window, self._rng.sample(wrong, min(len(wrong), len(marks))), label=False, quiet=quiet
        )

    def _intruder(self, window: int, hard: bool, *, label: bool) -> ScoringContext:
        """A quiet window with a token marked: one that the feature fires on elsewhere, where it holds one."""
        ids = self._pool.token_ids(window).tolist()
        places, quiet = self._quiet_places(window)
        keys = [i for i in places if ids[i] in self._keys] if hard else []
        marked = [self._rng.choice(keys or places)]
        return self._pool.context(window, marked, label=label, hard=bool(keys), quiet=quiet and self._is_quiet(window))

    def _quiet_places(self, window: int) -> tuple[list[int], bool]:
        """Tokens that do not exceed `inactive_share`, and True; where there are none, the quietest, and False."""
        values = self._pool.activations(window, self._column)
        quiet = np.flatnonzero(values <= self._quiet).tolist()
        return (quiet, True) if quiet else (np.flatnonzero(values == values.min()).tolist(), False)
