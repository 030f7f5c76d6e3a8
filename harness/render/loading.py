"""A report's rows and what is said of them in every format: the run, the steps' keys, notes, why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from harness.contract.cells import visible
from harness.contract.report import Report
from harness.records.segments import HEADLINE, IN_WORDS, TokensOf
from harness.reports.overview import OverviewRow
from harness.reports.steps import StepRow, steps
from harness.store.schema import StudyRun

MOST_KEYS = 6
"""Step keys named below a report; `harness report steps` has all."""

MOST_LABELS = 4
"""Rows that a note names before it counts them."""


@dataclass(frozen=True)
class Loaded:
    """A report's rows.

    Attributes:
        report: which report.
        rows: as its query gave them.
        footer: the keys of the steps that made the rows; where there are no rows, why.
    """

    report: Report[Any]
    rows: Sequence[Any]
    footer: str


def load_report(
    connection: Connection, run_id: int, report: Report[Any], *, preview: bool = False, segment: TokensOf = HEADLINE
) -> Loaded:
    """Query a report once; it can then be printed in every format, a preview only in those for people."""
    asked = {"segment": segment} if report.by_segment else {}
    rows = (report.preview if preview and report.preview else report.query)(connection, run_id, **asked)
    if asked and not rows and segment != HEADLINE and report.query(connection, run_id):
        return Loaded(report, rows, f"run {run_id} measured no KL over {IN_WORDS[segment]}")
    if rows:
        return Loaded(report, rows, _step_keys(s for s in steps(connection, run_id) if s.kind in report.kinds))
    return Loaded(report, rows, visible(why_empty(connection, run_id, report.kinds, report.noun)))


def run_title(row: OverviewRow) -> str:
    """What all reports begin with: which run their numbers are from."""
    commit = (row.git_sha or "unknown")[:10] + (" (dirty)" if row.git_dirty else "")
    return visible(
        f"Run {row.run_id}: study {row.study}, preset {row.preset or 'none'}, seed {row.seed}, "
        f"model {row.model or 'unknown'}, commit {commit}, {row.status}"
    )


def _step_keys(makers: Iterable[StepRow]) -> str:
    """The steps behind a report, with the keys under which they are stored."""
    keys = [f"{s.step} {s.key[:12]}" for s in makers]
    more = [f"and {len(keys) - MOST_KEYS} more (harness report steps)"] if len(keys) > MOST_KEYS else []
    return visible("Step keys: " + ", ".join([*keys[:MOST_KEYS], *more]) + ".") if keys else ""


def notes(report: Report[Any], rows: Sequence[Any]) -> list[str]:
    """The reasons and notes of rows, each once, filed under the rows' labels."""
    if report.label is None:
        return []
    labels_of: dict[str, list[str]] = {}
    for row in rows:
        parts = getattr(row, "notes", None)
        for note in (getattr(row, "reason", None), getattr(row, "note", None)) if parts is None else parts:
            if note:
                labels_of.setdefault(visible(note), []).append(visible(report.label(row)))
    return [f"{_listed(list(dict.fromkeys(labels)))}: {note}" for note, labels in labels_of.items()]


def _listed(labels: Sequence[str]) -> str:
    """All of a few labels; the first of many, with their number."""
    if len(labels) <= MOST_LABELS:
        return ", ".join(labels)
    return f"{', '.join(labels[: MOST_LABELS - 1])} and {len(labels) - MOST_LABELS + 1} more rows"


def why_empty(connection: Connection, run_id: int, kinds: tuple[str, ...], noun: str) -> str:
    """Why a run has no rows of some kind, as a sentence.

    Args:
        connection: to the database.
        run_id: the run.
        kinds: kinds of step that make such rows.
        noun: what is missing, plural, e.g. `dictionaries`.
    """
    start = f"no {noun} in run {run_id}: "
    makers = [s for s in steps(connection, run_id) if s.kind in kinds]
    unfinished = next((s for s in makers if s.status != "done"), None)
    if unfinished:
        reason = f" ({unfinished.reason})" if unfinished.reason else ""
        return f"{start}{unfinished.step} is {unfinished.status}{reason}"
    if makers:
        return f"{start}{', '.join(s.step for s in makers)} stored none"
    run = connection.execute(select(StudyRun.status, StudyRun.reason).where(StudyRun.id == run_id)).one()
    if run.status != "done":
        return f"{start}the run is {run.status} and did not get there" + (f" ({run.reason})" if run.reason else "")
    return f"{start}it has no step of that kind ({', '.join(kinds)})"
