"""A dictionary's score is the same arithmetic for all: held against numpy, and against what a splice must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.activity import Activity, activity
from harness.dictionaries.scoring import reconstruction, score_dictionary, score_latents
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, load_subject
from harness.records import Dictionary, Estimate, ModelRef
from harness.testing import tiny_activations, tiny_adapter, tiny_traces
from harness_plugins.probes import adapter_activations


class Threshold:
    """Keeps what is far enough from 0: a latent per column."""

    def __init__(self, threshold: float = 0.5, factor: float = 1.0) -> None:
        self.threshold, self.factor = threshold, factor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.abs() > self.threshold)

    def encode_sparse(self, x: torch.Tensor) -> csr_array:
        return csr_array(self.encode(x).numpy())

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.factor


class Constant(Threshold):
    """Predicts a constant."""

    def __init__(self, constant: np.ndarray) -> None:
        super().__init__()
        self.constant = torch.tensor(constant)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.constant.expand(len(z), -1)


def value(estimate: Estimate | None) -> float:
    """The number itself, of what was measured."""
    assert estimate is not None
    return estimate.value


def made_up(folder: Path) -> tuple[StoredActivations, Dictionary]:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.normal(size=(30, 3)) * [1, 2, 0.1] for i in range(20)}
    stored = open_set(tiny_activations(folder, documents, shard_tokens=100))
    return stored, named(stored)


def named(stored: StoredActivations) -> Dictionary:
    n = len(stored.columns)
    return Dictionary(name="d", path=stored.path, columns=stored.columns, n_latents=n, k=2, signed=True)


@pytest.fixture(scope="module", params=[1, 3])
def read(
    request: pytest.FixtureRequest, tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Subject, StoredActivations]:
    """An adapter of rank 1 or 3, and its scalars."""
    folder = tmp_path_factory.mktemp(f"rank{request.param}")
    checkpoint = tiny_adapter(tiny_base, folder / "adapter", rank=request.param)
    subject = load_subject(tiny_base, ChatFormat(), checkpoint)
    (probe,) = adapter_activations.harness_probes()
    record = probe.implementation()(probe.config()).read(subject, tiny_traces(24), RunContext(out_dir=folder, seed=0))
    return subject, open_set(record)


def test_predicting_the_held_out_mean_has_fvu_one(tmp_path: Path) -> None:
    stored, _ = made_up(tmp_path)
    held_out = stored.split().held_out
    sums = reconstruction(Constant(stored.moments(held_out).mean), stored, held_out)
    assert sums.residual.sum() / sums.total.sum() == pytest.approx(1)


def test_fvu_l0_and_densities_are_what_numpy_says(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    score = score_dictionary(dictionary, Threshold(), stored, None, RunContext(out_dir=tmp_path, seed=0))
    held_out = stored.split().held_out
    x = np.concatenate([d.values[d.ranked] for d in stored.documents(held_out)]).astype(np.float64)
    kept = np.where(np.abs(x) > 0.5, x, 0)
    assert score.fvu.value == pytest.approx(((x - kept) ** 2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-6)
    assert score.l0.value == pytest.approx((kept != 0).sum() / len(x))
    assert score.fvu.low <= score.fvu.value <= score.fvu.high
    assert score.l0.low <= score.l0.value <= score.l0.high
    assert (score.n_documents, score.n_tokens) == (len(held_out), len(x))
    everything = np.concatenate([d.values[d.ranked] for d in stored.documents()])
    density = (np.abs(everything) > 0.5).mean(0)
    assert score.n_alive == (density > 0).sum() == 2
    assert score.n_tokens_alive == len(everything)
    expected = np.histogram(np.log10(density[density > 0]), bins=np.arange(-6, 0.5, 0.5))[0]
    assert score.density_histogram == tuple(expected)


def test_what_was_not_measured_has_a_reason(tmp_path: Path, tiny_subject: Subject) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    run = RunContext(out_dir=tmp_path, seed=0)
    for subject, words in ((None, "no model was given"), (tiny_subject, "does not read the adapter's scalars")):
        score = score_dictionary(dictionary, Threshold(), stored, subject, run)
        assert (score.kl_splice_nats, score.kl_recovered, score.stability) == (None, None, None)
        assert words in str(score.reason)
        assert "judging.second_fit" in str(score.reason)
    off = score_dictionary(dictionary, Threshold(), stored, tiny_subject, run, splice_documents=0)
    assert "judging.splice_documents=0" in str(off.reason)


def test_a_latent_that_is_active_everywhere_is_in_the_last_bin() -> None:
    found = Activity(np.array([10, 0, 1]), np.array([5.0, 0.0, 9.0]), 10)
    assert found.histogram() == (0,) * 10 + (1, 1)
    assert found.most_active(5) == [2, 0], "the dead one is not active"


def test_activity_does_not_count_special_and_first_tokens(tmp_path: Path) -> None:
    stored = open_set(tiny_activations(tmp_path, {"a": np.array([[9.0], [0.0], [1.0]]), "b": np.array([[9.0], [0.0]])}))
    found = activity(Threshold(), stored, 1)
    assert (found.n_active.tolist(), found.activation_sum.tolist(), found.n_tokens) == ([1], [1.0], 3)


def test_a_perfect_splice_recovers_all_and_writing_zeros_nothing(
    read: tuple[Subject, StoredActivations], tmp_path: Path
) -> None:
    subject, stored = read
    run = RunContext(out_dir=tmp_path, seed=0)
    perfect = score_dictionary(named(stored), Threshold(0), stored, subject, run)
    assert value(perfect.kl_recovered) == pytest.approx(1, abs=1e-4)
    nothing = score_dictionary(named(stored), Threshold(factor=0), stored, subject, run)
    assert value(nothing.kl_recovered) == pytest.approx(0, abs=1e-9)
    assert nothing.kl_splice_nats == nothing.kl_base_nats
    assert value(nothing.kl_base_nats) > 0.1
    half = score_dictionary(named(stored), Threshold(0, factor=0.7), stored, subject, run)
    recovered = half.kl_recovered
    assert recovered is not None
    assert 0 < recovered.low < recovered.value < recovered.high < 1
    assert half.n_splice_documents == len(stored.split().held_out)
    whole = value(half.kl_base_nats) * half.n_splice_tokens
    whole += value(half.kl_base_nats_prompt) * half.n_splice_tokens_prompt
    assert value(half.kl_base_nats_all) * half.n_splice_tokens_all == pytest.approx(whole)
    parts = [value(getattr(half, f"kl_recovered_{of}")) for of in ("trace", "answer")]
    assert min(parts) < recovered.value < max(parts)
    assert 0 < value(half.kl_recovered_prompt) < 1


def test_a_latent_of_the_identity_is_a_component_switched_off(
    read: tuple[Subject, StoredActivations], tmp_path: Path
) -> None:
    """Against weights: A loses the slice by hand, one document at a time, and the KL is taken in float64.

    The response is what follows the first `<|im_start|>think`: its tokens are found by tokenising the text before it.
    """
    subject, stored = read
    codec = Threshold(0)
    run = RunContext(out_dir=tmp_path, seed=0)
    active = activity(codec, stored, len(stored.columns))
    effects = score_latents(named(stored), codec, stored, subject, active, run, n_latents=3)
    assert [e.item for e in effects] == [f"effect:latent{i}" for i in active.most_active(3)]
    held_out = [d.document() for d in stored.documents(stored.split().held_out)]
    for effect in effects:
        component = subject.components[int(effect.latent.removeprefix("latent"))]
        weight = subject.model.get_submodule(component.module).lora_A[component.adapter].weight.data
        kept, gauge, i = weight.clone(), component.gauge, component.rank_index
        without = torch.zeros_like(kept) if gauge is None else kept - gauge.backward[:, [i]] @ gauge.forward[[i]] @ kept
        total = {"response": 0.0, "prompt": 0.0}
        n_tokens = {"response": 0, "prompt": 0}
        for document in held_out:
            ids = torch.tensor([document.ids])
            with torch.no_grad():
                full = subject.model(ids, use_cache=False).logits.double().log_softmax(-1)
                written = torch.tensor(document.ranked)[None, :, None]
                module = subject.model.get_submodule(component.module).lora_A[component.adapter]
                hook = module.register_forward_hook(
                    lambda _, args, out, w=without, at=written: torch.where(at, args[0] @ w.T, out)
                )
                off = subject.model(ids, use_cache=False).logits.double().log_softmax(-1)
                hook.remove()
            kl = (full.exp() * (full - off)).sum(-1)[0]
            before = document.text[: document.text.index("<|im_start|>think")]
            n_prompt = len(subject.tokenizer(before, add_special_tokens=False)["input_ids"])
            for name, part in (("prompt", kl[:n_prompt]), ("response", kl[n_prompt:])):
                total[name] += float(part.sum())
                n_tokens[name] += len(part)
        assert (effect.n_tokens, effect.n_tokens_prompt) == (n_tokens["response"], n_tokens["prompt"])
        assert effect.kl_nats.value == pytest.approx(total["response"] / effect.n_tokens, rel=1e-3)
        assert value(effect.kl_nats_prompt) == pytest.approx(total["prompt"] / n_tokens["prompt"], rel=1e-3)
        assert value(effect.kl_nats_all) == pytest.approx(sum(total.values()) / effect.n_tokens_all, rel=1e-3)
        assert effect.kl_nats.low <= effect.kl_nats.value <= effect.kl_nats.high
        assert effect.n_documents == len(held_out)


def test_a_latent_that_never_fires_on_held_out_documents_does_nothing(
    read: tuple[Subject, StoredActivations], tmp_path: Path
) -> None:
    subject, stored = read

    class Never(Threshold):
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    active = activity(Threshold(0), stored, len(stored.columns))
    (effect,) = score_latents(
        named(stored), Never(), stored, subject, active, RunContext(out_dir=tmp_path, seed=0), n_latents=1
    )
    assert (effect.kl_nats.value, effect.n_active) == (0.0, 0)


def test_stability_is_of_the_latents_that_are_alive(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    run = RunContext(out_dir=tmp_path, seed=0)

    class Swapped(Threshold):
        """The same latents in another order and another unit; the third is dead."""

        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return super().encode(x)[:, [2, 1, 0]] * -2

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z[:, [2, 1, 0]] / -2

    score = score_dictionary(dictionary, Threshold(), stored, None, run, second=(dictionary, Swapped()))
    assert value(score.stability) == pytest.approx(1)
    assert score.n_matched == 2


def test_stability_counts_columns_in_their_own_deviations(tmp_path: Path) -> None:
    """The second fit's rows lean to other columns; undivided, the column with the largest numbers would decide."""
    stored, dictionary = made_up(tmp_path / "a")
    lean = np.array([[1.0, 0.5, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 1.0]])

    class Leaning(Threshold):
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return z @ torch.tensor(lean, dtype=z.dtype)

    run = RunContext(out_dir=tmp_path, seed=0)
    fits = Threshold(), Leaning()
    found, turned = (
        score_dictionary(dictionary, one, stored, None, run, second=(dictionary, other)).stability
        for one, other in (fits, fits[::-1])
    )
    values = np.concatenate([d.values[d.ranked] for d in stored.documents(stored.split().train)]).astype(np.float64)
    unit = lean / values.std(0)
    expected = np.mean([unit[i, i] / np.linalg.norm(unit[i]) for i in range(2)])  # the third is dead
    # float16 storage; undivided it would be .93
    assert (value(found), value(turned)) == pytest.approx((expected, expected), rel=1e-3)
    assert abs(expected - np.mean([lean[i, i] / np.linalg.norm(lean[i]) for i in range(2)])) > 0.01


def test_stability_says_how_many_pairs_are_the_same_and_what_chance_gives(tmp_path: Path) -> None:
    stored, dictionary = made_up(tmp_path / "a")
    run = RunContext(out_dir=tmp_path, seed=0)
    score = score_dictionary(dictionary, Threshold(), stored, None, run, second=(dictionary, Threshold()))
    assert value(score.stability) == pytest.approx(1)
    assert value(score.stable_share) == 1
    assert score.n_matched == 2, "the third column is never beyond the threshold"
    assert 0 < float(score.chance_cosine or 0) < 0.95
    residual, total, active, n_tokens = np.array(score.by_document).T
    assert residual.sum() / total.sum() == pytest.approx(score.fvu.value)
    assert active.sum() / n_tokens.sum() == pytest.approx(score.l0.value)
