"""`import harness` from a script or a notebook: docs/python.md as it stands, and what it leaves out."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import harness
from harness.api.token_html import coloured_tokens
from harness.errors import ResultsError, UnknownName, UsageError

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def folder(tiny_study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the results of the tiny study, with its artefacts."""
    return Path(shutil.copytree(tiny_study, tmp_path_factory.mktemp("python") / "study"))


@pytest.fixture
def results(folder: Path) -> harness.Results:
    return harness.open(folder / "results.db", artifacts=folder / "artifacts")


@pytest.fixture(scope="module")
def subject(folder: Path) -> harness.Subject:
    adapter = next((folder / "artifacts").glob("train-rank1-lora-*/adapter"))
    return harness.load("package://harness/organism/checkpoint", adapter, device="cpu")


def test_the_page_works_as_it_is_printed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "own")
    monkeypatch.chdir(tmp_path / "own")
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "rank1-lora done" in said
    assert "numbers side by side" in said
    assert names["codes"].shape[0] == len(names["document"].ids)  # type: ignore[attr-defined]


def test_opening_results_imports_no_torch_and_writes_nothing(folder: Path) -> None:
    code = (
        "import sys, harness\n"
        "run = harness.open('results.db').run()\n"
        "print(len(run.table('recovery')), len(run.tables()))\n"
        "sys.exit('torch' in sys.modules)"
    )
    before = (folder / "results.db").read_bytes()
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (folder / "results.db").read_bytes() == before


def test_a_table_has_the_fields_of_the_json(results: harness.Results) -> None:
    table = results.run().table("features")
    frame = table.df
    assert len(frame) == len(table) == len(list(table)) > 100
    assert {"source", "feature", "purity", "purity_ci_low", "density_per_token"} <= set(frame.columns)
    assert "Features" in str(table)


def test_html_of_a_table_escapes_what_a_corpus_wrote(results: harness.Results) -> None:
    html = results.run().table("features")._repr_html_()
    assert "<table>" in html
    assert "<script" not in html


def test_a_features_activations_add_up_to_its_stored_sum(results: harness.Results) -> None:
    """The stored sum is over all ranked tokens, of one polarity: the same numbers by another way."""
    run = results.run()
    assert set(run.sources()) >= {"adapter-activations", "batch-topk"}
    for source in ("adapter-activations", "batch-topk"):
        rows = run.table("features").df.query("source == @source and activation_sum > 0")
        for name in rows.feature.iloc[:2]:
            feature = run.feature(source, name)
            values = np.concatenate(list(feature.activations().values()))
            assert values.sum(dtype=np.float64) == pytest.approx(feature.about.activation_sum, rel=1e-4)
            assert values.max() == pytest.approx(feature.about.activation_max, rel=1e-6)
            assert feature.contexts[0].activations[feature.contexts[0].target] == pytest.approx(values.max(), rel=1e-3)


def test_a_feature_in_a_notebook_shows_explanation_and_coloured_contexts(results: harness.Results) -> None:
    run = results.run()
    row = run.table("features").df.query("source == 'batch-topk' and n_exemplars > 0").iloc[0]
    html = run.feature("batch-topk", row.feature)._repr_html_()
    assert "rgba(217, 95, 2, 1.00)" in html  # the highest token has full colour
    assert "lexical:" in html


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda run: run.table("recoveries"), "nearest: 'recovery'"),
        (lambda run: run.feature("batch-topk", "latent9999"), "no feature of batch-topk 'latent9999'"),
        (lambda run: run.feature("batch-top", "latent1"), "nearest: 'batch-topk'"),
        (lambda run: run.dictionary("sae"), "no dictionary 'sae'"),
        (lambda run: run.activations("sae"), "no activation set 'sae'"),
    ],
)
def test_unknown_names_are_answered_by_the_nearest(results: harness.Results, ask, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UnknownName, match=re.escape(words)):
        ask(results.run())


def test_a_database_or_run_that_is_not_there(results: harness.Results, tmp_path: Path) -> None:
    with pytest.raises(ResultsError):
        harness.open(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(ResultsError, match="no run '7'"):
        results.run(7)


def test_artefacts_that_are_elsewhere_are_named(folder: Path, tmp_path: Path) -> None:
    run = harness.open(folder / "results.db", artifacts=tmp_path).run()
    with pytest.raises(harness.HarnessError, match=r"harness\.open\(db, artifacts=FOLDER\)"):
        run.activations("adapter-activations")


def test_scalars_are_the_products_of_the_adapters_own_rows(subject: harness.Subject) -> None:
    """By hand: the input of each adapted module, caught by a plain hook, times the row of its lora_A."""
    text = "Wait, check: 3 ^ 5 = 5."
    scalars = subject.scalars(text)
    component = subject.components[5]
    module = subject.model.get_submodule(component.module)
    caught: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: caught.append(args[0].detach()))
    with torch.no_grad():
        subject.model(**subject.tokenizer(text, return_tensors="pt"))
    handle.remove()
    by_hand = caught[0][0] @ module.lora_A[component.adapter].weight[0].detach()
    np.testing.assert_allclose(scalars.of(component.name), by_hand.numpy(), rtol=1e-5, atol=1e-6)
    assert "".join(scalars.tokens[-2:]) in text
    assert scalars.top(3)[0].position > 0


def test_gains_of_one_change_no_bit_and_gains_of_zero_are_the_base(subject: harness.Subject) -> None:
    inputs = subject.tokenizer("3 ^ 5 = 5. Then 4 ^ 2 =", return_tensors="pt")
    with torch.no_grad():
        whole = subject.model(**inputs).logits
        with subject.gains(dict.fromkeys(subject.scalars("3").names, 1.0)):
            assert torch.equal(subject.model(**inputs).logits, whole)
        with subject.gains(dict.fromkeys(subject.scalars("3").names, 0.0)):
            off = subject.model(**inputs).logits
        with subject.model.disable_adapter():
            assert torch.equal(subject.model(**inputs).logits, off)
        assert torch.equal(subject.model(**inputs).logits, whole)  # nothing is left behind


def test_kl_is_the_textbooks(subject: harness.Subject) -> None:
    texts = ["3 ^ 5 = 5.", "So 7 + 1 = 8. Then"]
    name = subject.components[0].name
    sums, n = [], []
    for text in texts:
        inputs = subject.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            p = subject.model(**inputs).logits[0].double().log_softmax(-1)
            with subject.gains({name: 0.0}):
                q = subject.model(**inputs).logits[0].double().log_softmax(-1)
        sums.append(float((p.exp() * (p - q)).sum()))
        n.append(len(p))
    found = subject.kl(texts, off=[name])
    assert found.value == pytest.approx(sum(sums) / sum(n), rel=1e-3)  # their logits are float32, rounded at 1e-6
    assert found.n == 2


def test_a_model_in_memory_is_read_as_a_loaded_one(subject: harness.Subject) -> None:
    same = harness.Subject.of(subject.model, subject.tokenizer)
    text = "Wait, 3 ^ 5 = 5."
    np.testing.assert_array_equal(same.scalars(text).values, subject.scalars(text).values)
    assert "<span" in same.scalars(text)._repr_html_()


def test_wrong_arguments_are_a_sentence(subject: harness.Subject, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="no component 'L9"), subject.gains({"L9.nothing": 0.0}):
        pass
    with pytest.raises(UsageError, match="takes a list of texts"):
        subject.kl("one text")
    with pytest.raises(UsageError, match=r"a key is NAME\.KEY"):
        harness.run(set={"rank": 4}, db=tmp_path / "results.db")
    base = harness.load("package://harness/organism/checkpoint", device="cpu")
    with pytest.raises(harness.HarnessError, match="no adapter"):
        base.scalars("text")


def test_tokens_are_escaped_and_line_breaks_shown() -> None:
    html = coloured_tokens(["<b>", "\n", "x"], [1.0, 0.0, -0.5], target=2)
    assert "&lt;b&gt;" in html
    assert "↵" in html
    assert "rgba(31, 120, 180, 0.50); text-decoration: underline" in html
