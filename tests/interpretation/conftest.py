"""A small corpus with ground-truth classes, as an activation set."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.activations.store import ActivationWriter, StoredActivations, open_set
from harness.model.chat import ChatFormat, Document
from harness.records import Trace

CHAT = ChatFormat(think_header="<t>", answer_header="<a>", answer_prefix="A:", end="")


def corpus(n: int = 60, seed: int = 0) -> list[tuple[Trace, Document]]:
    """`<q>` question, `<t>` trace, `<a>` A: answer; one token per word, its leading space included."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        words, classes = [], []
        for _ in range(rng.randint(6, 9)):
            a, b = rng.randrange(10), rng.randrange(10)
            words += ["So", rng.choice("xyz"), "=", str(a), rng.choice("+-"), str(b), "."]
            classes += ["connective", "variable", "relation", "number", "operator", "number", "punctuation"]
            if rng.random() < 0.3:
                words += ["Wait", "check"]
                classes += ["wait", "wait"]
        text = " ".join(words)
        spans, at = [], 0
        for word, name in zip(words, classes, strict=True):
            spans.append((at, at + len(word), name))
            at += len(word) + 1
        trace = Trace(id=f"d{i}", question="what", trace=text, answer=str(rng.randrange(10)),
                      spans={"trace": tuple(spans), "answer": ((0, 1, "answer"),)})  # fmt: skip
        tokens = ["<q>", "what", "<t>", words[0], *(f" {w}" for w in words[1:]), "<a>", "A:", trace.answer]
        ends = np.cumsum([len(t) for t in tokens]).tolist()
        vocabulary = [hash_of(t) for t in tokens]
        n_trace = len(words)
        made.append(
            (
                trace,
                Document(
                    id=trace.id,
                    text="".join(tokens),
                    ids=tuple(vocabulary),
                    offsets=tuple((e - len(t), e) for e, t in zip(ends, tokens, strict=True)),
                    segments=("prompt", "prompt", *("think",) * (n_trace + 1), "answer", "answer", "answer"),
                    ranked=(False, True, False, *(True,) * n_trace, False, True, True),
                ),
            )
        )
    return made


def hash_of(token: str) -> int:
    return sum(ord(c) * 31**i for i, c in enumerate(token)) % 50_000


def write(
    folder: Path, columns: dict[str, Any], *, signed: bool = False, n: int = 60, seed: int = 0
) -> StoredActivations:
    """An activation set whose columns are functions (token text, rng) -> activation."""
    writer = ActivationWriter(
        folder, "made", tuple(columns), layers=tuple(range(len(columns))), projections=("q_proj",) * len(columns),
        signed=signed, site="made up", chat_hash="0", dtype="float32",
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    for _, document in corpus(n, seed):
        tokens = [document.text[a:b] for a, b in document.offsets]
        values = np.array([[function(t, rng) for function in columns.values()] for t in tokens], dtype=np.float32)
        writer.append(document, values)
    return open_set(writer.finish())


@pytest.fixture
def chat() -> ChatFormat:
    return CHAT


@pytest.fixture
def traces() -> list[Trace]:
    return [trace for trace, _ in corpus()]


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """Makes an activation set: `made({name: function})`."""
    return lambda columns, **settings: write(tmp_path / "set", columns, **settings)
