"""Mutated activation sets end in numbers or in one sentence, never in a library's exception."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.activations.manifest import parts
from harness.activations.store import open_set
from harness.errors import DataError
from harness.testing import tiny_activations
from tests.mutations import mutated

N_FOLDERS = 500
"""Of each of four kinds."""
FIELDS = {"dtype": "float32", "sparse": True, "columns": ["a"], "n_tokens": 3, "shards": [], "documents": [["d0", 2]]}


def good_folder(folder: Path, *, sparse: bool) -> Path:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.normal(size=(4 + i, 3)).astype(np.float32) for i in range(4)}
    tiny_activations(folder, documents, shard_tokens=9, sparse=sparse)
    return folder


def sign_again(folder: Path) -> None:
    """Write the hashes that the files now have into the manifest, as a tool that edits a set might."""
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text())
        for shard in manifest["shards"]:
            endings = {**parts(sparse=True), **parts(sparse=False)}
            shard["sha256"] = {
                part: hashlib.sha256((folder / (shard["name"] + ending)).read_bytes()).hexdigest()
                for part, ending in endings.items()
                if (folder / (shard["name"] + ending)).is_file()
            }
        file.write_text(json.dumps(manifest))
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # the manifest itself is what was damaged


def read_everything(folder: Path) -> None:
    stored = open_set(folder)
    for document in stored.documents():
        assert document.values.shape == document.csr.shape
        document.document()
        document.window(0, len(document.ids), 0)
        stored.tokens(document.id)
    stored.moments()
    for batch in stored.batches(5, torch.Generator().manual_seed(0)):
        assert batch.shape[1] == len(stored.columns)


@pytest.mark.parametrize("signed", [False, True], ids=["as found", "signed again"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_mutated_set_is_read_or_named(sparse: bool, signed: bool, tmp_path: Path) -> None:
    good, rng = good_folder(tmp_path / "good", sparse=sparse), random.Random(2 * sparse + signed)
    said: list[str] = []
    for _ in range(N_FOLDERS):
        folder = mutated(good, tmp_path / "folder", rng, FIELDS)
        if signed:
            sign_again(folder)
        try:
            read_everything(folder)
        except DataError as error:
            said.append(str(error))
    assert len(said) > N_FOLDERS // 5
    assert [sentence for sentence in said if str(tmp_path) not in sentence or "\n" in sentence] == []
