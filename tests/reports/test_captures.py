"""The captures report: sizes and quantiles as stored, densities over the set's own features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.reports.captures import captures
from harness.store.writer import Store
from harness.testing import tiny_activations
from tests.store import synthetic


def test_a_capture_is_described_by_its_record_and_its_features(store: Store, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    record = tiny_activations(tmp_path, {f"d{i}": rng.normal(size=(20, 3)) for i in range(4)})
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    step, _ = store.begin_step(run, 0, **synthetic.step_values("probe"))
    store.write(step, record)
    densities = [0.0, 0.1, 0.2, 0.3, 0.4]
    for i, density in enumerate(densities):
        feature = synthetic.feature(record.source, f"f{i}", 0, None, 1.0)
        store.write(step, feature.model_copy(update={"density_per_token": density}))
    with store.engine.connect() as connection:
        (row,) = captures(connection, run)
    assert (row.n_tokens, row.n_documents, row.n_columns, row.n_features, row.n_dead) == (80, 4, 3, 5, 1)
    assert (row.unit, row.dtype, row.numerics, row.sparse, row.n_split) == ("raw", "float32", "modules", False, 0)
    assert (row.density_q05, row.density_q50, row.density_q95) == pytest.approx((0.02, 0.2, 0.38))
    assert (row.activation_q50, row.activation_max) == (dict(record.quantiles)[0.5], dict(record.quantiles)[1.0])
    assert row.n_bytes == sum(f.stat().st_size for f in tmp_path.glob("*.npy"))


def test_captures_stand_in_the_order_of_the_plan_whichever_was_stored_first(store: Store, tmp_path: Path) -> None:
    record = tiny_activations(tmp_path, {"d": np.ones((3, 1))})
    run = store.begin_run(study="s", preset=None, seed=0, provenance=synthetic.PROVENANCE)
    for position, source in ((2, "third"), (0, "first"), (1, "second")):
        step, _ = store.begin_step(run, position, **synthetic.step_values(f"probe/{source}"))
        store.write(step, record.model_copy(update={"source": source}))
    with store.engine.connect() as connection:
        assert [row.source for row in captures(connection, run)] == ["first", "second", "third"]
