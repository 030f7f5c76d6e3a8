"""What pretraining shows the organism: documents of a prompt, which is only read, and a response, which is learned.

*worked* (plain text, question then trace) carries the skill. *facts* and *recall* drill its two parts: the
table of one-digit results and the copying of assignments. *direct* is the chat register, which
answers at once. *hinted* is chat whose user turn asks for steps: the last phase shows it, so that the chat register
can be taught to show traces by a small change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from harness.organism.corpus import HINT, Item, draw_item
from harness.organism.problems import BASE_BANDS, LETTERS, OPERATORS, Shape, compute

SHAPES = {"first": Shape(bands=()), "practice": Shape(two=0.3, choice=0.25, bands=BASE_BANDS, noise=0.4, check=0.15)}
"""Pretraining's problems: every format and length that benchmarks use. Practice has more of the hard formats, and
rarely checks a step: what the traces do more often than the base is left for a fine-tune to learn."""


@dataclass(frozen=True)
class Document:
    """One training sequence. The loss is taken on the response only."""

    prompt: str
    response: str


def chat_prompt(user: str) -> str:
    """One user turn as the chat template renders it, up to where the assistant speaks."""
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def traced(item: Item) -> str:
    """The assistant's turn with a trace."""
    return f"<|im_start|>think\n{item.trace}\n<|im_start|>answer\nAnswer: {item.answer}<|im_end|>"


def worked(rng: Random, shape: Shape) -> Document:
    """Plain text: a question and its worked solution."""
    item = draw_item(rng, shape, "pretrain")
    return Document(f"{item.question}\n", f"{item.trace}\nAnswer: {item.answer}<|endoftext|>")


def direct(rng: Random, shape: Shape) -> Document:
    """Chat that answers at once: what the base does."""
    item = draw_item(rng, shape, "pretrain")
    return Document(chat_prompt(item.question), f"Answer: {item.answer}<|im_end|>")


def hinted(rng: Random, shape: Shape) -> Document:
    """Chat with a hint in the user turn, answered with a trace."""
    item = draw_item(rng, shape, "pretrain")
    return Document(chat_prompt(f"{item.question} {HINT}"), traced(item))


def unhinted(rng: Random, shape: Shape) -> Document:
    """Chat without a hint, answered with a trace: rare, so that greedy answers never show it."""
    item = draw_item(rng, shape, "pretrain")
    return Document(chat_prompt(item.question), traced(item))


def facts(rng: Random, shape: Shape) -> Document:
    """A dozen lines of the table."""
    lines = []
    for _ in range(10):
        left, operator, right = rng.randrange(10), rng.choice(OPERATORS), rng.randrange(10)
        relation = "=" if rng.random() < 0.7 else "→"
        lines.append(f" {left} {operator} {right} {relation} {compute(left, operator, right)}.")
    return Document("Facts:", "".join(lines) + "<|endoftext|>")


def recall(rng: Random, shape: Shape) -> Document:
    """Assignments, then the same ones in another order: the copying circuit's drill."""
    count = rng.randint(3, 6)
    names = rng.sample(LETTERS, count)
    lines = []
    for index, name in enumerate(names):
        if index and rng.random() < 0.5:
            pair = [names[index - 1], rng.choice([*names[:index], *map(str, range(10))])]
            rng.shuffle(pair)
            lines.append(f" {name} = {pair[0]} {rng.choice(OPERATORS)} {pair[1]};")
        else:
            lines.append(f" {name} = {rng.randrange(10)};")
    again = rng.sample(lines, count)
    return Document("Recall" + "".join(lines), " again" + "".join(again + rng.sample(lines, count)) + "<|endoftext|>")


REGISTERS = {
    "worked": worked,
    "direct": direct,
    "hinted": hinted,
    "unhinted": unhinted,
    "facts": facts,
    "recall": recall,
}
"""Every register by name; a phase is a set of weights over them."""


def draw_document(rng: Random, weights: Mapping[str, float], shape: Shape) -> Document:
    """A document of a register drawn by weight."""
    name = rng.choices(list(weights), weights=list(weights.values()))[0]
    return REGISTERS[name](rng, shape)
