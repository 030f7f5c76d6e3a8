"""How a request to an LLM can fail, as the client and its providers say it to each other.

HarnessError
├── CallFailed      one attempt failed; its message is stored in the journal, so it never holds a key
│   ├── Retryable   another attempt may succeed: rate limit, overload, time-out, broken connection, garbage
│   └── Refused     the same request will fail again: too long, malformed, against the vendor's rules
└── ProviderError   every request will fail: no key, wrong key, unknown model, no credit. Ends the run
    ├── MissingKey  the environment has no API key
    ├── BudgetSpent the run's budget leaves no room for the next call
    └── Outage      many calls in a row were given up
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import HarnessError, ProviderError

if TYPE_CHECKING:
    from harness.contract.session import Session


class CallFailed(HarnessError):
    """One attempt failed."""


class Retryable(CallFailed):
    """Another attempt may succeed.

    Attributes:
        retry_after_s: how long the vendor wants us to wait, where it says.
        charged: whether the vendor may charge for the attempt though its answer is lost.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None, charged: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s, self.charged = retry_after_s, charged


class Refused(CallFailed):
    """The same request will fail again."""


class MissingKey(ProviderError):
    """The environment has no API key."""

    def __init__(self, provider: str, variable: str) -> None:
        super().__init__(f"{provider} needs an API key: set the environment variable {variable} and run again")
        self.variable = variable


class BudgetSpent(ProviderError):
    """The budget leaves no room for the next call."""

    def __init__(self, role: str, session: Session, most_usd: float) -> None:
        if session.calls_are_spent():
            spent, option = f"all {session.max_calls} LLM calls of --max-calls are used", "--max-calls"
        else:
            doubt = f" and up to ${session.doubtful_usd:.4f} for lost answers" if session.doubtful_usd else ""
            spent = (
                f"${session.cost_usd:.4f}{doubt} of --max-cost {session.max_cost_usd:g} is spent and the next call can "
                f"cost ${most_usd:.4f}"
            )
            option = "--max-cost"
        super().__init__(
            f"{role}: {spent}; answers so far are stored: raise {option} and run again, nothing is asked twice"
        )


class Outage(ProviderError):
    """Many calls in a row were given up."""

    def __init__(self, provider: str, n: int, last: str) -> None:
        super().__init__(
            f"{provider}: the last {n} calls all failed, most recently with: {last}. Answers so far are stored: "
            f"run again when the provider is back, nothing is asked twice"
        )
