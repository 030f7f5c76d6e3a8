"""Training: interrupted, killed, streamed, in other units, in the paper's variant; what it says about itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harness.activations.store import Moments, StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.scoring import score_dictionary
from harness.errors import UsageError
from harness.records import Dictionary
from harness.testing import tiny_activations
from harness_plugins.dictionaries.batch_topk import BatchTopKConfig
from harness_plugins.dictionaries.batch_topk.autoencoder import Autoencoder, Objective
from harness_plugins.dictionaries.batch_topk.descent import TrainStep
from harness_plugins.dictionaries.batch_topk.learner import BatchTopKLearner
from harness_plugins.dictionaries.batch_topk.units import InputScaling

D = 6
SMALL = {"k": 2, "expansion": 2, "batch_size": 128, "steps": 60, "checkpoint_steps": 25}


def documents(n_tokens: int, n_documents: int, *, d_in: int = D, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(2 * d_in, d_in))
    codes = (rng.random((n_tokens, 2 * d_in)) < 0.15) * rng.exponential(1.0, (n_tokens, 2 * d_in))
    x = (codes @ directions + 0.5) * np.geomspace(0.1, 10, d_in)
    return {f"d{i}": part for i, part in enumerate(np.array_split(x, n_documents))}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    folder = tmp_path_factory.mktemp("set")
    return open_set(tiny_activations(folder, documents(3000, 40), shard_tokens=700))


def fit(
    stored: StoredActivations, folder: Path, *, seed: int = 0, progress: Any = None, **config: Any
) -> tuple[BatchTopKLearner, Dictionary]:
    learner = BatchTopKLearner(BatchTopKConfig(**config))
    extra = {} if progress is None else {"progress": progress}
    return learner, learner.fit(stored.set, RunContext(out_dir=folder, seed=seed, **extra))


def notes(dictionary: Dictionary) -> dict[str, Any]:
    """What training wrote about itself."""
    metadata: dict[str, Any] = json.loads((dictionary.path / "cfg.json").read_text())["metadata"]
    return metadata


KILLED = """
import sys, time
from pathlib import Path
from harness.activations.store import open_set
from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness_plugins.dictionaries.batch_topk import BatchTopKConfig
from harness_plugins.dictionaries.batch_topk.learner import BatchTopKLearner

class Slow(SilentProgress):
    def advance(self, n=1):
        time.sleep(0.01)

stored, out, config = sys.argv[1:]
learner = BatchTopKLearner(BatchTopKConfig.model_validate_json(config))
learner.fit(open_set(Path(stored)).set, RunContext(out_dir=Path(out), seed=0, progress=Slow()))
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(stored: StoredActivations, tmp_path: Path) -> None:
    """SIGKILL once a checkpoint is there, then again: nothing but a checkpoint can be lost."""
    config = {**SMALL, "steps": 300, "checkpoint_steps": 7}
    _, whole = fit(stored, tmp_path / "whole", **config)
    command = [sys.executable, "-c", KILLED, str(stored.path), str(tmp_path / "killed"), json.dumps(config)]
    checkpoint = tmp_path / "killed" / "training.safetensors"
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 100
    while not checkpoint.exists():
        assert process.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "dictionary" / "cfg.json").exists()
    _, killed = fit(stored, tmp_path / "killed", **config)
    for file in whole.path.iterdir():
        assert file.read_bytes() == (killed.path / file.name).read_bytes(), file.name
    assert not checkpoint.exists()


WATCHED = """
import json, sys
from pathlib import Path
from harness.activations.store import open_set
from harness.contract.context import RunContext
from harness.contract.progress import SilentProgress
from harness_plugins.dictionaries.batch_topk import BatchTopKConfig
from harness_plugins.dictionaries.batch_topk.learner import BatchTopKLearner

class Memory(SilentProgress):
    kb = []
    def advance(self, n=1):
        # The process's own memory: file-backed pages of shards can be taken back at any time.
        self.kb.append(int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]))

stored, out, config = sys.argv[1:]
learner = BatchTopKLearner(BatchTopKConfig.model_validate_json(config))
learner.fit(open_set(Path(stored)).set, RunContext(out_dir=Path(out), seed=0, progress=Memory()))
print(json.dumps(Memory.kb))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """30 shards of 0.8 MB as float32: the shuffle buffer holds two of them, after 6 shards as after 30."""
    set_ = open_set(tiny_activations(tmp_path / "set", documents(60_000, 60, d_in=100), shard_tokens=2000))
    config = {"k": 2, "expansion": 1, "batch_size": 400, "epochs": 2}
    command = [sys.executable, "-c", WATCHED, str(set_.path), str(tmp_path / "d"), json.dumps(config)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    kb = json.loads(done.stdout)
    assert len(kb) > 250
    data_kb = set_.n_tokens() * 100 * 4 / 1024
    # Were the data kept, the other four fifths of them would be added; the allocator's own wobble is some 3 MB.
    assert max(kb) - max(kb[: len(kb) // 5]) < data_kb / 3


def test_the_validation_curve_ends_at_the_score(stored: StoredActivations, tmp_path: Path) -> None:
    learner, dictionary = fit(stored, tmp_path / "d", **SMALL)
    curve = notes(dictionary)["validation"]
    assert [point["step"] for point in curve] == list(range(6, 61, 6))
    codec = learner.load(dictionary)
    score = score_dictionary(dictionary, codec, stored, None, RunContext(out_dir=tmp_path, seed=0))
    assert notes(dictionary)["validation_tokens"] == score.n_tokens
    assert curve[-1]["fvu"] == pytest.approx(score.fvu.value, rel=1e-5)
    assert curve[-1]["l0"] == pytest.approx(score.l0.value, rel=1e-5)
    assert curve[-1]["fvu"] < curve[0]["fvu"]


def test_validation_can_be_left_out_and_changes_nothing(stored: StoredActivations, tmp_path: Path) -> None:
    _, with_curve = fit(stored, tmp_path / "a", **SMALL)
    _, without = fit(stored, tmp_path / "b", **SMALL, validation_tokens=0)
    assert notes(without)["validation"] == []
    weights = "sae_weights.safetensors"
    assert (with_curve.path / weights).read_bytes() == (without.path / weights).read_bytes()


def test_the_trackers_dead_latents_are_those_a_full_pass_does_not_see(
    stored: StoredActivations, tmp_path: Path
) -> None:
    """One epoch at a vanishing learning rate, against dense codes of the same batches by the definition."""
    train = stored.split().train
    n_steps = stored.n_tokens(train) // 128
    tokens = n_steps * 128
    _, dictionary = fit(
        stored, tmp_path, k=1, expansion=8, batch_size=128, steps=n_steps, lr=1e-30, dead_after_tokens=tokens,
        validation_tokens=0,
    )  # fmt: skip
    from harness_plugins.dictionaries.batch_topk.learner import _batches

    moments = stored.moments(train)
    units = InputScaling.of(moments, "scale")
    sae = Autoencoder(units.centre, 8 * D, torch.Generator().manual_seed(0))
    alive = torch.zeros(8 * D, dtype=torch.bool)
    for x in _batches(stored, train, 128, 0, 0, n_steps):
        active = torch.relu((units.apply(x) - sae.b_dec) @ sae.W_enc.T + sae.b_enc).detach()
        alive |= (active >= active.flatten().topk(128).values[-1]).any(0)
    assert notes(dictionary)["n_dead"] == int((~alive).sum())
    assert 0 < int(alive.sum()) < 8 * D


def test_centred_columns_train_to_the_same_reconstruction(stored: StoredActivations, tmp_path: Path) -> None:
    """Subtracting the mean (zscore) only moves it from b_dec to the shift."""
    x = torch.from_numpy(np.array(stored.document("d0").values)).float()
    rebuilt = []
    for standardise in ("scale", "zscore"):
        learner, dictionary = fit(stored, tmp_path / standardise, **{**SMALL, "steps": 20}, standardise=standardise)
        codec = learner.load(dictionary)
        rebuilt.append(codec.decode(codec.encode(x)))
    scale = torch.from_numpy(stored.moments().std).float()
    assert float(((rebuilt[0] - rebuilt[1]) / scale).abs().median()) < 1e-4


def test_write_norms_weigh_columns_by_what_they_write() -> None:
    moments = Moments(mean=np.array([1.0, 2.0]), std=np.array([3.0, 4.0]), n_tokens=10)
    units = InputScaling.of(moments, "write-norm", np.array([0.5, 10.0]))
    torch.testing.assert_close(units.apply(torch.tensor([[2.0, 2.0]])), torch.tensor([[1.0, 20.0]]))
    torch.testing.assert_close(units.centre, torch.tensor([0.5, 20.0]))
    with pytest.raises(UsageError, match="write-norm needs"):
        InputScaling.of(moments, "write-norm")


def test_raw_columns_are_left_alone(stored: StoredActivations, tmp_path: Path) -> None:
    _, dictionary = fit(stored, tmp_path, **SMALL, standardise="none")
    W_dec = load_file(dictionary.path / "sae_weights.safetensors")["W_dec"]
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(len(W_dec)), rtol=1e-5, atol=1e-5)


def test_the_papers_variant_sets_what_its_code_sets_and_can_be_overruled() -> None:
    config = BatchTopKConfig(variant="paper-code")
    assert (config.lr, config.schedule, config.epochs, config.standardise) == (5e-4, "constant", 1, "none")
    assert (config.k_aux, config.clip_norm, config.dead_after_tokens) == (16, None, 1_000_000)
    assert (config.warmup_steps, config.adam_beta2) == (100, 0.999)
    assert BatchTopKConfig(variant="paper-code", lr=1e-3).lr == 1e-3
    assert BatchTopKConfig.merged("batch-topk", {"variant": "paper-code"}, {"k": 4}).schedule == "constant"


def test_beta2_is_that_of_adam(stored: StoredActivations, tmp_path: Path) -> None:
    """Three steps on one batch: a step's second moment is what its Adam makes of the gradients, whatever the beta."""
    x = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    dead = torch.zeros(40, dtype=torch.bool)
    for beta2 in (0.9, 0.999):
        sae = Autoencoder(torch.zeros(20), 40, torch.Generator().manual_seed(1))
        descent = TrainStep(sae, Objective(k=3, aux_coefficient=0.0), compute="fp32", clip_norm=None, beta2=beta2)
        expected = np.zeros(40)
        for _ in range(3):
            descent.step(x, dead, 1e-3)
            assert sae.b_enc.grad is not None
            expected = beta2 * expected + (1 - beta2) * sae.b_enc.grad.double().numpy() ** 2
        found = descent.optimizer.state[sae.b_enc]["exp_avg_sq"]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-12)
    weights = []
    for beta2 in (0.9, 0.999):
        _, dictionary = fit(stored, tmp_path / str(beta2), **SMALL, adam_beta2=beta2)
        weights.append(load_file(dictionary.path / "sae_weights.safetensors")["W_dec"])
    assert not torch.equal(*weights)


def test_the_papers_variant_is_exported_with_the_codes_it_trained(stored: StoredActivations, tmp_path: Path) -> None:
    """Norms, the missing centring and the threshold are folded into the file: against the formulas written out."""
    learner, dictionary = fit(stored, tmp_path, k=2, expansion=2, batch_size=128, variant="paper-code", steps=30)
    assert notes(dictionary)["compute"] == "dense"
    assert dictionary.losses[-1][0] == stored.n_tokens(stored.split().train) // 128 - 1  # one epoch
    codec = learner.load(dictionary)
    W_dec = codec.W_dec
    torch.testing.assert_close(W_dec.norm(dim=1), torch.ones(len(W_dec)), rtol=1e-5, atol=1e-5)


def test_the_papers_variant_begins_as_its_code_does() -> None:
    """Torch's own initialiser on the shape that the code gives its encoder, [d_in, latent]."""
    sae = Autoencoder(torch.zeros(D), 50 * D, torch.Generator().manual_seed(0), initial="kaiming")
    theirs = torch.nn.init.kaiming_uniform_(torch.empty(D, 50 * D), nonlinearity="relu", generator=torch.Generator())
    assert float(sae.W_enc.detach().std()) == pytest.approx(float(theirs.std()), rel=0.05)
    assert float(sae.W_enc.detach().abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01)
    assert torch.equal(sae.W_enc, sae.W_dec)


def test_free_decoder_rows_are_folded_into_the_codes(tmp_path: Path) -> None:
    """Codes of the file times its unit rows are what training reconstructed, at the threshold that it ranked by."""
    from harness_plugins.dictionaries.batch_topk.units import fitted
    from harness_plugins.dictionaries.sae import JumpRelu

    for centred in (True, False):
        generator = torch.Generator().manual_seed(0)
        sae = Autoencoder(torch.randn(D, generator=generator), 12, generator)
        with torch.no_grad():
            sae.W_dec.mul_(torch.linspace(0.3, 3, 12)[:, None])
            sae.b_enc.normal_(generator=generator)
        x = torch.randn(50, D, generator=generator)
        model = fitted(
            sae,
            Objective(k=1, decoder="norm-aware", centred=centred),
            InputScaling(*(torch.zeros(D), torch.ones(D)) * 1, torch.zeros(D)),
        )
        names = ("W_enc", "W_dec", "b_enc", "b_dec")
        codec = JumpRelu({**{n: getattr(model, n) for n in names}, "threshold": torch.full((12,), 0.8)})
        pre = (x - sae.b_dec if centred else x) @ sae.W_enc.T + sae.b_enc
        kept = torch.where(pre * sae.W_dec.norm(dim=1) > 0.8, pre, 0)
        torch.testing.assert_close(codec.decode(codec.encode(x)), (kept @ sae.W_dec + sae.b_dec).detach())


def test_dead_latents_come_back_through_the_auxiliary_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, 20, generator=generator))
    fired = []
    for coefficient in (0.0, 1 / 32):
        sae = Autoencoder(torch.zeros(20), 60, torch.Generator().manual_seed(1))
        with torch.no_grad():
            sae.b_enc[:30] = -1.0  # half of them never win
        descent = TrainStep(sae, Objective(k=3, k_aux=10, aux_coefficient=coefficient), compute="fp32")
        since = torch.zeros(60, dtype=torch.long)
        for _ in range(400):
            x = ((torch.rand(128, 40, generator=generator) < 0.08) * 1.0) @ directions
            report = descent.step(x, since >= 1000, 3e-3)
            since += 128
            since[report.fired] = 0
        fired.append(int((since < 1000).sum()))
    assert fired[1] > fired[0]
