"""What an error means for a call, whether it came as an HTTP status or inside the body of a 200.

Servers and gateways write errors in many forms: an object, a list of them or a string; beside the choices, in place of
them or inside one; with a code that is a number, a number as text or a word. All of them mean what the HTTP status of
that code means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.errors import ProviderError, masked_url
from harness.llm.errors import CallFailed, Refused, Retryable

from .wire import clean, retry_after_s

MAX_MESSAGE = 300
"""Most characters of what a server says that a sentence quotes."""
_RETRYABLE = {408, 409, 425, 429}
_TEXTS = ("error", "errors", "base_resp", "message", "msg", "error_msg", "status_msg", "detail")
_CODES = ("code", "status", "status_code", "statusCode", "error_code", "type")
_NO_CREDIT = re.compile(
    r"insufficient[ _-](?:credit|quota|balance|fund)|credit balance|payment[ _-]required|billing_|"
    r"\b(?:no|out of|not enough|more|available) credits?\b",
    re.IGNORECASE,
)
_WORDS = {
    429: re.compile(r"rate[ _-]?limit|too[ _-]many[ _-]requests|exhausted|throttl|quota", re.IGNORECASE),
    529: re.compile(r"overloaded", re.IGNORECASE),
    401: re.compile(r"authenticat|unauthori[sz]ed|api[ _-]?key", re.IGNORECASE),
    403: re.compile(r"permission|forbidden|access[ _-]denied", re.IGNORECASE),
    404: re.compile(r"not[ _-]found", re.IGNORECASE),
    504: re.compile(r"time[ _-]?(?:d[ _-])?out|deadline", re.IGNORECASE),
    400: re.compile(
        r"invalid|bad[ _-]request|too[ _-](?:large|long)|context[ _-]length|content[ _-](?:filter|policy)",
        re.IGNORECASE,
    ),
    500: re.compile(r"internal|server[ _-]error|api_error|unavailable|bad[ _-]gateway", re.IGNORECASE),
}
"""HTTP status -> the words that servers use in its place; the first that matches holds."""
_IN_MESSAGES = (429, 529, 401)
"""Of a message without a code only these are read: the other words stand in messages about other things too."""
_LEADING_STATUS = re.compile(r"\W*(?:error|http|status|code|[\s:/])*([45]\d\d)\b", re.IGNORECASE)


@dataclass(frozen=True)
class ReportedError:
    """An error that a body reports.

    Attributes:
        status: the HTTP status that it means; None where it does not say.
        code: the server's word for it, may be empty.
        message: what the server says, may be empty.
    """

    status: int | None
    code: str
    message: str

    @property
    def said(self) -> str:
        """Its code and message."""
        head = self.code or "the response reports an error"
        return f"{head}: {self.message}" if self.message else head


def reported_error(body: Any) -> ReportedError | None:
    """The error that a body with the status 200 reports; None where it reports none."""
    first = body[0] if isinstance(body, list) and body else body
    if isinstance(first, str):
        return _read(first) if first.strip() else None
    if not isinstance(first, dict):
        return None
    if any(_says_something(first.get(name)) for name in ("error", "errors")):
        return _read(first)
    choices = first.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    for part in (choice, choice.get("message")):
        if isinstance(part, dict) and _says_something(part.get("error")):
            return _read(part)
    if "error" in (str(choice.get("finish_reason")).lower(), str(first.get("stop_reason")).lower()):
        return ReportedError(None, "finish_reason error", "the answer broke off")
    if choices or first.get("content"):
        return None
    error = _read(first)
    return error if "error" in (first.get("type"), first.get("object")) or error.status or error.message else None


def failure(
    provider: str, error: ReportedError, headers: Mapping[str, str], *, key: str, variable: str, model: str
) -> CallFailed | ProviderError:
    """What an error means for the call: try again, give it up, or end the run."""
    status = error.status
    said = masked_url(clean(error.said, key))[:MAX_MESSAGE]
    if status == 402:
        return ProviderError(f"{provider} has no credit left ({said}): top up the account and run again")
    if status in (401, 403):
        return ProviderError(f"{provider} refused the API key ({said}): check the environment variable {variable}")
    if status == 404:
        return ProviderError(f"{provider} does not know the model {model!r} or the address ({said}): check --provider")
    if status is None or status in _RETRYABLE or status >= 500:
        return Retryable(said, retry_after_s=retry_after_s(headers))
    return Refused(said)


def status_error(status: int, body: Any) -> ReportedError:
    """The error of a response with an HTTP error status, whatever its body says of the status."""
    error = _read(body)
    meant = 402 if error.status == 402 else status  # that there is no credit comes as 400, 403, 429 and 500 too
    return ReportedError(meant, f"HTTP {status}", error.message or error.code)


def _says_something(error: Any) -> bool:
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _read(error: Any) -> ReportedError:
    """The code and message of an error in whatever form; objects may hold objects or lists of them."""
    layers: list[dict[str, Any]] = []
    for _ in range(5):
        if isinstance(error, dict):
            layers.insert(0, error)
            texts = (error.get(name) for name in _TEXTS)
            error = next((text for text in texts if text and isinstance(text, str | dict | list)), None)
        elif isinstance(error, list):
            error = error[0] if error else None
    message = " ".join(error[: 10 * MAX_MESSAGE].split()) if isinstance(error, str) else ""
    codes = [layer[name] for layer in layers for name in _CODES if isinstance(layer.get(name), str | int | float)]
    words = [str(code)[:MAX_MESSAGE] for code in codes if isinstance(code, str)]
    numbers = [status for code in codes if (status := error_status(code)) is not None]
    head = f"HTTP {numbers[0]}" if numbers else words[0] if words else ""
    if _NO_CREDIT.search(" ".join([*words, message])):
        return ReportedError(402, head, message)
    if numbers:
        return ReportedError(numbers[0], head, message)
    for word in words:
        for status, pattern in _WORDS.items():
            if pattern.search(word):
                return ReportedError(status, word, message)
    leading = _LEADING_STATUS.match(message)
    inferred = next((status for status in _IN_MESSAGES if _WORDS[status].search(message)), None)
    return ReportedError(int(leading[1]) if leading else inferred, head, message)


def error_status(code: Any) -> int | None:
    """A code as an HTTP error status (429, 429.0, "429"); None where it is none."""
    try:
        number = float(code)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if 400 <= number < 600 else None
