"""Decode, check and clean what servers send, whichever SDK is used.

Nothing that a server sends can be trusted. The API key is cut out of every text before it can reach a record, a log or
an error message.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from harness.llm.errors import Retryable

W = TypeVar("W", bound=BaseModel)
Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of tokens as a server reports it."""


def clean(text: str, key: str) -> str:
    """`text` without the key and without lone surrogates, which neither UTF-8 nor a database can hold."""
    if len(key) > len("none"):
        text = text.replace(key, "[key]")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decoded(body: bytes) -> Any:
    """A body as JSON.

    Raises:
        Retryable: it is none; another attempt may be answered properly.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Retryable("the response is not JSON") from None


def checked(data: Any, model: type[W]) -> W:
    """Decoded JSON as `model`.

    Raises:
        Retryable: it is not what the vendor's format says; another attempt may be answered properly.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Retryable(f"the response is not what the API promises: {where}: {first['msg']}") from None


def joined(content: Any) -> tuple[str, str]:
    """(text, refusal) of a message's content: a string, or parts of which only text and refusals are for us.

    Raises:
        Retryable: it has another form.
    """
    texts, refusals = [], []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") == "refusal":
            refusals.append(_text(part.get("refusal") or part.get("text")))
        elif isinstance(part, dict) and (part.get("type") or "text") in ("text", "output_text"):
            texts.append(_text(part.get("text")))
        elif part is not None and not isinstance(part, dict):
            raise Retryable("the response is not what the API promises: the content is neither text nor parts")
    return clean("".join(texts), ""), clean("".join(refusals), "")


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("value")
    if value is None or isinstance(value, str):
        return value or ""
    raise Retryable("the response is not what the API promises: a part's text is not text")


def lost_connection(error: Exception) -> Retryable:
    """A connection that failed. Once the request was sent, the vendor may charge for an answer that is lost."""
    cause = type(error.__cause__ or error).__name__
    charged = not cause.startswith(("Connect", "Pool"))  # not connected, or no connection free
    return Retryable(f"no connection ({type(error).__name__})", charged=charged)


@contextmanager
def unsure() -> Iterator[None]:
    """For a request that creates something: mark failures `charged` unless the server says that it created nothing."""
    try:
        yield
    except Retryable as failure:
        refused = str(failure).startswith("HTTP 4")
        raise Retryable(str(failure), retry_after_s=failure.retry_after_s, charged=not refused) from None


async def lines(pieces: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a file of results, one per line; the file itself may be of any length.

    Raises:
        Retryable: a line is no JSON object, or has more than `most_bytes`; the file may be whole another time.
    """
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield _object(line)
        if len(rest) > most_bytes:
            raise Retryable(f"a line of the batch's results has more than {most_bytes:,} bytes (max_response_bytes)")
        await asyncio.sleep(0)
    if rest.strip():
        yield _object(rest)


def _object(line: bytes) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise Retryable("a line of the batch's results is not JSON")
    return data


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
