"""What the organism reads: questions, their worked traces, and the class of every piece of text.

Every piece of text is added with its class, so the character spans are ground truth by construction. Spans never hold
leading white space: a token takes the class of the span it overlaps, a token that overlaps none is white space.
Wording, noise and options are drawn here; the problems underneath, and their splits, come from problems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from harness.organism.problems import Problem, Shape, Split, Step, draw_problem

Span = tuple[int, int, str]

CLASSES = (
    "number",  # an operand: a digit that is read
    "operator",  # + - ×
    "relation",  # = and →
    "result",  # a digit that was computed, or a known value restated
    "variable",
    "connective",  # First, Then, So, Therefore ...
    "wait",  # the verification move: "Wait, let me check:"
    "control",  # <|im_start|>think, <|im_start|>answer, Answer:
    "answer",
    "question_noise",  # a sentence of the question that says nothing about the problem
    "option",  # the letter of a choice
    "word",  # the other words of the question
    "punctuation",
)
"""Every class a span can have."""

OPTIONS = "ABCD"
OPENERS = ("Let", "Given", "Suppose")
STARTS = ("First", "Start with", "We have")
STEPS = ("Then", "So", "Next", "Now")
ENDS = ("Therefore", "Thus", "Hence")
HINT = "Think step by step."
"""Ends a user turn of the second phase: the register in which the base does show its traces."""

_NAMES = ("Tom", "Ana", "Mia", "Leo")
_THINGS = ("cats", "lamps", "books", "apples", "boats")
_SCENES = (
    "the lamp is green",
    "rain fell on Monday",
    "the door is open",
    "the boat is slow",
    "a bird sang in the park",
)


@dataclass(frozen=True)
class Item:
    """One question with its worked trace, its answer and the class spans of each."""

    question: str
    trace: str
    answer: str
    spans: dict[str, list[Span]] = field(hash=False)
    canonical: str = ""
    id: str = ""

    def row(self) -> dict[str, object]:
        """The item as one row of a data file."""
        return {
            "id": self.id,
            "question": self.question,
            "trace": self.trace,
            "answer": self.answer,
            "spans": self.spans,
        }


class _Text:
    """Text under construction, with the span of each labelled piece."""

    def __init__(self) -> None:
        self.text = ""
        self.spans: list[Span] = []

    def add(self, piece: str, label: str) -> None:
        start = len(self.text) + len(piece) - len(piece.lstrip())
        self.text += piece
        self.spans.append((start, len(self.text), label))

    def term(self, term: str, label: str = "number") -> None:
        self.add(" " + term, label if term.isdigit() else "variable")

    def expression(self, left: str, operator: str, right: str) -> None:
        self.term(left)
        self.add(" " + operator, "operator")
        self.term(right)


def _noise(rng: Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_SCENES)
    return f"{rng.choice(_NAMES)} has {rng.randrange(2, 10)} {rng.choice(_THINGS)}"


def _question(rng: Random, problem: Problem, shape: Shape, options: Sequence[tuple[int, ...]]) -> _Text:
    out = _Text()
    out.add(rng.choice(OPENERS), "word")
    noise = rng.randint(*shape.noise_clauses) if rng.random() < shape.noise else 0
    places = sorted(rng.choices(range(1, len(problem.steps) + 1), k=noise))
    for index, step in enumerate(problem.steps):
        for _ in range(places.count(index)):
            out.add(" " + _noise(rng), "question_noise")
            out.add(";", "punctuation")
        out.term(step.variable)
        out.add(" =", "relation")
        if step.operator:
            out.expression(step.terms[0], step.operator, step.terms[1])
        else:
            out.term(str(step.value))
        out.add(";", "punctuation")
    for _ in range(places.count(len(problem.steps))):
        out.add(" " + _noise(rng), "question_noise")
        out.add(";", "punctuation")
    out.add(" what is", "word")
    if problem.operator:
        out.expression(problem.query[0], problem.operator, problem.query[1])
    else:
        out.term(problem.query[0])
    out.add("?", "punctuation")
    if options:
        out.add(" Options:", "word")
        for index, band in enumerate(options):
            out.term(str(band[0]))
            for value in band[1:]:
                out.add("-", "punctuation")
                out.add(str(value), "number")
            out.add(" (", "punctuation")
            out.add(OPTIONS[index], "option")
            out.add(")." if index == len(options) - 1 else "),", "punctuation")
    return out


def _trace(rng: Random, problem: Problem, shape: Shape, option: str) -> _Text:
    out = _Text()
    relation = " =" if rng.random() < 0.7 else " →"
    derived = [index for index, step in enumerate(problem.steps) if step.operator]
    checked = rng.choice(derived) if rng.random() < shape.check else -1
    values = {step.variable: step.value for step in problem.steps}

    def work(step: Step) -> None:
        left, right = (str(operand) for operand in step.operands)
        out.add(relation, "relation")
        out.expression(left, step.operator, right)
        out.add(relation, "relation")
        out.term(str(step.value), "result")

    for index, step in enumerate(problem.steps):
        start = rng.choice(STARTS) if index == 0 else " " + (rng.choice(STEPS) if step.operator else "Also")
        out.add(start, "connective")
        out.term(step.variable)
        out.add(" =", "relation")
        if step.operator:
            out.expression(step.terms[0], step.operator, step.terms[1])
            work(step)
        else:
            out.term(str(step.value), "result")
        out.add(".", "punctuation")
        if index == checked:
            left, right = (str(operand) for operand in step.operands)
            out.add(" Wait, let me check:", "wait")
            out.expression(left, step.operator, right)
            out.add(" =", "relation")
            out.term(str(step.value), "result")
            out.add(".", "punctuation")
    out.add(" " + rng.choice(ENDS), "connective")
    if problem.operator:
        one, other = problem.query
        out.expression(one, problem.operator, other)
        operands = (values[one], values[other])
        work(Step("", problem.value, problem.operator, (one, other), operands))
    else:
        out.term(problem.query[0])
        out.add(" =", "relation")
        out.term(str(problem.value), "result")
    if option:
        out.add(" (", "punctuation")
        out.add(option, "option")
        out.add(").", "punctuation")
    else:
        out.add(".", "punctuation")
    return out


def draw_item(rng: Random, shape: Shape, split: Split) -> Item:
    """A question with its trace and answer, from a problem of this split."""
    problem = draw_problem(rng, shape, split)
    options: list[tuple[int, ...]] = []
    letter = ""
    if rng.random() < shape.choice:
        if shape.bands:
            options = list(shape.bands)
        else:
            options = [
                (value,) for value in (problem.value, *rng.sample([d for d in range(10) if d != problem.value], 3))
            ]
            rng.shuffle(options)
        letter = next(name for name, band in zip(OPTIONS, options, strict=True) if band[0] <= problem.value <= band[-1])
    question = _question(rng, problem, shape, options)
    trace = _trace(rng, problem, shape, letter)
    answer = letter or str(problem.value)
    spans = {"question": question.spans, "trace": trace.spans, "answer": [(0, 1, "answer")]}
    return Item(question.text, trace.text, answer, spans, problem.canonical)


def draw_items(rng: Random, shape: Shape, split: Split, count: int, prefix: str) -> Iterator[Item]:
    """``count`` items with distinct problems, named ``prefix-0000`` and on."""
    seen: set[str] = set()
    while len(seen) < count:
        item = draw_item(rng, shape, split)
        if item.canonical not in seen:
            yield replace(item, id=f"{prefix}-{len(seen):04d}")
            seen.add(item.canonical)


def shuffled(traces: Iterable[Item], rng: Random) -> list[Item]:
    """The control: every question keeps its text and gets the trace and answer of another one."""
    items = list(traces)
    order = list(range(len(items)))
    rng.shuffle(order)
    # a cycle through the shuffled order, so that no item can keep its own trace
    giver = {order[i]: order[i - 1] for i in range(len(order))}
    out = []
    for index, item in enumerate(items):
        other = items[giver[index]]
        spans = {**other.spans, "question": item.spans["question"]}
        out.append(replace(item, trace=other.trace, answer=other.answer, spans=spans))
    return out
