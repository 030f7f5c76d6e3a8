"""Capture: reading all scalars through the tap, against the same backbone without hooks."""

from __future__ import annotations

import torch

from bench.measure import Ratio, adapted, compare
from harness.model.batching import find_backbone
from harness.model.components import find_components
from harness.model.taps import component_sites, tap


def organism() -> Ratio:
    """The overhead (below 1) on the organism, where hooks weigh most: its matrices are tiny."""
    model = adapted()
    backbone = find_backbone(model)
    sites = component_sites(find_components(model))
    ids = torch.randint(0, 300, (16, 140), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def ours() -> None:
        for _ in range(10):
            with tap(model, sites) as reading:
                backbone(input_ids=ids, use_cache=False)
            reading.values()

    @torch.no_grad()
    def theirs() -> None:
        for _ in range(10):
            backbone(input_ids=ids, use_cache=False)

    return compare("capture, 28 components, hidden 64", "bare backbone", ours, theirs)


BENCHES = (organism,)
