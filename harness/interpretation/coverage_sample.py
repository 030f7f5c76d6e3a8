"""Purity and recall of explanations that are no rules: a scorer is asked about sampled tokens.

A feature's ranked tokens are three strata: those above its threshold of matched density, the other active ones, and
those on which it is not active. Of each some are drawn; of the active ones evenly over the quantiles of activation,
none from a context that the explainer was shown where there are others. The scorer sees each with its token marked, and
says whether it is what the explanation says. With the strata's shares of the activation and of the tokens, which are
counted over the whole set, the answers give purity and recall.

Intervals: Wilson's for a stratum, of contexts weighted by activation with Kish's effective number of cases; sums of
strata by MOVER (Zou & Donner 2008). Recall is a ratio of two such sums, and its interval takes the bounds of both at
once: it covers at least 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.activations.sample import QuantileSample
from harness.activations.store import StoredActivations, token_texts, whole_characters
from harness.interpretation.coverage import ExplainedSource, Whole, wilson
from harness.interpretation.scoring import YES
from harness.records import Estimate, Feature, ScoringAnswer, ScoringContext, ScoringTest

if TYPE_CHECKING:
    from jaxtyping import Float

STRATA = ("strong", "weak", "inactive")
"""Above the threshold of matched density; other active tokens; the others."""

_Z = 1.959963984540054  # 97.5 % of the normal distribution
_POOL = 512
"""Tokens drawn for all features together, of which each takes those on which it is not active."""


class Drawn(NamedTuple):
    """A token that is asked about, with the feature's activation on it."""

    stratum: str
    document: str
    position: int
    value: float


def draw(source: ExplainedSource, whole: Whole, n: int, seed: int) -> list[list[Drawn]]:
    """Per feature, n tokens of each stratum; fewer where it has fewer."""
    stored = source.stored
    bounds = np.cumsum([0, *(stored.n_tokens([d]) for d in stored.document_ids)])

    def place(token: int) -> tuple[str, int]:
        at = int(np.searchsorted(bounds, token, side="right")) - 1
        return stored.document_ids[at], int(token - bounds[at])

    drawn: list[list[Drawn]] = [[] for _ in source.features]
    columns, signs = source.places()
    samples = [QuantileSample(len(columns), signed=False, n=n, seed=seed) for _ in STRATA[:2]]
    for document in stored.documents():
        values = np.maximum(document.values[:, columns].astype(np.float32) * signs, 0)
        strong = values > whole.thresholds
        for sample, part in zip(samples, (strong, ~strong), strict=True):
            sample.add_document(values * part, document.ranked)
    for stratum, sample in zip(STRATA, samples, strict=False):
        found = sample.result()
        for own, start, stop in zip(drawn, found.bounds, found.bounds[1:], strict=False):
            values_of = zip(found.tokens[start:stop].tolist(), found.values[start:stop].tolist(), strict=True)
            own += [Drawn(stratum, *place(token), value) for token, value in values_of]
    pool = [place(token) for token in Random(seed).sample(range(int(bounds[-1])), min(_POOL, int(bounds[-1])))]
    active = _activations(stored, pool, columns, signs)
    for f, own in enumerate(drawn):
        quiet = [at for at, value in enumerate(active[:, f].tolist()) if value == 0]
        chosen = Random(f"{seed}/{source.features[f].feature}").sample(quiet, min(n, len(quiet)))
        own += [Drawn("inactive", *pool[at], 0.0) for at in chosen]
    return [_held_out(own, feature) for own, feature in zip(drawn, source.features, strict=True)]


def question(feature: Feature, drawn: Sequence[Drawn], stored: StoredActivations, window: int) -> ScoringTest:
    """The drawn tokens, each marked in a context of its own, as one test; their order is random already."""
    contexts = []
    for token in drawn:
        document = stored.document(token.document)
        first, last = max(token.position - window, 0), min(token.position + window + 1, len(document.ids))
        start, stop = whole_characters(document, first, last)
        contexts.append(
            ScoringContext(
                document=token.document, start=start, tokens=token_texts(document, start, stop),
                marked=(token.position - start,), label=token.value > 0,
            )
        )  # fmt: skip
    item, name = f"coverage/{feature.source}/{feature.feature}", feature.feature
    return ScoringTest(item=item, kind="fuzzing", source=feature.source, feature=name, contexts=tuple(contexts))


class Sampled(NamedTuple):
    """What the answers amount to."""

    purity: Estimate | None
    recall: Estimate | None
    matched_purity: Estimate | None
    matched_recall: Estimate | None
    n_covered: int


def estimates(drawn: Sequence[Drawn], covered: Sequence[bool], shares: Mapping[str, float], weak: float) -> Sampled:
    """Purity and recall from one feature's answers.

    Args:
        drawn: the tokens.
        covered: of each, whether the scorer says that the explanation holds on it.
        shares: stratum -> its share of all ranked tokens.
        weak: share of the activation in the weak stratum.
    """
    by_weight, by_token = {}, {}
    for stratum in STRATA:
        own = [(token.value, hit) for token, hit in zip(drawn, covered, strict=True) if token.stratum == stratum]
        by_token[stratum] = _share([1.0] * len(own), [hit for _, hit in own])
        by_weight[stratum] = _share([value for value, _ in own], [hit for _, hit in own])
    parts = {stratum: (shares[stratum], by_token[stratum]) for stratum in STRATA}
    strong, rest, inactive = parts["strong"], parts["weak"], parts["inactive"]
    return Sampled(
        _summed([(1 - weak, by_weight["strong"]), (weak, by_weight["weak"])]),
        _ratio(_summed([strong, rest]), _summed([inactive])),
        by_weight["strong"],
        _ratio(_summed([strong]), _summed([rest, inactive])),
        sum(covered),
    )


def covered_by(answer: ScoringAnswer) -> list[bool] | None:
    """Whether the explanation holds on each token that was asked about; None where there is no answer."""
    return None if answer.ratings is None else [rating >= YES for rating in answer.ratings]


def _activations(
    stored: StoredActivations, places: Sequence[tuple[str, int]], columns: np.ndarray, signs: np.ndarray
) -> Float[np.ndarray, "place feature"]:
    """Activations on single tokens; NaN on those that are not ranked."""
    found = np.full((len(places), len(columns)), np.nan, dtype=np.float32)
    for at, (name, position) in enumerate(places):
        document = stored.document(name)
        if document.ranked[position]:
            row = document.activations
            values = row[position] if isinstance(row, np.ndarray) else row.rows(position, position + 1).dense()[0]
            found[at] = np.maximum(values[columns].astype(np.float32) * signs, 0)
    return found


def _held_out(drawn: Sequence[Drawn], feature: Feature) -> list[Drawn]:
    """Those in no window that was shown; of a stratum without such ones, all."""
    shown: dict[str, list[tuple[int, int]]] = {}
    for e in feature.exemplars:
        shown.setdefault(e.document, []).append((e.start, e.start + len(e.tokens)))
    kept: list[Drawn] = []
    for stratum in STRATA:
        own = [d for d in drawn if d.stratum == stratum]
        unseen = [d for d in own if not any(a <= d.position < b for a, b in shown.get(d.document, ()))]
        kept += unseen or own
    Random(feature.feature).shuffle(kept)
    return kept


def _share(weights: Sequence[float], hits: Sequence[bool]) -> Estimate | None:
    total = sum(weights)
    if total <= 0:
        return None
    share = sum(w for w, hit in zip(weights, hits, strict=True) if hit) / total
    low, high = wilson(np.array(share), np.array(total**2 / sum(w * w for w in weights)), _Z)
    return Estimate(share, min(float(low), share), max(float(high), share))


def _summed(parts: Sequence[tuple[float, Estimate | None]]) -> Estimate | None:
    """The sum of weighted shares; None where one is unknown. A weight of 0 needs none."""
    known = [(weight, share) for weight, share in parts if weight > 0]
    if not known or any(share is None for _, share in known):
        return None if known else Estimate(0.0, 0.0, 0.0)
    value = sum(w * s.value for w, s in known if s)
    below = sum((w * (s.value - s.low)) ** 2 for w, s in known if s) ** 0.5
    above = sum((w * (s.high - s.value)) ** 2 for w, s in known if s) ** 0.5
    return Estimate(value, max(value - below, 0.0), min(value + above, sum(w for w, _ in known)))


def _ratio(inside: Estimate | None, outside: Estimate | None) -> Estimate | None:
    """Inside / (inside + outside), where either may be at its bound."""
    if inside is None or outside is None or inside.value + outside.value <= 0:
        return None
    low = inside.low / (inside.low + outside.high) if inside.low + outside.high > 0 else 0.0
    high = inside.high / (inside.high + outside.low) if inside.high + outside.low > 0 else 1.0
    return Estimate(inside.value / (inside.value + outside.value), low, high)
