"""Which explanations categories are made from: an equal number of each source, drawn evenly over the layers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from harness.records import Evidence, Explanation

Explained = Sequence[tuple[Explanation, Evidence]]


def equal_sample(
    explained: Explained, sources: Sequence[str], n_per_source: int, seed: int
) -> list[tuple[Explanation, Evidence]]:
    """The same number of explained features from each source, layer by layer in turn; the same ones for the same seed.

    Features without an explanation are left out. Where none of `sources` is present, every source counts.

    Args:
        explained: all features.
        sources: sources to draw from (the paper: adapter directions and MLP neurons).
        n_per_source: most features of each; fewer where the smallest source has fewer.
        seed: of the draw.
    """
    by_source: dict[str, list[tuple[Explanation, Evidence]]] = defaultdict(list)
    for explanation, evidence in explained:
        if explanation.explanation is not None:
            by_source[explanation.source].append((explanation, evidence))
    chosen = [s for s in sources if by_source.get(s)] or sorted(by_source)
    n = min([n_per_source, *(len(by_source[s]) for s in chosen)])
    return [pair for source in chosen for pair in _over_layers(by_source[source], n, f"{seed}/{source}")]


def is_latent(evidence: Evidence) -> bool:
    """Whether the feature is a latent of a dictionary: only latents have no layer."""
    return evidence.layer is None


def _over_layers(pairs: list[tuple[Explanation, Evidence]], n: int, seed: str) -> list[tuple[Explanation, Evidence]]:
    rng = random.Random(seed)
    layers: dict[int, list[tuple[Explanation, Evidence]]] = defaultdict(list)
    for explanation, evidence in sorted(pairs, key=lambda pair: pair[0].feature):
        layers[-1 if evidence.layer is None else evidence.layer].append((explanation, evidence))
    queues = [layers[layer] for layer in sorted(layers)]
    for queue in queues:
        rng.shuffle(queue)
    rng.shuffle(queues)  # otherwise the first layers would get the remainder of every draw
    sample: list[tuple[Explanation, Evidence]] = []
    while len(sample) < n:
        for queue in queues:
            if queue and len(sample) < n:
                sample.append(queue.pop())
    return sample
