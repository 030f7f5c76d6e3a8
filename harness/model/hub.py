"""Why the hub did not give something, as a clause with the cure: unreachable, gated, or not there."""

from __future__ import annotations

from collections.abc import Iterator


def why_not(name: str, error: BaseException, cure: str) -> str:
    """Why a model or data set of the hub cannot be loaded, and what to do, in one sentence's worth of words.

    Args:
        name: the repository's.
        error: what its library raised.
        cure: how to pass a local copy, e.g. `--set data.path=FILE`.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    chain = list(_chain(error))
    kinds = {type(e).__name__ for e in chain}
    said = " ".join(str(e) for e in chain).lower()
    if "GatedRepoError" in kinds or "access a gated repo" in said or "is a gated dataset" in said:
        return f"it is gated: accept its terms at the hub and set HF_TOKEN to a token of yours, or {cure}"
    if _OFFLINE & kinds or "couldn't reach" in said or "couldn't connect" in said:
        return f"the hub cannot be reached, and it is not in the local cache {HF_HUB_CACHE}; {cure}"
    if _UNKNOWN & kinds or "doesn't exist" in said or "not a valid model identifier" in said:
        return f"the hub has no {name!r}, or it is private (set HF_TOKEN); {cure}"
    first = (str(error).splitlines() or [""])[0][:300]
    return f"{first or type(error).__name__}; {cure}"


_OFFLINE = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectionError", "ConnectError", "ConnectTimeout"}
_UNKNOWN = {"RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError"}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from. A context that was silenced (`from None`) is not told."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
