"""Explain why a model or data set of the hub cannot be loaded: the hub is unreachable, or it is gated or missing."""

from __future__ import annotations

from collections.abc import Iterator

from harness.files import reason_of


def why_not(name: str, error: BaseException, cure: str) -> str:
    """Why a model or data set of the hub cannot be loaded, and the cure, as one clause.

    Args:
        name: the repository's name.
        error: what the library raised.
        cure: how to pass a local copy, e.g. `--set data.path=FILE`.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    chain = list(_chain(error))
    kinds = {type(e).__name__ for e in chain}
    messages = " ".join(str(e) for e in chain).lower()
    if "GatedRepoError" in kinds or "access a gated repo" in messages or "is a gated dataset" in messages:
        return f"it is gated: accept its terms at the hub and set HF_TOKEN to a token of yours, or {cure}"
    if _OFFLINE & kinds or "couldn't reach" in messages or "couldn't connect" in messages:
        return f"the hub cannot be reached, and it is not in the local cache {HF_HUB_CACHE}; {cure}"
    if _UNKNOWN & kinds or "doesn't exist" in messages or "not a valid model identifier" in messages:
        return f"the hub has no {name!r}, or it is private (set HF_TOKEN); {cure}"
    return f"{reason_of(error)}; {cure}"


_OFFLINE = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout"}
_UNKNOWN = {"RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError"}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the errors that caused it, up to a context that was suppressed by `from None`."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
