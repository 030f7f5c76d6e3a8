"""Stored ablation scores, by what was switched off and over the tokens that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, null, select

from harness.contract.cells import count
from harness.records.base import flat_names
from harness.records.segments import HEADLINE, IN_WORDS, TOKENS_OF, TokensOf, field_of
from harness.reports.common.rows import plan_order, run_steps
from harness.store.schema import AblationScore, Step

_OF_THE_HEADLINE = ("fisher_nats", "fisher_ci_low", "fisher_ci_high", "n_draws", "null_floor_nats")
"""Columns that are of the headline's tokens alone, and so absent beside the KL over others."""


def ablation_scores(
    connection: Connection, run_id: int, scopes: Sequence[str], segment: TokensOf = HEADLINE
) -> list[Any]:
    """Columns of the scores of some scopes, and the `step` that measured them, in the order of the plan.

    `kl_nats`, its bounds and `n_tokens` are of the segment; None where there is no KL over it: no such token was
    measured, or the KL of the headline was only estimated.
    """
    return list(
        connection.execute(
            select(*_columns(segment), Step.name.label("step"))
            .join(Step, Step.id == AblationScore.step_id)
            .where(AblationScore.step_id.in_(run_steps(run_id)), AblationScore.scope.in_(scopes))
            .order_by(*plan_order(run_id, AblationScore))
        ).all()
    )


def _columns(segment: TokensOf) -> list[Any]:
    stored = AblationScore.__table__.columns
    if segment == HEADLINE:
        return list(stored)
    names = dict(zip(flat_names("kl_nats"), flat_names(field_of("kl_nats", segment)), strict=True))
    names["n_tokens"] = field_of("n_tokens", segment)
    return [
        null().label(c.name) if c.name in _OF_THE_HEADLINE else stored[names.get(c.name, c.name)].label(c.name)
        for c in stored
    ]


def document_sums(score: Any, segment: TokensOf = HEADLINE) -> tuple[np.ndarray, np.ndarray] | None:
    """KL of each document over a segment, summed in nats, and its tokens; None where they are not stored."""
    kl, n_tokens = score.document_kl_sums_json, score.document_n_tokens_json
    if not kl or not n_tokens:
        return None
    sums, n = (np.array([of[s] for s in TOKENS_OF[segment]], dtype=np.float64).sum(0) for of in (kl, n_tokens))
    return sums, n


def which_tokens(rows: Sequence[Any]) -> str:
    """Over which tokens the KLs of rows are, and how many, as the sentence that stands above a table."""
    segment = rows[0].segment
    sizes = sorted({r.n_tokens for r in rows if r.n_tokens})
    n = f": {' to '.join(dict.fromkeys((count(sizes[0]), count(sizes[-1]))))} tokens" if sizes else ""
    left_out = "" if segment == HEADLINE else " Fisher probes see the response only: what they estimate is left out."
    return f"KL over {IN_WORDS[segment]}{n}.{left_out}"


def per_token(segment: TokensOf) -> str:
    """The unit of a KL, for titles and axes."""
    return "nats per token" if segment == "all" else f"nats per {segment} token"
