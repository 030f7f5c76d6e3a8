"""The report of several adapters: which features count as shared, and tests in pairs."""

from __future__ import annotations

import io
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from scipy import stats as oracle

from harness.contract.cells import lines
from harness.records import ModuleOverlap, Record, SharedFeature
from harness.render.formats import FORMATS
from harness.render.render import render
from harness.reports.adapter_scores import adapter_scores
from harness.reports.adapters import REPORT, adapters, several
from harness.store.writer import Store

SCORES = {
    "base": [0] * 18 + [1] * 2,
    "adapter": [1] * 14 + [0] * 6,
    "twin": [1] * 13 + [0] * 7,
    "weak": [1] * 3 + [0] * 17,
    "full": [1] * 18 + [0] * 2,
}


def overlap(first: str, second: str, layer: int, cosine: float | None) -> ModuleOverlap:
    return ModuleOverlap(
        item=f"{first}>{second}/{layer}", first=first, second=second, module=f"m{layer}", layer=layer,
        projection="q_proj", weight_cosine=cosine, weight_null=0.02, read_overlap=0.1 * layer, read_null=0.03,
        write_overlap=0.2, write_null=0.03, norm_ratio=1.0, reason=None if cosine is not None else "zero",
    )  # fmt: skip


def feature(first: str, second: str, i: int, r: float | None, p: float, random: float | None) -> SharedFeature:
    return SharedFeature(
        item=f"{first}>{second}/{i}", first=first, second=second, component=f"L{i}.q_proj", layer=i,
        projection="q_proj", partner=None if r is None else "L0.q_proj", correlation=r, shuffled=0.05,
        p_value=None if r is None else p, random=random, n_candidates=4, n_random=4, n_shuffles=99, n_tokens=900,
        n_documents=9, reason="constant" if r is None else None,
    )  # fmt: skip


def stored(store: Store, synthetic: ModuleType, compared: list[Record]) -> int:
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE, model="m")
    made: dict[str, list[Record]] = {
        f"evaluate/{v}": [synthetic.evaluation(v, "chain", scores)] for v, scores in SCORES.items()
    }
    if compared:
        made["compare/adapters"] = compared
    for position, (name, records) in enumerate(made.items()):
        step, _ = store.begin_step(
            run, position, **{**synthetic.step_values(name, name.split("/")[0], None), "key": name}
        )
        for record in records:
            store.write(step, record)
        store.finish_step(step, status="done", wall_s=1.0, output={})
    store.finish_run(run, status="done")
    return int(run)


@pytest.fixture
def connection(store: Store) -> Any:
    with store.engine.connect() as opened:
        yield opened


def test_shared_is_what_exceeds_shuffles_and_every_random_direction(
    store: Store, synthetic: ModuleType, connection: Any
) -> None:
    """Of five: one exceeds the largest random |r| (.5), one only its own, one is significant by shuffles and below its
    random direction, one is large by luck, and one is constant."""
    first = [(0.9, 0.01, 0.3), (-0.45, 0.01, 0.2), (0.2, 0.01, 0.5), (-0.7, 0.2, 0.1), (None, 1.0, 0.1)]
    second = [(0.9, 0.01, None), (0.1, 0.6, None)]
    compared: list[Record] = [overlap("adapter", "twin", 0, 0.4), overlap("adapter", "twin", 1, -0.2)]
    compared.append(overlap("adapter", "twin", 2, None))
    compared += [feature("adapter", "twin", i, *values) for i, values in enumerate(first)]
    compared += [feature("twin", "adapter", i, *values) for i, values in enumerate(second)]
    (row,) = adapters(connection, stored(store, synthetic, compared))
    assert (row.first, row.second, row.n_modules) == ("adapter", "twin", 2)
    assert row.weight_cosine == pytest.approx(0.3), "the mean of absolute values, of modules that both change"
    assert row.read_overlap == pytest.approx(0.05)
    assert (row.n_first, row.n_first_correlated, row.n_first_shared) == (5, 3, 1)
    assert (row.n_second, row.n_second_correlated, row.n_second_shared) == (2, 1, None)
    assert row.median_correlation == pytest.approx(0.575), "of .9 .45 .2 .7 .9 .1"
    assert row.reason is None
    assert "no random" in lines(REPORT.columns[5].cell(row))


def test_pairs_are_tested_by_item_and_adjusted_together(store: Store, synthetic: ModuleType, connection: Any) -> None:
    """McNemar's exact test is a binomial one on the items on which the two differ; Holm over the three pairs."""
    run = stored(store, synthetic, [overlap("adapter", "twin", 0, 0.1)])
    rows = {(r.first, r.second): r for r in adapter_scores(connection, run)}
    assert list(rows) == [("adapter", "twin"), ("adapter", "weak"), ("twin", "weak")]
    expected = {pair: oracle.binomtest(0, n).pvalue for pair, n in zip(rows, (1, 11, 10), strict=True)}
    assert {pair: r.p_value for pair, r in rows.items()} == pytest.approx(expected)
    holm = [expected["adapter", "twin"], 3 * expected["adapter", "weak"], 2 * expected["twin", "weak"]]
    holm[2] = max(holm[1], holm[2])
    assert [r.p_holm for r in rows.values()] == pytest.approx(holm)
    row = rows["adapter", "twin"]
    assert row.first_score is not None
    assert row.first_score.value == 0.7
    assert row.first_recovery is not None
    assert row.second_recovery is not None
    assert (row.first_recovery.value, row.second_recovery.value) == pytest.approx((12 / 16, 11 / 16))


def test_a_run_of_one_adapter_has_no_such_report(store: Store, synthetic: ModuleType, connection: Any) -> None:
    run = stored(store, synthetic, [])
    assert not several(connection, run)
    assert adapters(connection, run) == adapter_scores(connection, run) == []


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["adapters", "adapter-modules", "adapter-scores", "shared-features"])
def test_the_four_tables_in_every_format(store: Store, synthetic: ModuleType, form: str, name: str) -> None:
    stored(store, synthetic, [overlap("adapter", "twin", 0, 0.4), feature("adapter", "twin", 0, 0.9, 0.01, 0.3)])
    stream = io.StringIO()
    render([name], db=store.engine.url.database, form=form, console=Console(file=stream, width=80))
    assert "twin" in stream.getvalue()
    assert max(map(len, stream.getvalue().splitlines())) <= 80 or form != "table"
