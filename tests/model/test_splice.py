"""The splice: 0 for a perfect dictionary, the base model for one that writes zeros."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from harness.contract.context import RunContext
from harness.model.kl import kl_nats
from harness.model.splice import splice_kl
from harness.model.subject import Subject
from harness.model.taps import SetTo, component_sites, tap
from harness.testing import tiny_traces


class Scale:
    """Reconstructs the scalars times a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.factor


def measure(
    subject: Subject, factor: float, batch_tokens: int = 300, *, every_token: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    documents = [subject.chat.document(subject.tokenizer, t) for t in tiny_traces(4)]
    if every_token:
        documents = [replace(d, ranked=(True,) * len(d.ids)) for d in documents]
    run = RunContext(out_dir=Path("unused"), seed=0)
    sums = splice_kl(subject, documents, Scale(factor), run, batch_tokens=batch_tokens)
    return sums.splice_nats, sums.base_nats, sums.n_tokens


def test_a_perfect_dictionary_costs_nothing(tiny_subject: Subject) -> None:
    splice, base, _ = measure(tiny_subject, 1.0)
    assert np.all(splice < 1e-5 * base)


def test_writing_zeros_is_the_base_model(tiny_subject: Subject) -> None:
    splice, base, n_tokens = measure(tiny_subject, 0.0)
    np.testing.assert_array_equal(splice, base)
    for trace, kl, n in zip(tiny_traces(4), base, n_tokens, strict=True):
        ids = torch.tensor([tiny_subject.chat.document(tiny_subject.tokenizer, trace).ids])
        with torch.no_grad():
            full = tiny_subject.model(ids, use_cache=False).logits
            with tiny_subject.model.disable_adapter():
                unadapted = tiny_subject.model(ids, use_cache=False).logits
        expected = kl_nats(full, unadapted)[0]
        text = tiny_subject.chat.document(tiny_subject.tokenizer, trace).text
        before = text[: text.index("<|im_start|>think")]
        n_prompt = len(tiny_subject.tokenizer(before, add_special_tokens=False)["input_ids"])
        np.testing.assert_allclose(kl[0], float(expected[:n_prompt].sum()), rtol=1e-3)
        np.testing.assert_allclose(kl[1:].sum(), float(expected[n_prompt:].sum()), rtol=1e-3)
        assert (n[0], n.sum()) == (n_prompt, ids.shape[1])


def test_scalars_of_the_template_stay_as_they_are(tiny_subject: Subject) -> None:
    splice, base, _ = measure(tiny_subject, 0.0, every_token=False)
    np.testing.assert_array_equal(splice, base)
    everywhere = measure(tiny_subject, 0.0)[1]
    sites = component_sites(tiny_subject.components)
    for trace, kl, whole in zip(tiny_traces(4), base, everywhere, strict=True):
        document = tiny_subject.chat.document(tiny_subject.tokenizer, trace)
        ids, written = torch.tensor([document.ids]), torch.tensor(document.ranked)
        with torch.no_grad():
            with tap(tiny_subject.model, sites) as reading:
                full = tiny_subject.model(ids, use_cache=False).logits
                scalars = reading.values()
            with tap(tiny_subject.model, sites, SetTo(scalars * ~written[None, :, None]), read=False):
                without = tiny_subject.model(ids, use_cache=False).logits
        np.testing.assert_allclose(kl.sum(), float(kl_nats(full, without).sum()), rtol=1e-3)
        assert kl.sum() < whole.sum()


def test_batches_do_not_matter(tiny_subject: Subject) -> None:
    alone, together = measure(tiny_subject, 0.5, 1)[0], measure(tiny_subject, 0.5, 10_000)[0]
    np.testing.assert_allclose(alone, together, rtol=1e-3)
