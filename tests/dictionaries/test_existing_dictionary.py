"""A dictionary from a folder: judged like one that was fitted here, refused where it is of another adapter."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.dictionaries.formats import export
from harness.dictionaries.weights import load_weights
from harness.errors import DataError
from harness.records import Dictionary
from harness.testing import tiny_activations
from harness_plugins.dictionaries import abs_topk, batch_topk, existing_dictionary


def fit(module: Any, stored: StoredActivations, folder: Path, **config: Any) -> tuple[Any, Dictionary]:
    (offer,) = module.harness_dictionaries()
    learner = offer.implementation()(offer.config(**config))
    return learner, learner.fit(stored.set, RunContext(out_dir=folder, seed=0))


SMALL = {"k": 2, "expansion": 2, "batch_size": 128, "steps": 60}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredActivations:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.laplace(size=(100, 6)) @ rng.normal(size=(6, 6)) for i in range(20)}
    return open_set(tiny_activations(tmp_path_factory.mktemp("set"), documents, shard_tokens=700))


@pytest.mark.parametrize("form", ["saelens", "dictionary-learning", "own"])
@pytest.mark.parametrize("module", [batch_topk, abs_topk])
def test_codes_are_those_of_the_dictionary_that_was_exported(
    module: Any, form: str, stored: StoredActivations, tmp_path: Path
) -> None:
    learner, fitted = fit(module, stored, tmp_path / "fit", **SMALL)
    folder = fitted.path
    if form != "own":
        folder = tmp_path / "out"
        export(load_weights(fitted.path), folder, form)
    opener, opened = fit(existing_dictionary, stored, tmp_path / "open", path=str(folder))
    assert opened.k == 2
    assert opened.columns == stored.columns
    x = torch.from_numpy(np.array(stored.document("d3").values))
    first, second = learner.load(fitted), opener.load(opened)
    z, other = first.encode(x), second.encode(x)
    if fitted.signed and form != "own":
        other = other[:, 0::2] - other[:, 1::2]
    torch.testing.assert_close(other, z, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second.decode(second.encode(x)), first.decode(z), rtol=1e-4, atol=1e-4)


def test_a_dictionary_of_another_adapter_is_refused(stored: StoredActivations, tmp_path: Path) -> None:
    other = tiny_activations(
        tmp_path / "o", {d.id: d.values for d in stored.documents()}, columns=("x", *stored.columns[1:])
    )
    _, fitted = fit(batch_topk, open_set(other), tmp_path / "fit", **SMALL)
    with pytest.raises(DataError, match=r"other columns.*'L0\.q_proj' for 'x'"):
        fit(existing_dictionary, stored, tmp_path / "open", path=str(fitted.path))
    fewer = tiny_activations(tmp_path / "f", {d.id: d.values[:, :4] for d in stored.documents()})
    _, fitted = fit(batch_topk, open_set(fewer), tmp_path / "fit4", **SMALL)
    with pytest.raises(DataError, match=r"a dictionary of 4 columns, and adapter-activations has 6.*another adapter"):
        fit(existing_dictionary, stored, tmp_path / "open", path=str(fitted.path))


def test_columns_and_target_that_are_not_said(
    stored: StoredActivations, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file of SAELens' own: nothing is known but the tensors. The target is then the measured L0."""
    _, fitted = fit(batch_topk, stored, tmp_path / "fit", **SMALL)
    config = json.loads((fitted.path / "cfg.json").read_text())
    config["metadata"] = {"sae_lens_version": "6.54.12"}
    (fitted.path / "cfg.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        opener, opened = fit(existing_dictionary, stored, tmp_path / "open", path=str(fitted.path))
    assert "does not name its columns" in caplog.text
    train = torch.from_numpy(np.concatenate([d.values[d.ranked] for d in stored.documents(stored.split().train)]))
    l0 = float((opener.load(opened).encode(train) != 0).sum()) / len(train)
    assert opened.k == pytest.approx(l0)
