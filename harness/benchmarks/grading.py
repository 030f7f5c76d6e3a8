"""From a response to a score: which part of it is the answer, and whether that equals the gold answer.

Extraction (what s1's evaluation does, in this order): what follows the last answer marker; in that, the last
`\\boxed{...}`, else what follows the last "Answer:". A response without either has no answer and counts as wrong.
Equivalence is math-verify's (SymPy), after the strings were cleaned of what is layout rather than mathematics.

The graders at the end are `process_results` of our lm-eval tasks; they also work in plain lm-eval.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Fallback = Literal["none", "last-number"]
Equal = Callable[[str, str], bool]

ANSWER_MARKERS = ("<|im_start|>answer", "</think>")
"""What closes a reasoning trace: the paper's rendering, and R1's."""

COMPARE_S = 5
"""Seconds that one comparison may take before it counts as unequal."""

_PHRASE = re.compile(r"(?:the|final)\s+answer\s+is\b\s*:?\s*", re.IGNORECASE)
_NUMBER = re.compile(r"-?(?:[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?|\.[0-9]+)")
_TO_EVALUATE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|sum|prod|int|lim|d?binom)(?![a-z])|\\approx")
_ORDINAL = re.compile(r"\^\s*\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{\s*)?(?:st|nd|rd|th)\s*\}?\s*\}?")
_TRAILING_WORDS = re.compile(r"(?:\\?\s)*\\(?:text|mathrm|textrm|mbox)\s*\{[^{}]*\}\s*(?:\^\s*\{?\s*[0-9]\s*\}?)?\s*$")
_LAYOUT = ((r"\!", ""), (r"\,", ""), (r"\;", " "), (r"\$", ""), (r"\left", ""), (r"\right", ""), (r"\dfrac", r"\frac"),
           (r"\tfrac", r"\frac"), ("π", r"\pi "), ("−", "-"), ("$", ""))  # fmt: skip


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
        fallback: `last-number` also takes what follows the last "answer is", and else the last number: the rule of
            graders that never leave a response without an answer. It rewards unfinished responses by chance.
    """
    tail = after_marker(response)
    boxed = last_boxed(tail)
    if boxed is not None:
        return Extracted(boxed.strip(), "boxed")
    _before, found, line = tail.rpartition("Answer:")
    if found and line.strip():
        return Extracted(_first_line(line), "answer-line")
    if fallback == "none":
        return Extracted(None, "no boxed answer and no line 'Answer:'")
    return _by_fallback(tail)


def after_marker(response: str) -> str:
    """What follows the last answer marker; the whole response where there is none."""
    cut = max((response.rfind(m) + len(m) for m in ANSWER_MARKERS if m in response), default=0)
    return response[cut:]


def last_boxed(text: str) -> str | None:
    r"""What the last complete `\boxed{...}` (or `\fbox`) holds, braces balanced; None where there is none."""
    for match in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth, at = 1, match.end()
        while at < len(text) and depth:
            if text[at] == "\\":
                at += 1  # an escaped brace opens and closes nothing
            elif text[at] == "{":
                depth += 1
            elif text[at] == "}":
                depth -= 1
            at += 1
        if not depth:
            return text[match.end() : at - 1]
    return None


def equal_math(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers mean the same: equal strings once cleaned, or equal for math-verify.

    Stricter than math-verify in two places. Where the gold answer is evaluated, an approximation or an expression that
    still holds functions is not an answer (`\\cos 60^\\circ` for 1/2). A multiple of an equation is another equation:
    such problems fix the coefficients. A comparison that takes more than five seconds, or that SymPy cannot make,
    counts as unequal.
    """
    ours, theirs = _clean(answer), _clean(gold)
    if _squeeze(ours) == _squeeze(theirs):
        return True
    if _TO_EVALUATE.search(ours) and not _TO_EVALUATE.search(theirs):
        return False
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    # math-verify's time limit is a signal, which only the main thread can take.
    limit = COMPARE_S if threading.current_thread() is threading.main_thread() else None
    try:
        expected = parse(f"\\boxed{{{theirs}}}", parsing_timeout=limit)
        given = parse(f"\\boxed{{{ours}}}", parsing_timeout=limit)
        if not (expected and given and verify(expected, given, timeout_seconds=limit)):
            return False
        return _same_scale(expected[0], given[0])
    except (TimeoutException, RecursionError, ValueError, TypeError, AttributeError, NotImplementedError):
        return False


def equal_integer(gold: str, answer: str) -> bool:
    """Integer comparison, as AIME is scored: `025` is 25. An expression is compared by its value."""
    ours, theirs = _integer(answer), _integer(gold)
    return equal_math(str(theirs), answer) if ours is None else ours == theirs


def equal_number(gold: str, answer: str) -> bool:
    """Comparison of the last number in each, thousands separators left out (GSM8K)."""
    ours, theirs = _numbers(answer), _numbers(gold)
    return bool(ours and theirs) and ours[-1] == theirs[-1]


def equal_letter(gold: str, answer: str) -> bool:
    """Comparison of the option's letter: `C`, `(C)`, `\\text{C}`, `C) 4`."""
    found = re.match(r"[\s({\[*]*(?:\\(?:text|mathrm|textbf|mathbf)\s*\{)?[\s(]*([A-Za-z])(?![A-Za-z])", answer.strip())
    return found is not None and found.group(1).upper() == gold.strip().strip("()").upper()


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
    line = text.strip().splitlines()[0].strip().strip("*").strip()
    return re.sub(r"(?<!\\)[.\s]+$", "", line.split(". ")[0])


def _same_scale(expected: Any, given: Any) -> bool:
    """Whether two equivalent equations are the same but for side and order; True for all that are no equations."""
    from sympy import Equality, expand

    if not (isinstance(expected, Equality) and isinstance(given, Equality)) or expected.lhs.is_Symbol:
        return True
    ours, theirs = expand(given.lhs - given.rhs), expand(expected.lhs - expected.rhs)
    return bool(ours == theirs or ours == -theirs)


def _clean(answer: str) -> str:
    text = answer.strip()
    for old, new in _LAYOUT:
        text = text.replace(old, new)
    text = _ORDINAL.sub("", text)
    shorter = _TRAILING_WORDS.sub("", text).strip()
    return shorter or text  # an answer that is a word, like \text{even}, stays


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text).rstrip(".")


def _integer(text: str) -> int | None:
    plain = _squeeze(_clean(text)).replace(",", "").rpartition("=")[2]
    return int(plain) if re.fullmatch(r"-?[0-9]{1,18}", plain) else None


def _numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in _NUMBER.findall(text.replace(r"\!", "").replace("{,}", ","))]
