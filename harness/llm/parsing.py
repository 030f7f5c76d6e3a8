r"""From a reply's text to a validated answer, or to `Unparsed` with a reason. A reply is never dropped.

What models put round JSON: prose, code fences, a draft before the final answer, LaTeX with single backslashes inside
strings, trailing commas. All of that is read. What is not there is not made up: a reply that was cut, or that echoes
the prompt's `<0, 1, or 2>`, is `Unparsed`. (json-repair was tried: it closes cut strings and reads that echo as 0.)

The *last* object that tries to answer decides: a valid draft does not stand in for a broken final answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from harness.records import LLMCall

M = TypeVar("M", bound=BaseModel)

_CUT = {"length", "max_tokens", "model_context_window_exceeded"}
_REFUSED = {"refusal", "content_filter"}
_MAX_STARTS = 256
_START = re.compile(r'\{\s*"((?:[^"\\]|\\.){1,100})"\s*:')
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*"|,(?=\s*[}\]])', re.DOTALL)
_BACKSLASH = re.compile(r"\\(u[0-9a-fA-F]{4}|.)([a-zA-Z]*)", re.DOTALL)
# Escapes that JSON and LaTeX share: \b and \f never mean backspace and form feed here, but \n, \r and \t do mean white
# space unless a LaTeX command follows.
_LATEX = re.compile(
    r"(?:n(?:e|eq|eg|abla|u|ot|otin|mid|leq|geq|parallel|ewline|olimits|ormalsize|earrow|exists|subseteq)|"
    r"r(?:ight|ightarrow|angle|ho|m|ceil|floor|brace|brack|vert|Vert|estriction|aisebox)|"
    r"t(?:o|imes|ext|extbf|extit|extrm|exttt|heta|au|an|anh|frac|ilde|riangle|riangleq|op|herefore|ag|binom))"
)


@dataclass(frozen=True)
class Unparsed:
    """A reply that holds no usable answer.

    Attributes:
        reason: why, in words.
        raw: the reply as it came.
    """

    reason: str
    raw: str


@dataclass(frozen=True)
class Parsed(Generic[M]):
    """A validated answer and the reply it was found in."""

    value: M
    raw: str


class _Duplicate(ValueError):
    """A key that an object gives two values."""


def parse_call(call: LLMCall, model: type[M]) -> Parsed[M] | Unparsed:
    """The answer in a journalled call, whatever became of the call."""
    if call.reply is None:
        return Unparsed(f"call failed: {call.error}", "")
    return parse_object(call.reply.text, model, finish_reason=call.reply.finish_reason)


def parse_object(text: str, model: type[M], *, finish_reason: str | None = None) -> Parsed[M] | Unparsed:
    """The last JSON object in `text` that answers with `model`'s fields, validated.

    Args:
        text: a reply; it is data and is never evaluated or formatted.
        model: what the object must be. Write lenient types as validators of its fields.
        finish_reason: the vendor's word, used to say why an answer is missing.
    """
    if finish_reason in _REFUSED:
        return Unparsed(f"refused by the model (finish_reason {finish_reason})", text)
    cut = f"; the reply was cut (finish_reason {finish_reason}: raise max_tokens)" if finish_reason in _CUT else ""
    if not text.strip():
        return Unparsed(f"empty reply{cut}", text)
    names = {field.alias or name for name, field in model.model_fields.items()}
    attempts = list(_attempts(text, names))
    if not attempts:
        return Unparsed(f"no JSON object with {', '.join(sorted(names))}{cut}", text)
    last = attempts[-1]
    if isinstance(last, str):
        return Unparsed(f"{last}{cut}", text)
    try:
        # half a surrogate pair is legal JSON, and neither UTF-8 nor a database can hold it
        sound = json.loads(json.dumps(last, ensure_ascii=False).encode("utf-8", "replace"))
        return Parsed(model.model_validate(sound), text)
    except RecursionError:
        return Unparsed("invalid answer: nested too deeply", text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "object"
        return Unparsed(f"invalid answer: {where}: {first['msg']}", text)


def _attempts(text: str, names: set[str]) -> Iterator[dict[str, Any] | str]:
    """Every object that has one of `names` as a key, in order; a sentence in place of one that is broken."""
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=_unique)
    starts = list(_START.finditer(text))[-_MAX_STARTS:]
    skip = 0
    for start in starts:
        if skip:
            skip -= 1
            continue
        mended = _mend(text[start.start() :])
        try:
            value, length = decoder.raw_decode(mended)
        except _Duplicate as error:
            yield f"the JSON object gives {error} two different values"
        except (ValueError, RecursionError):
            if start.group(1) in names:
                yield "the JSON object is broken or not closed"
        else:
            if names & value.keys():
                # objects inside this one do not answer for themselves
                skip = len(_START.findall(mended[:length])) - 1
                yield value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict; a key with two different values is ambiguous."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result and result[key] != value:
            raise _Duplicate(repr(key[:100]))
        result[key] = value
    return result


def _mend(text: str) -> str:
    """Double backslashes that JSON would refuse or misread (LaTeX), and drop commas before a closing bracket."""
    return _STRING_OR_COMMA.sub(lambda m: "" if m.group() == "," else _BACKSLASH.sub(_escape, m.group()), text)


def _escape(match: re.Match[str]) -> str:
    head, rest = match.group(1), match.group(2)
    if head in ('"', "\\", "/") or len(head) == 5:
        return match.group()
    if head in "nrt" and not _LATEX.fullmatch(head + rest):
        return match.group()
    return "\\" + match.group()
