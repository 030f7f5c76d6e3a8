"""`harness dictionary export`: the door a user takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.cli import main
from harness.dictionaries.formats import read
from harness.dictionaries.weights import Weights, save_weights
from harness.records import Dictionary
from harness.store.writer import Store


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """A database with one dictionary, in the current folder."""
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 4, generator=draw), torch.randn(4, 3, generator=draw)
    weights = Weights(a, b, torch.zeros(4), torch.ones(3), torch.full((4,), 0.2), signed=True, metadata={"k": 2})
    save_weights(tmp_path / "fitted", weights)
    with Store.open("results.db") as store:
        from harness.study.provenance import collect

        provenance = collect()
        run_id = store.begin_run(study="s", preset=None, seed=0, provenance=provenance)
        step, _ = store.begin_step(
            run_id, 0, key="k", name="learn/abs-topk@k=2", stage="learn", kind="learn", plugin="abs-topk",
            plugin_version="1", config={}, inputs=[], seed=0, provenance=provenance, device="cpu", artifact="x",
        )  # fmt: skip
        for name, folder in (("abs-topk@k=2", "fitted"), ("two@k=2,expansion=4", "fitted"), ("gone", "n" * 200)):
            record = Dictionary(
                item=name, name=name, path=tmp_path / folder, columns=("a", "b", "c"), n_latents=4, k=2, signed=True
            )
            store.write(step, record)
    return weights


def test_by_name_then_by_folder(study: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dictionary", "list") == 0
    listed = capsys.readouterr().out
    assert "abs-topk@k=2" in listed
    assert "n" * 200 in listed  # a folder is in one piece, to be copied
    assert run("dictionary", "export", "abs-topk@k=2", "--format", "saelens", "--out", "sae") == 0
    assert "8 latents (4 signed ones) on 3 columns" in capsys.readouterr().out
    assert run("dictionary", "export", "sae", "--format", "dictionary-learning", "--out", "ae") == 0
    for name, tensor in study.unsigned().tensors().items():
        torch.testing.assert_close(read(Path("ae")).tensors()[name], tensor)


def test_the_settings_of_a_cell_come_in_any_order(study: Weights) -> None:
    assert run("dictionary", "export", "two@expansion=4,k=2", "--format", "saelens", "--out", "sae") == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["abs-topk", "--format", "saelens", "--out", "x"], "nearest: 'abs-topk@k=2'"),
        (["gone", "--format", "saelens", "--out", "x"], "the folder of 'gone' is gone"),
        (["abs-topk@k=2", "--format", "saelens", "--out", "fitted"], "is not empty"),
    ],
)
def test_what_goes_wrong_is_said(
    arguments: list[str], words: str, study: Weights, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("dictionary", "export", *arguments) == 2
    assert words in capsys.readouterr().err
