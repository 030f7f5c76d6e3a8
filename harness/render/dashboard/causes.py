"""What a feature writes and what it causes: promoted tokens, the effect of switching it off, and of steering it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from harness.contract.cells import finite
from harness.records.base import Estimate
from harness.render.dashboard.numbers import short
from harness.render.loading import why_empty
from harness.reports.components import ComponentRow
from harness.reports.latents import latents
from harness.reports.steer import SHOWN, SteerRow, steering
from harness.reports.write_directions import TOKENS, WriteRow, write_directions

Number = dict[str, float | None]


class Causes:
    """What a run knows of what its features write and cause."""

    def __init__(self, connection: Connection, run_id: int, ablated: Sequence[ComponentRow], components: str) -> None:
        """Read the run's records.

        Args:
            connection: to the database.
            run_id: the run.
            ablated: components that were switched off.
            components: the source whose features are the adapter's components.
        """

        def missing(found: object, kinds: tuple[str, ...], noun: str, other: str) -> str:
            return other if found else why_empty(connection, run_id, kinds, noun)

        self._components = components
        self._written = {(r.source, r.feature): r for r in write_directions(connection, run_id)}
        self._off: dict[tuple[str, str], dict[str, Any]] = {
            (r.source, r.latent): _off(r) | {"n_active": r.n_active, "n_tokens": r.n_tokens}
            for r in latents(connection, run_id)
        }
        self._off |= {(components, r.component): _off(r) for r in ablated if (r.scope, r.mode) == ("component", "zero")}
        self._steered: dict[str, list[SteerRow]] = {}
        for row in steering(connection, run_id):
            if row.quantity.startswith(SHOWN):
                self._steered.setdefault(row.feature, []).append(row)
        self._why_unwritten = missing(
            self._written, ("ablate",), "features whose directions were read",
            "only components of the adapter and latents of dictionaries over them write into the model",
        )  # fmt: skip
        self._why_not_off = missing(
            self._off, ("ablate", "judge"), "components or latents switched off", "it is not among those switched off"
        )
        self._why_unsteered = missing(
            self._steered, ("ablate",), "steered features", f"this run steers {', '.join(self._steered)}"
        )

    def of(self, source: str, feature: str) -> dict[str, Any]:
        """What a feature writes and causes, as JSON; what is not known has its reason.

        Both polarities of a component or of a signed latent are switched off and steered as one.
        """
        whole = feature.rstrip("+-")
        off = self._off.get((source, whole))
        steered = self._steered.get(whole if source == self._components else f"{source}/{whole}", [])
        row = self._written.get((source, feature))
        return {
            "written": _written(row) if row else None,
            "why_unwritten": None if row else self._why_unwritten,
            "off": off,
            "why_not_off": None if off else self._why_not_off,
            "steered": [_steered(r) for r in steered],
            "why_unsteered": None if steered else self._why_unsteered,
        }


def _number(estimate: Estimate | None) -> Number | None:
    if estimate is None:
        return None
    return {
        "value": short(estimate.value),
        "low": short(finite(estimate.low)),
        "high": short(finite(estimate.high)),
    }


def _off(row: Any) -> dict[str, Any]:
    return {
        "kl": _number(row.kl_nats), "share": short(row.share_of_adapter_kl), "n_documents": row.n_documents,
        "n_active": None, "n_tokens": None,
    }  # fmt: skip


def _steered(row: SteerRow) -> dict[str, Any]:
    fields = ("push", "where", "quantity", "unit", "size", "effect", "trend", "control", "n_documents", "reason")
    return {name: getattr(row, name) for name in fields} | {
        "at_rest": short(row.at_rest), "times_normal": short(row.times_normal), "change": _number(row.change),
        "excess": _number(row.excess), "p": short(row.p_holm),
    }  # fmt: skip


def _written(row: WriteRow) -> dict[str, Any]:
    """The first tokens of each side; of those that text raises and lowers, the ones that have that sign."""
    halves = row.effects_half_width_nats or (None,) * len(row.effect_tokens)
    effects = [
        (token, short(nats), short(half))
        for token, nats, half in zip(row.effect_tokens, row.effects_nats, halves, strict=True)
    ]
    return {
        "promoted": row.promoted[:TOKENS], "suppressed": row.suppressed[:TOKENS],
        "p_promoted": row.p_promoted, "p_suppressed": row.p_suppressed,
        "raised": [pair for pair in effects if (pair[1] or 0) > 0][:TOKENS],
        "lowered": [pair for pair in effects[::-1] if (pair[1] or 0) < 0][:TOKENS],
        "effect_p": row.effect_p,
        "read_by": [(name, short(c)) for name, c in zip(row.read_by, row.read_cosines, strict=True)],
        "read_p": row.read_p, "lens_share": short(row.lens_share), "through": row.through, "reason": row.reason,
        "n_effects": len(effects), "n_tokens": row.n_tokens, "n_documents": row.n_documents, "n_null": row.n_null,
    }  # fmt: skip
