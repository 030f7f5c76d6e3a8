"""Tiny models of five architectures and a pretrained Llama with random adapters; a brute force of the sweep's cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.model.chat import SEGMENTS, ChatFormat
from harness.model.components import Component
from harness.model.subject import Subject, load_subject
from harness.testing import Architecture, tiny_adapter, tiny_model, tiny_traces

CHAT = ChatFormat()
TRACES = tiny_traces(6)


def make_subject(folder: Path, architecture: Architecture = "qwen2", *, layers: int = 2, **lora: Any) -> Subject:
    base = tiny_model(folder / "base", architecture, layers=layers)
    return load_subject(base, CHAT, tiny_adapter(base, folder / "adapter", **lora))


@pytest.fixture(scope="session")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Qwen2 of 2 layers with a rank-1 adapter."""
    return make_subject(tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session", params=["qwen2", "llama", "gpt2", "gemma", "mistral", "stories"])
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Each architecture with 3 layers, and a real pretrained Llama with an adapter on 2 of its 5, in float64."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "stories":
        base, chat = request.getfixturevalue("stories"), ChatFormat(template="plain")
        made = load_subject(base, chat, tiny_adapter(base, folder, chat=chat, layers_to_transform=[1, 3]))
    else:
        made = make_subject(folder, request.param, layers=3)
    made.model.double()
    return made


class BruteForce:
    """Weights zeroed, whole passes of one document at a time, log-softmax in float64."""

    def __init__(self, subject: Subject, traces: Sequence[Any] = TRACES, max_tokens: int = 2048) -> None:
        self._subject = subject
        documents = [subject.chat.document(subject.tokenizer, t) for t in sorted(traces, key=lambda t: t.id)]
        self._ids = [d.ids for d in documents]
        self._segments = [np.array([SEGMENTS.index(s) for s in d.segments[:max_tokens]]) for d in documents]
        self._max = max_tokens
        self._full = self._log_p(subject.model)

    def ablated(self, off: Sequence[Component]) -> list[np.ndarray]:
        """Log-probabilities while the weights of `off` are zero."""
        model, kept = self._subject.model, []
        for path in {c.module for c in off}:
            own = [c for c in off if c.module == path]
            module, adapter = model.get_submodule(path), own[0].adapter
            a, b = module.lora_A[adapter].weight.data, module.lora_B[adapter].weight.data
            kept += [(a, a.clone()), (b, b.clone())]
            # A component of a rank above 1 is a slice of the product's singular value decomposition.
            u, s, vt = np.linalg.svd(b.double().numpy() @ a.double().numpy(), full_matrices=False)
            s[[c.rank_index for c in own]] = 0
            a.copy_(torch.from_numpy(vt[: len(a)]))
            b.copy_(torch.from_numpy((u * s)[:, : len(a)]))
        try:
            return self._log_p(model)
        finally:
            for weight, before in kept:
                weight.copy_(before)

    def kl(self, off: Sequence[Component]) -> np.ndarray:
        """KLSums of KL(full ‖ ablated), [document, segment]."""
        sums = np.zeros((len(self._ids), len(SEGMENTS)))
        for i, (p, q) in enumerate(zip(self._full, self.ablated(off), strict=True)):
            np.add.at(sums[i], self._segments[i], (np.exp(p) * (p - q)).sum(-1))
        return sums

    def cross_entropy(self, off: Sequence[Component]) -> np.ndarray:
        """KLSums over tokens that have a next one, [document]."""
        sums = []
        for ids, q in zip(self._ids, self.ablated(off), strict=True):
            n = min(self._max, len(ids) - 1)
            sums.append(-q[np.arange(n), np.array(ids[1 : n + 1])].sum())
        return np.array(sums)

    def _log_p(self, model: Any) -> list[np.ndarray]:
        found = []
        for ids in self._ids:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids[: self._max]]), use_cache=False).logits[0]
            x = logits.double().numpy()
            x = x - x.max(-1, keepdims=True)
            found.append(x - np.log(np.exp(x).sum(-1, keepdims=True)))
        return found


@pytest.fixture(scope="session")
def brute_force() -> type[BruteForce]:
    return BruteForce
