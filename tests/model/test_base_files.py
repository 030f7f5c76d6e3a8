"""Damaged files of a base model end in a tokenizer or in one sentence, also where a Rust library panics."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

import harness.organism
from harness.errors import ModelError
from harness.model.subject import load_base, load_tokenizer
from harness.records import ModelRef
from tests.mutations import mutated

CHECKPOINT = Path(harness.organism.__file__).with_name("checkpoint")


def test_a_mutated_tokenizer_is_loaded_or_named(tmp_path: Path) -> None:
    good, rng, said = tmp_path / "good", random.Random(0), list[str]()
    good.mkdir()
    for file in CHECKPOINT.iterdir():
        if "token" in file.name or file.name == "config.json":
            shutil.copy(file, good)
    for _ in range(100):
        folder = mutated(good, tmp_path / "folder", rng)
        try:
            load_tokenizer(ModelRef(path=str(folder)))
        except ModelError as error:
            said.append(str(error))
    assert len(said) > 20
    assert [sentence for sentence in said if str(tmp_path) not in sentence or "\n" in sentence] == []


def test_weights_that_are_cut_off_are_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CHECKPOINT, tmp_path / "base"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"cannot load the model '.*base': it is cut off or damaged"):
        load_base(ModelRef(path=str(folder)))
