"""How a request to an LLM can fail, as the client and its providers say it to each other.

HarnessError
├── CallFailed      one attempt failed; its message is stored in the journal, so it never holds a key
│   ├── Retryable   another attempt may succeed: rate limit, overload, time-out, broken connection, garbage
│   └── Refused     the same request will fail again: too long, malformed, against the vendor's rules
└── ProviderError   every request will fail: no key, wrong key, unknown model, no credit. Ends the run
    ├── MissingKey  the environment has no API key
    ├── BudgetSpent the calls that were allowed are used up
    └── Outage      many calls in a row were given up
"""

from __future__ import annotations

from harness.errors import HarnessError, ProviderError


class CallFailed(HarnessError):
    """One attempt failed."""


class Retryable(CallFailed):
    """Another attempt may succeed. `retry_after_s`: how long the vendor wants us to wait, where it says."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Refused(CallFailed):
    """The same request will fail again."""


class MissingKey(ProviderError):
    """The environment has no API key."""

    def __init__(self, provider: str, variable: str) -> None:
        super().__init__(f"{provider} needs an API key: set the environment variable {variable} and run again")
        self.variable = variable


class BudgetSpent(ProviderError):
    """The calls that were allowed are used up."""

    def __init__(self, role: str, max_calls: int) -> None:
        super().__init__(
            f"{role}: all {max_calls} LLM calls of max_calls are used and more are needed; answers so far are stored: "
            f"raise max_calls and run again, nothing is asked twice"
        )


class Outage(ProviderError):
    """Many calls in a row were given up."""

    def __init__(self, provider: str, n: int, last: str) -> None:
        super().__init__(
            f"{provider}: the last {n} calls all failed, most recently with: {last}. Answers so far are stored: "
            f"run again when the provider is back, nothing is asked twice"
        )
