"""Where a step reports how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where a step reports how far it is."""

    def start(self, total: int | None, unit: str) -> None:
        """Begin (or begin again) a bar of `total` `unit`s; None where the total is unknown."""

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""


class SilentProgress:
    """Progress that nobody watches."""

    def start(self, total: int | None, unit: str) -> None:
        """Ignore."""

    def advance(self, n: int = 1) -> None:
        """Ignore."""
