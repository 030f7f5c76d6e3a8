"""What a source's features have beyond its control: random directions for the adapter's, and the like for latents.

The plan says which source is whose control (`Registration.control_of`, `study/steps/learn`), and a run stores it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

from sqlalchemy import Connection, select

from harness.contract.cells import ABSENT, Cell, percent
from harness.records.base import Estimate
from harness.reports.common.differences import independent_difference
from harness.reports.common.rows import cached_query
from harness.store.schema import StudyRun


class Compared(Protocol):
    """A row with a source, its control, and how far it is above it."""

    @property
    def source(self) -> str:
        """The source."""

    @property
    def control(self) -> str | None:
        """Its control; None where the run has none."""

    @property
    def above_control(self) -> Estimate | None:
        """The row's number less the control's."""


R = TypeVar("R", bound=Compared)

LEGEND = (
    "Above control: points of a hundred more than the source's control (`harness report grades` names it), with the "
    "95 % interval of the difference of two independent estimates; an interval that holds 0 does "
    "not tell them apart; a source without a control has '-'."
)


@cached_query
def controls(connection: Connection, run_id: int) -> dict[str, str]:
    """Source -> the source that it is to exceed; a source without a control is not in it."""
    return dict(connection.execute(select(StudyRun.controls_json).where(StudyRun.id == run_id)).scalar_one())


def beside_controls(
    rows: Sequence[R],
    control_of: dict[str, str],
    *,
    same: Callable[[R], Hashable],
    number: Callable[[R], Estimate | None],
    absent: Callable[[str], Estimate | None] = lambda source: None,
) -> list[R]:
    """The rows with their control and what they exceed it by.

    Args:
        rows: of all sources.
        control_of: see `controls`.
        same: what rows that are compared have in common: interpreter, grade, category, ...
        number: what is compared.
        absent: control -> its number where it has no such row (a category that none of its features has).
    """
    numbers = {(row.source, same(row)): number(row) for row in rows}
    compared = []
    for row in rows:
        own, control = number(row), control_of.get(row.source)
        place = control, same(row)
        other = numbers[place] if place in numbers else absent(control) if control else None
        above = independent_difference(own, other) if own and other else None
        changed: Any = replace(cast(Any, row), control=control, above_control=above)
        compared.append(changed)
    return compared


def points(above: Estimate) -> str:
    """A difference of shares in percentage points with its interval."""
    low, high = (f"{100 * bound:.0f}" for bound in (above.low, above.high))
    return f"{100 * above.value:+.0f} [{low}, {high}]"


def above_cell(row: Compared) -> Cell:
    """How far above its control, in percentage points."""
    return ABSENT if row.above_control is None else points(row.above_control)


def sentence(row: Compared, share: Estimate, what: str) -> str:
    """In words whether a share exceeds the control's; `what` is of whom, e.g. `features are monosemantic`."""
    above = row.above_control
    if above is None:
        return ""
    told = f"{percent(share.value)} of {what}, {points(above)} points against {row.control}: {verdict(above)}"
    return f"{row.source}: {told}."


def verdict(above: Estimate) -> str:
    """In words whether a number exceeds its control's."""
    return "above it" if above.low > 0 else "below it" if above.high < 0 else "not told apart"
