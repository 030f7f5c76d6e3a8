"""Tiny models of five architectures and a pretrained Llama with random adapters; a brute force of the sweep's cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.model.chat import ChatFormat
from harness.model.components import Component
from harness.model.subject import Subject, load_subject
from harness.records.segments import SEGMENTS
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


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """GPT-2 in float64 throughout: the RMSNorms of the other architectures compute in float32, whatever the weights."""
    made = make_subject(tmp_path_factory.mktemp("double"), "gpt2", layers=3)
    made.model.double()
    return made


@pytest.fixture(scope="session")
def gentle(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The same with an adapter at a twentieth of its strength: few nodes leave little of a path that hardly bends."""
    made = make_subject(tmp_path_factory.mktemp("gentle"), "gpt2", layers=3)
    made.model.double()
    with torch.no_grad():
        for c in made.components:
            made.model.get_submodule(c.module).lora_B[c.adapter].weight.mul_(0.05)
    return made


class BruteForce:
    """Weights zeroed, whole passes of one document at a time, log-softmax in float64.

    The response is what follows the mark that opens the trace: its tokens are found by tokenising the text before it.
    """

    def __init__(self, subject: Subject, traces: Sequence[Any] = TRACES, window: slice = slice(None)) -> None:
        self._subject = subject
        documents = [subject.chat.document(subject.tokenizer, t) for t in sorted(traces, key=lambda t: t.id)]
        self._ids = [d.ids for d in documents]
        self._segments = [np.array([SEGMENTS.index(s) for s in d.segments]) for d in documents]
        before = [d.text[: d.text.index(subject.chat.own_marks.think_header)] for d in documents]
        n_before = [len(subject.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in before]
        self._response = [np.arange(len(ids)) >= n for ids, n in zip(self._ids, n_before, strict=True)]
        self._window = window
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
            np.add.at(sums[i], self._segments[i][self._window], (np.exp(p) * (p - q)).sum(-1)[self._window])
        return sums

    def response_kl(self, off: Sequence[Component]) -> tuple[np.ndarray, np.ndarray]:
        """KL summed over the response's tokens, and how many they are: two of [document]."""
        pairs = zip(self._full, self.ablated(off), self._response, strict=True)
        sums = [(np.exp(p) * (p - q)).sum(-1)[counted].sum() for p, q, counted in pairs]
        return np.array(sums), np.array([counted.sum() for counted in self._response])

    def cross_entropy(self, off: Sequence[Component]) -> np.ndarray:
        """Sums over the response's tokens that have a next one, [document]."""
        sums = []
        for ids, q, counted in zip(self._ids, self.ablated(off), self._response, strict=True):
            surprise = -q[np.arange(len(ids) - 1), np.array(ids[1:])]
            sums.append(surprise[counted[:-1]].sum())
        return np.array(sums)

    def _log_p(self, model: Any) -> list[np.ndarray]:
        found = []
        for ids in self._ids:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
            x = logits.double().numpy()
            x = x - x.max(-1, keepdims=True)
            found.append(x - np.log(np.exp(x).sum(-1, keepdims=True)))
        return found


@pytest.fixture(scope="session")
def brute_force() -> type[BruteForce]:
    return BruteForce
