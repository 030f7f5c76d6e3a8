"""Stored ablation scores, by what was switched off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from harness.reports.common.rows import plan_order, run_steps
from harness.store.schema import AblationScore, Step


def ablation_scores(connection: Connection, run_id: int, scopes: Sequence[str]) -> list[Any]:
    """Columns of the scores of some scopes, and the `step` that measured them, in the order of the plan."""
    return list(
        connection.execute(
            select(AblationScore.__table__, Step.name.label("step"))
            .join(Step, Step.id == AblationScore.step_id)
            .where(AblationScore.step_id.in_(run_steps(run_id)), AblationScore.scope.in_(scopes))
            .order_by(*plan_order(run_id, AblationScore))
        ).all()
    )
