"""The keys of an interval are the same in a table, CSV and JSON."""

from __future__ import annotations

import pytest

from harness.records.base import Flat, flat_names


@pytest.mark.parametrize(
    ("field", "flat", "keys"),
    [
        ("fvu", None, ("fvu", "fvu_ci_low", "fvu_ci_high")),
        ("kl_nats", None, ("kl_nats", "kl_ci_low", "kl_ci_high")),
        ("kl_nats_trace", None, ("kl_nats_trace", "kl_trace_ci_low", "kl_trace_ci_high")),
        ("wall_seconds_s", None, ("wall_seconds_s", "wall_seconds_ci_low", "wall_seconds_ci_high")),
        ("density_per_token", None, ("density_per_token", "density_ci_low", "density_ci_high")),
        ("share_of_adapter_gap", Flat("share"), ("share_of_adapter_gap", "share_ci_low", "share_ci_high")),
        ("odds_ratio", Flat(""), ("odds_ratio", "ci_low", "ci_high")),
    ],
)
def test_bounds_leave_out_the_unit_or_are_named_by_the_field(
    field: str, flat: Flat | None, keys: tuple[str, str, str]
) -> None:
    assert flat_names(field, flat) == keys
