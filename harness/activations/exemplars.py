"""Exemplars: the windows round a feature's k highest activations, and round a sample of all its strengths.

One pass over the set, one document in memory (`topk`, `sample`); then the windows are read. Tokens that are not
ranked (the template's, special ones and each document's first) are not summed, not counted, and read 0 in windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from harness.activations.sample import QuantileSample, Sampled
from harness.activations.store import StoredActivations, StoredDocument, token_texts, whole_characters
from harness.activations.topk import TopK, TopKTracker
from harness.records import Evidence, Exemplar, Feature


def find_top(
    stored: StoredActivations, *, k: int = 64, cap: int | None = 4, sample: int = 0, seed: int = 0
) -> tuple[TopK, Sampled]:
    """One pass over a stored set: the k highest tokens of every feature, and a sample of its active tokens."""
    n, signed = len(stored.columns), stored.set.signed
    tracker = TopKTracker(n, signed=signed, k=k, cap=cap)
    quantiles = QuantileSample(n, signed=signed, n=sample, seed=seed)
    for document in stored.documents():
        ranked = document.ranked
        tracker.add_document(document.activations, ranked)
        quantiles.add_document(document.activations, ranked)
    return tracker.result(), quantiles.result()


def collect_features(
    stored: StoredActivations, *, k: int = 64, cap: int | None = 4, window: int = 12, sample: int = 0, seed: int = 0
) -> Iterator[Feature]:
    """Every column's features with their exemplars, in column order.

    A signed column gives two features: `name+` of max(v, 0) and `name-` of max(-v, 0). Dead features come too, without
    exemplars. A window that several documents share is shown once, with their count.

    Args:
        stored: the set.
        k: exemplars per feature.
        cap: most exemplars of one document; None for no limit.
        window: tokens shown on either side, clipped to the document; an edge that would cut a character moves outwards.
        sample: further contexts per feature, drawn uniformly over the quantiles of its active tokens.
        seed: of that draw.
    """
    top, sampled = find_top(stored, k=k, cap=cap, sample=sample, seed=seed)
    bounds = np.cumsum([0, *(stored.n_tokens([d]) for d in stored.document_ids)])
    signs = (1, -1) if stored.set.signed else (1,)
    for row in range(len(top.values)):
        column, polarity = divmod(row, len(signs))
        name = stored.columns[column] + ("" if len(signs) == 1 else "+-"[polarity])
        own = slice(int(sampled.bounds[row]), int(sampled.bounds[row + 1]))
        highest = top.tokens[row][top.tokens[row] >= 0]
        places = np.concatenate([highest, sampled.tokens[own]])
        quantiles = [None] * len(highest) + sampled.quantiles[own].tolist()
        documents = np.searchsorted(bounds, places, side="right") - 1
        contexts = [
            _exemplar(
                stored.document(stored.document_ids[d]),
                rank,
                int(token - bounds[d]),
                column,
                signs[polarity],
                window,
                q,
            )
            for rank, (token, d, q) in enumerate(zip(places, documents, quantiles, strict=True))
        ]
        yield Feature(
            item=name,
            source=stored.set.source,
            feature=name,
            layer=stored.set.layers[column],
            projection=stored.set.projections[column],
            density_per_token=float(top.n_active[row] / max(top.n_tokens, 1)),
            activation_sum=float(top.activation_sum[row]),
            activation_max=float(top.activation_max[row]),
            n_tokens=top.n_tokens,
            exemplars=(shown := _once(contexts[: len(highest)], 0)),
            sampled=_once(contexts[len(highest) :], len(shown)),
        )


def evidence(features: Iterable[Feature], n_exemplars: int = 64) -> list[Evidence]:
    """Features as interpreters see them: the `n_exemplars` highest in order, and the sample; alike for every source."""
    return [
        Evidence(
            source=f.source,
            feature=f.feature,
            layer=f.layer,
            projection=f.projection,
            exemplars=f.exemplars[:n_exemplars],
            sampled=f.sampled,
        )
        for f in features
    ]


def _once(contexts: Iterable[Exemplar], first_rank: int) -> tuple[Exemplar, ...]:
    """Each window once, at its highest activation and with its count, ranked on from `first_rank`."""
    alike: dict[tuple[tuple[str, ...], int], list[Exemplar]] = {}
    for context in contexts:
        alike.setdefault((context.tokens, context.target), []).append(context)
    return tuple(
        same[0].model_copy(update={"rank": first_rank + i, "n_identical": len(same)})
        for i, same in enumerate(alike.values())
    )


def _exemplar(
    document: StoredDocument, rank: int, position: int, column: int, sign: int, window: int, quantile: float | None
) -> Exemplar:
    start, stop = max(position - window, 0), min(position + window + 1, len(document.ids))
    start, stop = whole_characters(document, start, stop)
    values = np.maximum(sign * document.window(start, stop, column), 0)
    values[~document.ranked[start:stop]] = 0
    return Exemplar(
        rank=rank,
        document=document.id,
        position=position,
        start=start,
        tokens=token_texts(document, start, stop),
        # Five significant digits tell every float16 from the next; as they are, contexts would be most of a database.
        activations=tuple(float(f"{value:.5g}") if value else 0.0 for value in values.tolist()),
        target=position - start,
        quantile=quantile,
    )
