"""From a response to a score: which part of it is the answer, and whether that equals the gold answer.

Extraction (what s1's evaluation does, in this order): what follows the last answer marker; in that, the last
`\\boxed{...}`, else what follows the last "Answer:". A response without either has no answer and counts as wrong.
Both answers are unwrapped (`notation`) before they are compared. Equivalence of mathematics is math-verify's (SymPy).

The graders at the end are `process_results` of our lm-eval tasks; they also work in plain lm-eval.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from harness.benchmarks.notation import brace_pairs, option_letter, plain_math

Fallback = Literal["none", "last-number"]
Equal = Callable[[str, str], bool]

ANSWER_MARKERS = ("<|im_start|>answer", "</think>")
"""Texts that end a reasoning trace: the paper's rendering, and R1's."""

COMPARE_S = 5
"""Seconds that one comparison may take before it counts as unequal."""

_ANSWER = re.compile(r"Answer\s*(?:\*\*|__|\}|\*|_)?\s*:")
_PHRASE = re.compile(r"(?:the|final)\s+answer\s+is\b\s*:?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_BETWEEN_BOXES = re.compile(r"(?:\$|\\[()\[\],;: ]|\\text\s*\{|[{}\s,;/&]|\b(?:and|or)\b)*")
_BLOCK = re.compile(
    r"(?:\$\$(.+?)\$\$|\\\[(.+?)\\\]|\$([^$]+)\$|\\\((.+?)\\\)|```\w*\n(.+?)```|\\begin\{(?:equation|align)\*?\}(.+?)\\end)",
    re.DOTALL,
)
_SENTENCE_END = re.compile(r"(?<!\\left)\. (?!(?:or|and)\b|\(?[A-Z]\)?(?:[.,)]|$))")
_GOES_ON = re.compile(r"(?:or|and)\b|[-*(\s]*(?:[A-Ja-j]|-?[0-9][0-9.,/]*)[).]?$")
_TO_EVALUATE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|sum|prod|int|lim|d?binom)(?![a-z])|\\approx")
_RELATION = re.compile(r"[<>≤≥]|\\(?:leq?|geq?|lt|gt|neq?|leqslant|geqslant)(?![a-z])")
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
          "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"}  # fmt: skip
_N_BASE = rf"(?:([0-9]+)|({'|'.join(_BASES)}))"
_BASE = re.compile(
    rf"(?P<digits>[0-9A-F]*[0-9][0-9A-F]*|[A-F]{{2,}}|[)}}])\s*_\s*\{{?[\s(]*(?:\\text\s*\{{\s*)?(?:base\s*)?\}}?\s*"
    rf"{_N_BASE}\s*\}}?\s*\)?\s*\}}?|(?:\(|\\text\s*\{{|[\s,])+(?:in\s+)?base[ -]?{_N_BASE}[\s}})]*$"
)
_MODULUS = re.compile(
    r"\s*(?:\\pmod|\(?\s*(?:\\[bp]?mod|\\(?:text|mathrm|operatorname)\s*\{\s*mod\s*\}?|\bmod\b))"
    r"\s*\{?\s*([0-9a-z]+)\s*\}?\s*[})]*$"
)
_PERCENT = re.compile(r"\s*\\?%$")
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_SCALE = re.compile(rf"\b({'|'.join(_SCALES)})s?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Extracted:
    """The answer found in a response.

    Attributes:
        text: the answer; None where there is none.
        how: `boxed`, `answer-line`, `phrase`, `last-number`, or why there is none.
    """

    text: str | None
    how: str


def extract_answer(response: str, *, fallback: Fallback = "none") -> Extracted:
    """The answer of a response.

    Args:
        response: what the model wrote.
        fallback: `last-number` also takes the text after the last "answer is", or else the last number, as graders do
            that never leave a response without an answer. It rewards unfinished responses by chance.
    """
    tail = after_marker(response)
    boxed = last_boxed(tail)
    if boxed is not None:
        return Extracted(boxed.strip(), "boxed")
    markers = list(_ANSWER.finditer(tail))
    line = _first_line(tail[markers[-1].end() :]) if markers else ""
    if line:
        return Extracted(line, "answer-line")
    if fallback == "none":
        return Extracted(None, "no boxed answer and no line 'Answer:'")
    return _by_fallback(tail)


def after_marker(response: str) -> str:
    """What follows the last answer marker; the whole response where there is none."""
    cut = max((response.rfind(m) + len(m) for m in ANSWER_MARKERS if m in response), default=0)
    return response[cut:]


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{...}` (or `\fbox`) holds, braces balanced; None where there is none.

    Boxes that only "and", "or" or a comma stands between are one answer: their contents with commas.
    """
    pairs = brace_pairs(text)
    matches = [match for match in _BOX.finditer(text) if match.end() - 1 in pairs]
    boxes = [(match.start(), match.end(), pairs[match.end() - 1]) for match in matches]
    if not boxes:
        return None
    start, inside, close = boxes[-1]
    contents = [text[inside:close]]
    for earlier_start, earlier_inside, earlier_close in reversed(boxes[:-1]):
        between = text[earlier_close + 1 : start]
        if earlier_close > start or not between.strip(" $\n") or not _BETWEEN_BOXES.fullmatch(between):
            break
        contents.insert(0, text[earlier_inside:earlier_close])
        start = earlier_start
    return ", ".join(dict.fromkeys(contents))


def equal_math(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers mean the same: equal strings in one notation, or equal for math-verify.

    Stricter than math-verify in four places. A number in another base is another number. A number is not a relation
    (`x > 5` for 5). Where the gold answer is evaluated, an approximation or an expression that still holds functions is
    not an answer (`\\cos 60^\\circ` for 1/2). A multiple of an equation is another equation: such problems fix the
    coefficients. A modulus, a base or a percent sign may be left out, as the question states it. A comparison that
    takes more than five seconds, or that SymPy cannot make, counts as unequal.
    """
    theirs, ours = plain_math(gold), plain_math(answer)
    (their_bases, theirs), (our_bases, ours) = _bases(theirs), _bases(ours)
    if our_bases and our_bases != their_bases and (their_bases or set(our_bases) != {"10"}):
        return False
    (their_modulus, theirs), (our_modulus, ours) = _modulus(theirs), _modulus(ours)
    if their_modulus and our_modulus and their_modulus != our_modulus:
        return False
    if bool(_RELATION.search(ours)) != bool(_RELATION.search(theirs)):
        return False
    if _TO_EVALUATE.search(ours) and not _TO_EVALUATE.search(theirs):
        return False
    if _verified(theirs, ours):
        return True
    without_percent = _PERCENT.sub("", theirs), _PERCENT.sub("", ours)
    return without_percent != (theirs, ours) and _verified(*without_percent)


def _verified(expected_text: str, given_text: str) -> bool:
    """Equal strings, or equal for math-verify."""
    if _squeeze(expected_text) == _squeeze(given_text):
        return True
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    # math-verify's time limit is a signal, which only the main thread can take.
    limit = COMPARE_S if threading.current_thread() is threading.main_thread() else None
    try:
        expected = parse(f"\\boxed{{{expected_text}}}", parsing_timeout=limit)
        given = parse(f"\\boxed{{{given_text}}}", parsing_timeout=limit)
        if not (expected and given and verify(expected, given, timeout_seconds=limit)):
            return False
        return _same_scale(expected[0], given[0])
    except (TimeoutException, RecursionError, ValueError, TypeError, AttributeError, NotImplementedError):
        return False


def equal_integer(gold: str, answer: str) -> bool:
    """Integer comparison, as AIME is scored: `025` is 25. An expression is compared by its value."""
    theirs, ours = _integer(gold), _integer(answer)
    if theirs is None or ours is None:
        return equal_math(gold if theirs is None else str(theirs), answer)
    return ours == theirs


def equal_number(gold: str, answer: str) -> bool:
    """Comparison of the one number in each, with thousands separators or a unit (GSM8K); else of the expressions."""
    theirs, ours = _number(gold), _number(answer)
    return equal_math(gold, answer) if theirs is None or ours is None else ours == theirs


def equal_letter(gold: str, answer: str) -> bool:
    """Comparison of the option's letter: `C`, `(C)`, `$C$`, `Option C`, `C) 4`. An answer that names two is wrong."""
    letter = option_letter(answer)
    return letter is not None and letter == (option_letter(gold) or gold.strip().upper())


def loops(response: str, *, repeats: int = 4, at_least: int = 120) -> bool:
    """Whether a response ends in a loop: one unit, `repeats` times or more, over its last `at_least` characters."""
    tail = response.rstrip()[-4 * at_least :]
    for size in range(1, len(tail) // repeats + 1):
        unit, copies = tail[-size:], 1
        while tail.endswith(unit * (copies + 1)):
            copies += 1
        if copies >= repeats and copies * size >= at_least:
            return True
    return False


@dataclass(frozen=True)
class Grader:
    """lm-eval's `process_results`: extracts each answer and compares it with the document's gold answer.

    Attributes:
        equal: (gold, answer) -> whether they are the same.
        gold: document -> gold answer.
    """

    equal: Equal
    gold: Callable[[Mapping[str, Any]], str]

    def __call__(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        """Mean over the repeats of a document (avg@k)."""
        responses = list(results[0]) if isinstance(results[0], list) else [results[0]]
        gold = self.gold(doc)
        answers = [self.extract(str(r)) for r in responses]
        return {"exact_match": sum(a is not None and self.equal(gold, a) for a in answers) / len(responses)}

    @staticmethod
    def extract(response: str) -> str | None:
        """The answer of a response; None where there is none."""
        return extract_answer(response).text


def box_last_number(responses: Sequence[Sequence[str]], documents: Any = None) -> list[list[str]]:
    r"""lm-eval's `flexible-extract` of its GSM8K tasks, as a custom filter: the last number, as `\boxed{...}`.

    Commas, dollar signs and a full stop at the end are left out, as lm-eval's comparison there does.

    Args:
        responses: of each document, its repeats.
        documents: not looked at.
    """
    return [[_boxed_number(response) for response in repeats] for repeats in responses]


def _boxed_number(response: str) -> str:
    numbers = [match[0] or match[1] for match in _FLEXIBLE.findall(response)]
    return f"\\boxed{{{re.sub(r'[,$]', '', numbers[-1]).removesuffix('.')}}}" if numbers else ""


grade_math = Grader(equal_math, lambda doc: str(doc["answer"]))
"""MATH-500."""
grade_integer = Grader(equal_integer, lambda doc: str(doc["answer"]))
"""AIME."""
grade_number = Grader(equal_number, lambda doc: str(doc["answer"]).rpartition("####")[2])
"""GSM8K, whose gold answer follows `####`."""
grade_letter = Grader(equal_letter, lambda doc: str(doc["letter"]))
"""Multiple choice with generated reasoning."""


def _by_fallback(tail: str) -> Extracted:
    _, *said = _PHRASE.split(tail)
    if said and said[-1].strip():
        line = _first_line(said[-1])
        verdict = re.match(r"(?:correct|right|wrong)\b", line)  # "the answer is correct" holds no answer
        if not verdict and (re.search(r"[0-9\\]", line) or len(line.split()) == 1):
            return Extracted(line, "phrase")
    numbers = _NUMBER.findall(tail)
    return Extracted(numbers[-1], "last-number") if numbers else Extracted(None, "no number")


def _first_line(text: str) -> str:
    """The answer at the beginning of a text: a block of mathematics or code, or else the first sentence of a line.

    Lines that go on with "or", or hold one more value or letter and nothing else, belong to the answer.
    """
    text = text.lstrip()
    closing = re.match(r"\*\*|__|\*|_|\}", text)
    if closing and (closing[0] == "}" or text.partition("\n")[0].count(closing[0]) % 2):
        text = text[closing.end() :].lstrip()  # closes what was opened before "Answer:"
    block = _BLOCK.match(text)
    if block and not text[block.end() :].partition("\n")[0].strip(" .*_"):
        return next(content for content in block.groups() if content is not None).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip() not in ("$$", r"\[", "```")]
    answer = lines[0] if lines else ""
    for mark in ("**", "__", "*"):
        if answer.count(mark) == 1:
            answer = re.sub(rf"^{re.escape(mark)}\s*|\s*{re.escape(mark)}(?=\.?$)", "", answer)
    for line in lines[1:]:
        if not _GOES_ON.match(line):
            break
        answer += f"\n{line}"
    return re.sub(r"(?<!\\)[.\s]+$", "", _SENTENCE_END.split(answer)[0])


def _same_scale(expected: Any, given: Any) -> bool:
    """Whether two equivalent equations are the same but for side and order; True for all that are no equations."""
    from sympy import Equality, expand

    if not (isinstance(expected, Equality) and isinstance(given, Equality)) or expected.lhs.is_Symbol:
        return True
    ours, theirs = expand(given.lhs - given.rhs), expand(expected.lhs - expected.rhs)
    return bool(ours == theirs or ours == -theirs)


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).rstrip(".")


def _bases(text: str) -> tuple[list[str], str]:
    """The bases that are given with numbers, and the text without them."""
    named = [next(base for base in match.groups()[1:] if base) for match in _BASE.finditer(text)]
    return [_BASES.get(base, base) for base in named], _BASE.sub(lambda match: match["digits"] or "", text)


def _modulus(text: str) -> tuple[str, str]:
    """The modulus of a congruence, and the residue."""
    match = _MODULUS.search(text)
    return ("", text) if match is None else (match[1], _after(text[: match.start()], r"\equiv").strip(" ("))


def _after(text: str, sign: str) -> str:
    """The right-hand side; the whole text where its left-hand side is a list."""
    left, _, right = text.rpartition(sign)
    return text if re.search(r"[,;]|\b(?:and|or)\b", left) else right


def _integer(text: str) -> int | None:
    plain = _after(plain_math(text), "=").strip()
    is_integer = re.fullmatch(r"[+-]? ?(?:[0-9]{1,18}|[0-9]{1,3}(?:,[0-9]{3})+)", plain)
    return int(re.sub(r"[, ]", "", plain)) if is_integer else None


def _number(text: str) -> Decimal | None:
    """The number of a text that holds one and nothing to be evaluated; None for any other."""
    plain = re.sub(r"\b(?:minus|negative)\s+(?=[0-9.])|-\s+(?=[0-9.])", "-", _after(plain_math(text), "="))
    numbers = _NUMBER.findall(plain)
    if len(numbers) != 1 or re.search(r"[/^_<>\\!(\[{]", re.sub(r"\\%|\\(?:text|mathrm)\s*\{[^{}]*\}", "", plain)):
        return None
    if re.search(r"[0-9],[0-9]", plain.replace(numbers[0], "")):
        return None
    scale = _SCALE.search(plain)
    return Decimal(numbers[0].replace(",", "")) * (_SCALES[scale[1].lower()] if scale else 1)
