r"""From a reply's text to a validated answer, or to `Unparsed` with a reason. A reply is never dropped.

Models put things around JSON: thinking blocks, prose, code fences, a draft before the final answer. Inside strings they
write LaTeX with single backslashes, and commas before a closing bracket. All of that is read. What is not there is not
made up: a reply that was cut, or that echoes the prompt's `<0, 1, or 2>`, is `Unparsed`. (json-repair was tried: it
closes cut strings and reads that echo as 0.)

Thinking blocks are cut before anything is read. Of the rest, the *last* object that tries to answer decides: a valid
draft does not stand in for a broken final answer.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from harness.records import MAX_REPLY_CHARS, TOO_LONG, LLMCall

M = TypeVar("M", bound=BaseModel)

_CUT = {"length", "max_tokens", "model_context_window_exceeded"}
_REFUSED = {"refusal", "content_filter"}
_MAX_QUOTED = 200
_MAX_STARTS = 256
_MAX_UNCLOSED = 8
_THINK = r"(?:[a-z]+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad)"
# <think>, ◁think▷, [THINK], <|begin_of_thought|>, and gpt-oss's channels, of which `final` ends the analysis
_TAG = re.compile(
    rf"[<◁](?P<close>/)?\s*{_THINK}(?:\s[^<>◁▷]*)?(?<!/)[>▷]|(?-i:\[(?P<close_bracket>/)?THINK\])|"
    rf"<\|(?:begin_of_|(?P<close_bar>/|end_of_))?{_THINK}\|>|"
    r"<\|channel\|>\s*(?:analysis|commentary|(?P<close_channel>final))\b[^<]*<\|message\|>",
    re.IGNORECASE,
)
_STRING_OR_BRACE = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]', re.DOTALL)
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
    answer = answer_text(text, finish_reason)
    if isinstance(answer, Unparsed):
        return answer
    cut = _cut(finish_reason)
    names = {field.alias or name for name, field in model.model_fields.items()}
    attempts = list(_attempts(answer, names))
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


def answer_text(text: str, finish_reason: str | None = None) -> str | Unparsed:
    """What of a reply may be read as its answer: what stands outside its thinking blocks.

    A reply that begins inside a block (it has the closing tag only) is read after that. `Unparsed` where the model
    refused, where a block is not closed, and where nothing is left.
    """
    if finish_reason in _REFUSED:
        quoted = " ".join(text[:_MAX_QUOTED].split())
        return Unparsed(f"refused by the model (finish_reason {finish_reason}){quoted and f': {quoted}'}", text)
    if finish_reason == TOO_LONG:
        return Unparsed(f"the reply has more than {MAX_REPLY_CHARS:,} characters", text)
    answer = _outside_thinking(text)
    if answer is None:
        return Unparsed(f"a thinking block is not closed: there is no answer{_cut(finish_reason)}", text)
    if not answer.strip():
        where = " after the thinking block" if text.strip() else ""
        return Unparsed(f"empty reply{where}{_cut(finish_reason)}", text)
    return answer


def _cut(finish_reason: str | None) -> str:
    return f"; the reply was cut (finish_reason {finish_reason}: raise max_tokens)" if finish_reason in _CUT else ""


def _outside_thinking(text: str) -> str | None:
    """The text without its thinking blocks; None where one is not closed.

    A tag inside a JSON object is a word in an answer ("fires on <think>"), unless a block was open before the object.
    """
    tags = list(_TAG.finditer(text))
    starts = [start.start() for start in _START.finditer(text)] if tags else []
    unclosed: set[int] = set()
    outside, position, thinking = "", 0, False
    for tag in tags:
        if tag.start() < position:
            continue
        if not thinking and (end := _end_of_object_around(text, starts, position, tag.start(), unclosed)):
            outside, position = outside + text[position:end], end
            continue
        if tag.lastgroup is not None:  # a closing tag, and the only one where the reply began inside the block
            outside, thinking = outside if thinking else "", False
        elif not thinking:
            outside, thinking = outside + text[position : tag.start()], True
        position = tag.end()
    return None if thinking else outside + text[position:]


def _end_of_object_around(text: str, starts: list[int], position: int, tag: int, unclosed: set[int]) -> int | None:
    """Where the JSON object ends that begins after `position` and has `tag` in it; None where there is none.

    Starts of objects that do not end are added to `unclosed`: finding that out takes reading to the end of the text.
    """
    for start in starts[bisect_left(starts, position) : bisect_left(starts, tag)]:
        if start < position or start in unclosed:
            continue
        if len(unclosed) == _MAX_UNCLOSED:
            return None
        end = _end_of_object(text, start)
        if end is None:
            unclosed.add(start)
        elif end > tag:
            return end
        else:
            position = end
    return None


def _end_of_object(text: str, start: int) -> int | None:
    depth = 0
    for token in _STRING_OR_BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(token.group(), 0)
        if depth == 0 and token.group() == "}":
            return token.end()
    return None


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
