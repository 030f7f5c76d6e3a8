"""What the vendors' wire formats share: keys, status codes, bodies. No SDK here.

Whatever a server sends is data of unknown quality: it is decoded, checked and cleaned here, and the API key is cut out
of every text before it can reach a record, a log or an error message.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from harness.errors import HarnessError, ProviderError
from harness.llm.errors import Refused, Retryable

W = TypeVar("W", bound=BaseModel)
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of tokens as a server reports it."""

_MAX_MESSAGE = 300
_RETRYABLE = {408, 409, 425, 429}
_NO_CREDIT = {"insufficient_quota", "billing_error", "billing_hard_limit_reached"}


def clean(text: str, key: str) -> str:
    """`text` without the key and without lone surrogates, which neither UTF-8 nor a database can hold."""
    if len(key) > len("none"):
        text = text.replace(key, "[key]")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_body(body: bytes, model: type[W], key: str) -> W:
    """A response body as `model`.

    Raises:
        Retryable: the body is not what the vendor's format says; another attempt may be answered properly.
    """
    try:
        return model.model_validate(_cleaned(json.loads(body), key))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Retryable(f"the response is not what the API promises: {where}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise Retryable("the response is not JSON") from None


def _cleaned(value: Any, key: str) -> Any:
    if isinstance(value, str):
        return clean(value, key)
    if isinstance(value, dict):
        return {clean(k, key): _cleaned(v, key) for k, v in value.items()}
    return [_cleaned(v, key) for v in value] if isinstance(value, list) else value


def lost_connection(error: Exception) -> Retryable:
    """No connection, or one that broke. Once the request was sent, the vendor may charge for an answer that is lost."""
    began = type(error.__cause__).__name__ if error.__cause__ else ""
    charged = not began.startswith("Connect")
    return Retryable(f"no connection ({type(error).__name__})", charged=charged)


@contextmanager
def unsure() -> Iterator[None]:
    """Of a request that makes something: unless the server says that it did not, it may have (`charged`)."""
    try:
        yield
    except Retryable as failure:
        refused = str(failure).startswith("HTTP 4")
        raise Retryable(str(failure), retry_after_s=failure.retry_after_s, charged=not refused) from None


def read_outcome(line: str) -> dict[str, Any]:
    """A line of a file of results.

    Raises:
        Retryable: it is no JSON object; the file may be whole another time.
    """
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise Retryable("a line of the batch's results is not JSON")
    return data


def status_failure(
    provider: str, status: int, body: object, headers: Mapping[str, str], *, key: str, variable: str, model: str
) -> HarnessError:
    """What an HTTP error status means for the call: try again, give it up, or end the run."""
    code, message = _error_of(body)
    said = clean(f"HTTP {status}" + (f": {message}" if message else ""), key)[:_MAX_MESSAGE]
    if status in (401, 403):
        return ProviderError(f"{provider} refused the API key ({said}): check the environment variable {variable}")
    if status == 404:
        return ProviderError(f"{provider} does not know the model {model!r} or the address ({said}): check --provider")
    if status == 402 or code in _NO_CREDIT:
        return ProviderError(f"{provider} has no credit left ({said}): top up the account and run again")
    if status in _RETRYABLE or status >= 500:
        return Retryable(said, retry_after_s=retry_after_s(headers))
    return Refused(said)


def retry_after_s(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """The wait that the headers ask for, in seconds; None where they ask for none that makes sense."""
    lowered = {k.lower(): v for k, v in headers.items()}
    seconds: float | None = None
    try:
        if "retry-after-ms" in lowered:
            seconds = float(lowered["retry-after-ms"]) / 1000
        elif "retry-after" in lowered:
            seconds = float(lowered["retry-after"])
    except ValueError:
        try:
            date = parsedate_to_datetime(lowered["retry-after"])
            seconds = date.timestamp() - (time.time() if now is None else now)
        except (KeyError, ValueError, OverflowError):
            return None
    return seconds if seconds is not None and math.isfinite(seconds) and seconds >= 0 else None


def _error_of(body: object) -> tuple[str, str]:
    """(code, message) of an error body; SDKs hand over the whole body or its `error` member."""
    member: Any = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(member, dict):
        return "", " ".join(str(member).split()) if isinstance(member, str) else ""
    code = member.get("code") or member.get("type") or ""
    return str(code), " ".join(str(member.get("message") or "").split())
