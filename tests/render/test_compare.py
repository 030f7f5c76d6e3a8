from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness.config import digest
from harness.errors import UsageError
from harness.render.compare import compare_runs, render_comparison
from harness.store.writer import Store


def documents(kls: tuple[float, ...]) -> dict[str, object]:
    """Documents whose responses have 6 + 4 tokens, all KL on the 6; the prompts differ between the runs."""
    nothing = (0.0,) * len(kls)
    sums = {"prompt": tuple(99 * kl for kl in kls), "think": tuple(10 * kl for kl in kls), "answer": nothing}
    n_tokens = {"prompt": (5,) * len(kls), "think": (6,) * len(kls), "answer": (4,) * len(kls)}
    return {"document_kl_sums": sums, "document_n_tokens": n_tokens}


def _run(
    store: Store, synthetic: ModuleType, seed: int, right: list[int], kls: tuple[float, ...] | None, engine: str = "hf"
) -> int:
    run = store.begin_run(study="s", preset=None, seed=seed, provenance=synthetic.PROVENANCE, model="m")
    values = synthetic.step_values(f"evaluate/adapter {seed}", "evaluate", None)
    step, _ = store.begin_step(run, 0, **{**values, "name": "evaluate/adapter", "config": {"limit": 8, "seed": seed}})
    store.write(step, synthetic.evaluation("adapter", "chain", right, engine=engine))
    ablate, _ = store.begin_step(
        run, 1, **{**synthetic.step_values(f"a{seed}", "ablate", "loo"), "key": digest(f"a{seed}")}
    )
    score = synthetic.ablation("layer", sum(kls) / len(kls) if kls else 0.2, layer=0)
    if kls:
        score = score.model_copy(update=documents(kls))
    store.write(ablate, score)
    store.finish_run(run, status="done")
    return run


@pytest.fixture
def two(synthetic: ModuleType, tmp_path: Path) -> Path:
    """Run 1: 30 of 100 right; run 2: the same and 20 more. KLs 0.1 higher on every one of 20 documents."""
    path = tmp_path / "r.db"
    with Store.open(path) as store:
        _run(store, synthetic, 1, [1] * 30 + [0] * 70, tuple(0.1 * i for i in range(20)))
        _run(store, synthetic, 2, [1] * 50 + [0] * 50, tuple(0.1 * i + 0.1 for i in range(20)))
        _run(store, synthetic, 3, [1] * 50, None)
    return path


def test_benchmarks_are_paired_by_item(two: Path) -> None:
    with Store.open(two) as store, store.engine.connect() as connection:
        rows = {r.what: r for r in compare_runs(connection, 1, 2)}
        row = rows["adapter on chain"]
        assert (row.n, row.pairing) == (100, "items")
        assert row.difference
        assert row.difference.value == pytest.approx(0.2)
        assert row.difference.low > 0.1
        assert row.p_value == pytest.approx(2 * 0.5**20)  # 20 items changed, all one way
        fewer = {r.what: r for r in compare_runs(connection, 1, 3)}["adapter on chain"]
        assert (fewer.n, fewer.note) == (50, "50 of 100 items are not shared by all variants and are left out")


def test_answers_of_different_engines_are_marked(two: Path, synthetic: ModuleType) -> None:
    with Store.open(two) as store, store.engine.connect() as connection:
        other = _run(store, synthetic, 4, [1] * 100, None, engine="vllm 0.32")
        marked = {r.what: r.engines_differ for r in compare_runs(connection, 1, other) if r.table == "benchmarks"}
        alike = [r.engines_differ for r in compare_runs(connection, 1, 2)]
    assert marked == {"adapter on chain": True}
    assert not any(alike)
    stream = io.StringIO()
    render_comparison(["1", str(other)], db=two, form="table", console=Console(file=stream, width=200))
    assert stream.getvalue().count("different engines") == 2, "in the row, and with their names in the note"
    assert "first run: hf, second run: vllm 0.32" in stream.getvalue()


def test_kls_are_paired_by_document_where_they_are_stored_and_say_why_not_else(two: Path) -> None:
    with Store.open(two) as store, store.engine.connect() as connection:
        paired = next(r for r in compare_runs(connection, 1, 2) if r.table == "ablations")
        assert paired.pairing == "documents"
        # 0.1 on every document: the paired interval has no width, though the KLs themselves range over 2 nats.
        difference = paired.difference
        assert difference
        assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
        unpaired = next(r for r in compare_runs(connection, 1, 3) if r.table == "ablations")
        assert (unpaired.difference, unpaired.pairing) == (None, None)
        assert "not stored" in str(unpaired.reason)


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_it_says_what_differs_and_shows_both(two: Path, form: str) -> None:
    stream = io.StringIO()
    render_comparison(("1", "2"), db=two, form=form, console=Console(file=stream, width=140))
    out = stream.getvalue().replace("\\", "")
    assert "seed 1" in out
    assert "seed 2" in out
    for needed in ("evaluate/adapter: seed", "0.300", "0.500", "0.200", "<0.001" if form == "table" else "0.001"):
        assert needed in out


def test_json_has_every_number(two: Path) -> None:
    stream = io.StringIO()
    render_comparison(("1", "latest"), db=two, form="json", console=Console(file=stream))
    rows = json.loads(stream.getvalue())
    assert [r["table"] for r in rows] == ["benchmarks", "ablations"]
    assert {"first", "second", "difference_ci_low", "pairing", "reason"} <= set(rows[0])


def test_a_run_is_not_compared_with_itself(two: Path) -> None:
    with pytest.raises(UsageError, match="the same run"):
        render_comparison(("latest", "3"), db=two, form="table", console=Console(file=io.StringIO()))
