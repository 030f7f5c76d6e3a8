"""Attributed tokens of a document: where each one's outcome comes from, over tokens and components."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection

from harness.records.attribute import Attribution
from harness.render.dashboard.numbers import quantise, short
from harness.store.read import records_of

LISTED = 16
"""Components, and latents of a dictionary, listed per token."""


def attributions_of(connection: Connection, run_id: int) -> dict[str, list[Attribution]]:
    """Document -> its attributed tokens, in the order of the text; spans as a whole have no token to click."""
    of: defaultdict[str, list[Attribution]] = defaultdict(list)
    for record in records_of(connection, Attribution, run_id=run_id):
        if record.position is not None:
            of[record.document].append(record)
    return {document: sorted(records, key=lambda r: r.position or 0) for document, records in of.items()}


def attribution_data(records: Sequence[Attribution]) -> list[dict[str, Any]]:
    """What a document's page shows of each attributed token.

    `by_token`: levels, as activations have, of the largest in size (`scale`). `sources`: of what is listed, at which
    token it contributed what.
    """
    return [_one(record) for record in records]


def _one(record: Attribution) -> dict[str, Any]:
    values = np.array(record.by_token)
    scale = float(np.abs(values).max()) if len(values) else 0.0
    largest = sorted(record.integrated.items(), key=lambda pair: -abs(pair[1]))[:LISTED]
    listed: list[list[Any]] = [["", name, short(v), short(record.left_out.get(name))] for name, v in largest]
    for dictionary, latents in record.latents.items():
        listed += [[dictionary, name, short(v), None] for name, v in list(latents.items())[:LISTED]]
    return {
        "position": record.position,
        "outcome": record.outcome,
        "with_adapter": short(record.with_adapter),
        "without_adapter": short(record.without_adapter),
        "remainder": short(record.remainder),
        "scale": short(scale),
        "by_token": quantise(values, scale).tolist(),
        "listed": listed,
        "sources": [[source, name, at, short(value)] for source, name, at, value in record.sources],
    }
