"""Runs of several seeds as one: planted differences, refusals, formats."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import ModuleType

import pytest
from rich.console import Console

from harness.config import digest
from harness.errors import ResultsError, UsageError
from harness.render.across import AcrossRow, across, render_across
from harness.store.database import open_database
from harness.store.writer import Store

LAYERS = ("L0", "L1")


def _run(
    store: Store, synthetic: ModuleType, seed: int, *, adapter: int, top: float, seeds: str | None = "0-4",
    limit: int = 100, status: str = "done",
) -> int:  # fmt: skip
    """A run: `adapter` of 100 items right where the base (shared by all runs) has 30, and a KL of `top` in layer 0."""
    run = store.begin_run(
        study="s", preset=None, seed=seed, provenance=synthetic.PROVENANCE, model="m", seeds=seeds,
        settings={"data": {"path": "traces", "limit": limit}},
    )  # fmt: skip
    steps = {
        "evaluate/base": [synthetic.evaluation("base", "chain", [1] * 30 + [0] * 70)],
        "evaluate/adapter": [synthetic.evaluation("adapter", "chain", [1] * adapter + [0] * (100 - adapter))],
        "ablate/leave-one-out": [
            synthetic.ablation("layer", top, layer=0),
            synthetic.ablation("layer", 0.3, layer=1),
            *(
                synthetic.ablation("component", 0.1 * i + 0.01 * (seed % 2) * i, layer=i, projection="q_proj")
                for i in range(4)
            ),
        ],
    }
    for position, (name, records) in enumerate(steps.items()):
        key = digest(name if name == "evaluate/base" else [name, seed, limit])
        recipe = digest([name, limit if name != "evaluate/base" else None])
        values = {**synthetic.step_values(name, name.partition("/")[0], None), "key": key, "recipe": recipe}
        found = store.find_step(key)
        if found is not None:
            store.link_reused(run, found.id, position)
            continue
        step, _ = store.begin_step(run, position, **{**values, "config": {"limit": limit}})
        store.write_many(step, records)
        store.finish_step(step, status="done", wall_s=1.0, output={})
    store.finish_run(run, status=status)
    return run


@pytest.fixture
def five(synthetic: ModuleType, tmp_path: Path) -> Path:
    """Adapter above base in all five runs; layer 0 above layer 1 in the first alone, by far."""
    path = tmp_path / "r.db"
    with Store.open(path) as store:
        for seed, (adapter, top) in enumerate([(60, 2.5), (66, 0.31), (58, 0.28), (71, 0.29), (63, 0.27)]):
            _run(store, synthetic, seed, adapter=adapter, top=top)
    return path


def printed(path: Path, spec: str, form: str = "table", names: tuple[str, ...] = (), width: int = 200) -> str:
    stream = io.StringIO()
    render_across(spec, names, db=path, form=form, console=Console(file=stream, width=width))
    return stream.getvalue()


def rows_of(path: Path) -> dict[str, AcrossRow]:
    engine = open_database(path, create=False)
    with engine.connect() as connection:
        rows = {r.what: r for r in across(connection, [1, 2, 3, 4, 5])}
    engine.dispose()
    return rows


def test_a_difference_that_every_run_shows_holds_and_one_that_a_single_run_shows_is_not_resolved(five: Path) -> None:
    rows = rows_of(five)
    planted = rows["adapter above base on chain"]
    assert (planted.resolved, planted.verdict) == (True, "holds in all 5")
    assert (planted.n_holds, planted.n_clear) == (5, 5)
    assert planted.values == pytest.approx((0.30, 0.36, 0.28, 0.41, 0.33))
    single = rows["L0 has the largest KL of the layers"]
    assert single.mean.value > 0.4, "the first run alone makes the mean large"
    assert (single.resolved, single.verdict) == (False, "in 2 of 5: not resolved")
    assert single.n_clear == 1


def test_each_number_has_its_spread_between_runs_and_what_is_shared_has_none(five: Path) -> None:
    rows = rows_of(five)
    adapter = rows["adapter on chain"]
    assert (adapter.n, adapter.mean.value, adapter.sd) == (5, pytest.approx(0.636), pytest.approx(0.0513, abs=1e-4))
    # Student's t of 4 degrees of freedom, 2.776, times 0.0513 / sqrt(5)
    assert adapter.mean.high - adapter.mean.value == pytest.approx(2.776 * 0.0513 / 5**0.5, rel=1e-3)
    base = rows["base on chain"]
    assert (base.sd, base.mean.bounded) == (0.0, False)
    assert "the same value" in str(base.note)
    agreement = next(r for what, r in rows.items() if what.startswith("rank agreement"))
    assert agreement.mean.value == pytest.approx(1.0), "all runs rank the components alike"


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_people_read_conclusions_numbers_and_what_is_shared(five: Path, form: str) -> None:
    out = printed(five, "1-5", form).replace("\\", "")
    for needed in (
        "seeds 0, 1, 2, 3, 4",
        "holds in all 5",
        "in 2 of 5: not resolved",
        "shared by all runs: evaluate/base",
    ):
        assert needed in out


def test_a_terminal_of_80_columns_holds_it(five: Path) -> None:
    assert max(map(len, printed(five, "1-5", width=80).splitlines())) <= 80


def test_json_and_csv_have_every_number_and_conclusion(five: Path) -> None:
    rows = json.loads(printed(five, "5,1-4", "json"))
    one = next(r for r in rows if r["what"] == "adapter on chain")
    assert (one["runs"], one["values"]) == ([5, 1, 2, 3, 4], [0.63, 0.6, 0.66, 0.58, 0.71])
    assert {"mean", "mean_ci_low", "mean_ci_high", "sd", "n", "verdict"} <= set(one)
    table = list(csv.DictReader(io.StringIO(printed(five, "1-5", "csv"))))
    assert len(table) == len(rows)
    assert table[0]["verdict"] == "holds in all 5"


def test_tables_can_be_asked_for_by_their_reports_names(five: Path) -> None:
    rows = json.loads(printed(five, "1-5", "json", ("components",)))
    assert {r["table"] for r in rows} == {"components"}
    with pytest.raises(UsageError, match="--across has recovery, components"):
        printed(five, "1-5", names=("overview",))


def test_a_run_stands_for_the_newest_finished_runs_of_its_command(five: Path, synthetic: ModuleType) -> None:
    with Store.open(five) as store:
        _run(store, synthetic, 0, adapter=60, top=2.5, status="failed")
    rows = json.loads(printed(five, "latest", "json"))
    assert rows[0]["runs"] == [1, 2, 3, 4, 5]


def test_runs_that_are_no_seeds_of_one_plan_are_refused_with_what_differs(five: Path, synthetic: ModuleType) -> None:
    with Store.open(five) as store:
        again = _run(store, synthetic, 0, adapter=60, top=2.5, seeds=None)
        other = _run(store, synthetic, 9, adapter=60, top=2.5, limit=50, seeds=None)
    with pytest.raises(UsageError, match=f"runs 1 and {again} have the same seed 0"):
        printed(five, f"1-{again}")
    with pytest.raises(UsageError, match=r"than the seed: data.limit is 100 and 50; evaluate/adapter: limit is"):
        printed(five, f"1,2,{other}")
    with pytest.raises(UsageError, match="is one seed"):
        printed(five, str(other))
    with pytest.raises(ResultsError, match="no run '99'"):
        printed(five, "1,99")


def test_another_model_or_other_data_is_found_though_no_steps_settings_show_it(
    five: Path, synthetic: ModuleType
) -> None:
    with Store.open(five) as store:
        run = store.begin_run(study="s", preset=None, seed=8, provenance=synthetic.PROVENANCE, model="m")
        values = {**synthetic.step_values("evaluate/adapter", "evaluate", None), "config": {"limit": 100}}
        step, _ = store.begin_step(run, 0, **{**values, "key": "k", "recipe": "of other data"})
        store.finish_step(step, status="done", wall_s=1.0, output={})
        store.finish_run(run, status="done")
    with pytest.raises(UsageError, match="evaluate/adapter: model, data, chat format, version"):
        printed(five, f"1,{run}")


def test_a_run_that_did_not_get_there_is_named_and_leaves_its_conclusions_open(
    five: Path, synthetic: ModuleType
) -> None:
    with Store.open(five) as store:
        run = store.begin_run(study="s", preset=None, seed=8, provenance=synthetic.PROVENANCE, model="m")
        store.finish_run(run, status="failed")
    out = printed(five, f"1-5,{run}")
    assert f"Run {run} is failed." in out
    assert "in 5 of 5: not resolved (1 of 6 runs have no such number)" in out
