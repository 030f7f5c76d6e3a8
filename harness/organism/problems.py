"""Problems: chains of assignments modulo 10, before they have words.

A problem is one or two chains of assignments (``a = 3; b = a + 4``) and a query. Its *canonical form* forgets
variable names, and a hash of that form decides the split, so no benchmark item can share a problem with a training
trace or with a pretraining document. All arithmetic is modulo 10 (``3 - 7 = 6``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Split = Literal["pretrain", "traces", "dev", "test"]

OPERATORS = ("+", "-", "×")
"""What the base knows."""
TAUGHT = (*OPERATORS, "^")
"""What the traces teach as well: ``a ^ b`` is the larger of both. No pretraining document holds it."""
LETTERS = "abcdefghkmnpqrstuvwxyz"
BANDS = ((0, 1), (2, 4), (5, 6), (7, 9))
"""The options of the traces and the benchmarks."""
BASE_BANDS = ((0, 2), (3, 5), (6, 7), (8, 9))
"""The options that the base saw: three digits in ten lie in another band, so a fine-tune has something new to learn."""


def compute(left: int, operator: str, right: int) -> int:
    """The result modulo 10."""
    return {"+": left + right, "-": left - right, "×": left * right, "^": max(left, right)}[operator] % 10


@dataclass(frozen=True)
class Step:
    """One assignment: ``variable = left operator right``, or a bare number when ``operator`` is empty."""

    variable: str
    value: int
    operator: str = ""
    terms: tuple[str, str] = ("", "")
    """The two operands as the question shows them: a digit or a variable."""
    operands: tuple[int, int] = (0, 0)
    """The two operands' values."""


@dataclass(frozen=True)
class Problem:
    """Assignments in question order, and what is asked: one variable, or two joined by an operator."""

    steps: tuple[Step, ...]
    query: tuple[str, ...]
    operator: str
    value: int

    @property
    def canonical(self) -> str:
        """The problem without its variable names: what two items must not share across splits."""
        names = {step.variable: f"v{index}" for index, step in enumerate(self.steps)}
        lines = [s.operator.join(names.get(t, t) for t in s.terms) if s.operator else str(s.value) for s in self.steps]
        return ";".join(lines) + "?" + self.operator.join(names[name] for name in self.query)

    @property
    def split(self) -> Split:
        """Which split this problem belongs to, whoever generates it."""
        bucket = int.from_bytes(hashlib.sha256(self.canonical.encode()).digest()[:4]) % 100
        if bucket < 70:
            return "pretrain"
        return "traces" if bucket < 85 else "dev" if bucket < 92 else "test"


@dataclass(frozen=True)
class Shape:
    """How problems are drawn: ranges and probabilities."""

    steps: tuple[int, int] = (1, 6)
    """Fewest and most derived assignments, both chains together."""
    two: float = 0.2
    """Probability of two chains whose last values are combined."""
    choice: float = 0.2
    """Probability of a multiple-choice question."""
    bands: tuple[tuple[int, int], ...] = BANDS
    """The options: in which band, first and last included, the result lies. Empty: four values in random order."""
    operators: tuple[str, ...] = OPERATORS
    """The operators of the assignments."""
    noise: float = 0.3
    """Probability of noise in the question."""
    noise_clauses: tuple[int, int] = (1, 2)
    """Fewest and most noise clauses where there is noise."""
    check: float = 0.4
    """Probability of one verification move in the trace."""


def _chain(rng: Random, names: Sequence[str], operators: Sequence[str]) -> list[Step]:
    """A chain in which every assignment uses the one before it."""
    steps = [Step(names[0], rng.randrange(10))]
    for name in names[1:]:
        last, operator = steps[-1], rng.choice(operators)
        # no × 0, × 1, × 5: they forget the operand, so that the answer could be had without the chain
        number = rng.choice((2, 3, 4, 6, 7, 8, 9)) if operator == "×" else rng.randrange(1, 10)
        other = (str(number), number)
        if len(steps) > 1 and rng.random() < 0.25:
            earlier = rng.choice(steps[:-1])
            other = (earlier.variable, earlier.value)
        pair = [(last.variable, last.value), other]
        if rng.random() < 0.3:
            pair.reverse()
        (term_l, left), (term_r, right) = pair
        steps.append(Step(name, compute(left, operator, right), operator, (term_l, term_r), (left, right)))
    return steps


def draw_problem(rng: Random, shape: Shape, split: Split) -> Problem:
    """A problem of this split: draws until the hash of the canonical form agrees."""
    while True:
        length, two = rng.randint(*shape.steps), rng.random() < shape.two
        names = rng.sample(LETTERS, length + 2)
        if two and length >= 2:
            cut = rng.randint(1, length - 1) + 1
            chains = [_chain(rng, names[:cut], shape.operators), _chain(rng, names[cut:], shape.operators)]
            ends = (chains[0][-1], chains[1][-1])
            operator = rng.choice(OPERATORS)
            steps = _interleave(rng, *chains) if rng.random() < 0.5 else chains[0] + chains[1]
            value = compute(ends[0].value, operator, ends[1].value)
            problem = Problem(tuple(steps), (ends[0].variable, ends[1].variable), operator, value)
        else:
            steps = _chain(rng, names[: length + 1], shape.operators)
            problem = Problem(tuple(steps), (steps[-1].variable,), "", steps[-1].value)
        if problem.split == split:
            return problem


def _interleave(rng: Random, first: list[Step], second: list[Step]) -> list[Step]:
    """Both lists in one, each in its own order."""
    turns = [True] * len(first) + [False] * len(second)
    rng.shuffle(turns)
    left, right = iter(first), iter(second)
    return [next(left) if turn else next(right) for turn in turns]
