"""The budget of a run's LLM calls, and what is spent of it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Session:
    """The budget of one run, over all steps and roles.

    A request is sent only if the most that it can cost fits into the budget, so the budget is never exceeded. Attempts
    that ended without an answer but may be charged (a time-out, a broken connection) count at the most they can cost.

    Attributes:
        max_calls: most calls that are sent; retries and replays are not counted. None is no limit.
        max_cost_usd: most that answers and doubtful attempts may cost. None is no limit.
        batch: send through the vendors' batch APIs.
        n_sent: calls sent.
        cost_usd: price of the answers, as far as it is known.
        doubtful_usd: most that attempts without an answer may have cost.
    """

    max_calls: int | None = None
    max_cost_usd: float | None = None
    batch: bool = False
    n_sent: int = 0
    cost_usd: float = 0.0
    doubtful_usd: float = 0.0
    _reserved_usd: float = field(default=0.0, repr=False)

    def fits(self, most_usd: float) -> bool:
        """Whether one more call that costs at most so much stays within the budget."""
        if self.max_calls is not None and self.n_sent >= self.max_calls:
            return False
        return self.affords(most_usd)

    def affords(self, most_usd: float) -> bool:
        """Whether one more attempt that costs at most so much stays within `max_cost_usd`."""
        spent = self.cost_usd + self.doubtful_usd + self._reserved_usd
        return self.max_cost_usd is None or spent + most_usd <= self.max_cost_usd

    def calls_are_spent(self) -> bool:
        """Whether it is `max_calls` that leaves no room."""
        return self.max_calls is not None and self.n_sent >= self.max_calls

    def reserve(self, most_usd: float) -> None:
        """A call begins."""
        self.n_sent += 1
        self._reserved_usd += most_usd

    def doubt(self, most_usd: float) -> None:
        """An attempt of a call that goes on ended without an answer, and may be charged."""
        self.doubtful_usd += most_usd

    def settle(self, most_usd: float, cost_usd: float | None) -> None:
        """A call ended; `cost_usd` is None where it was answered and nobody knows what it cost."""
        self._reserved_usd -= most_usd
        self.cost_usd += most_usd if cost_usd is None else cost_usd
