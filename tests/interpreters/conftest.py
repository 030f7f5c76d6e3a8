"""Planted features: documents in the organism's style, and evidence whose right reading is known."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from harness.contract.context import RunContext
from harness.records import Evidence, Exemplar
from harness.testing import MemoryCalls

WINDOW = 8
WORDS = ["cat", "lamp", "green", "boat", "rain", "door", "slow", "book"]


def documents(n: int = 120, seed: int = 0) -> list[list[str]]:
    rng = random.Random(seed)
    result = []
    for _ in range(n):
        tokens = ["<|im_start|>", "think", "\n"]
        for _ in range(6):
            a, b, c = (str(rng.randrange(10)) for _ in range(3))
            x, y = rng.sample("abcdefgh", 2)
            op, rel = rng.choice([" +", " -", " ×"]), rng.choice([" =", " →"])
            tokens += [rng.choice([" So", " Then", " Next"]), f" {x}", " =", f" {y}", op, " ", a, rel, " ", b, op, " ",
                       a, rel, " ", c, "."]  # fmt: skip
            if rng.random() < 0.4:
                tokens += [" Wait", ",", " check", ":"]
            tokens += [f" {w}" for w in rng.sample(WORDS, 2)] + [";"]
        result.append([*tokens, "<|im_end|>"])
    return result


DOCUMENTS = documents()


def plant(
    name: str,
    picks: Sequence[tuple[int, int]],
    *,
    source: str = "adapter-activations",
    layer: int | None = 0,
    activations: Sequence[float] | None = None,
) -> Evidence:
    """Evidence whose exemplars are the tokens at (document, position)."""
    values = activations or [10.0 - i / len(picks) for i in range(len(picks))]
    exemplars = []
    for rank, ((d, position), value) in enumerate(zip(picks, values, strict=True)):
        start, stop = max(0, position - WINDOW), min(len(DOCUMENTS[d]), position + WINDOW + 1)
        exemplars.append(
            Exemplar(
                rank=rank,
                document=f"d{d}",
                position=position,
                start=start,
                tokens=tuple(DOCUMENTS[d][start:stop]),
                activations=tuple(value if i == position else 0.0 for i in range(start, stop)),
                target=position - start,
            )
        )
    sampled = [
        e.model_copy(update={"rank": len(exemplars) + i, "quantile": 1 - i / len(exemplars)})
        for i, e in enumerate(exemplars[:: max(1, len(exemplars) // 20)])
    ]
    return Evidence(source=source, feature=name, layer=layer, projection="q_proj", exemplars=tuple(exemplars),
                    sampled=tuple(sampled))  # fmt: skip


def find(
    wanted: Callable[[list[str], int], bool], n: int = 32, seed: int = 1, per_document: int = 2
) -> list[tuple[int, int]]:
    """Up to n places where `wanted(tokens, position)` holds."""
    rng = random.Random(seed)
    places = []
    for d, tokens in enumerate(DOCUMENTS):
        fitting = [p for p in range(1, len(tokens)) if wanted(tokens, p)]
        places += [(d, p) for p in rng.sample(fitting, min(per_document, len(fitting)))]
    rng.shuffle(places)
    return places[:n]


class Planting:
    """What tests plant with."""

    documents = DOCUMENTS
    plant = staticmethod(plant)
    find = staticmethod(find)

    @staticmethod
    def batch() -> dict[str, Evidence]:
        """One feature of each kind, by name."""
        tokens = {
            "wait": find(lambda t, p: t[p] == " Wait"),
            "arrow": find(lambda t, p: t[p] == " →"),
            "result": find(lambda t, p: t[p].isdigit() and t[p + 1] == "."),
            "after_relation": find(lambda t, p: t[p].isdigit() and t[p - 2] == " =" and t[p - 1] == " "),
            "operator": find(lambda t, p: t[p] in (" +", " -", " ×")),
            "two_operators": find(lambda t, p: t[p] in (" +", " -")),
            "digit": find(lambda t, p: t[p].isdigit(), 64),
            "letter": find(lambda t, p: t[p].strip() in set("abcdefgh")),
            "wait_and_plus": find(lambda t, p: t[p] == " Wait", 16) + find(lambda t, p: t[p] == " +", 16),
            "two_words": find(lambda t, p: t[p] == " cat", 16) + find(lambda t, p: t[p] == " lamp", 16),
            "random": find(lambda t, p: t[p] != "<|im_end|>", 64),
            "dead": [],
            "rare": find(lambda t, p: t[p] == " Wait", 3),
        }
        return {name: plant(name, places, layer=i % 4) for i, (name, places) in enumerate(tokens.items())}


@pytest.fixture(scope="session")
def planting() -> Planting:
    return Planting()


@pytest.fixture
def context(tmp_path: Any) -> Callable[..., RunContext]:
    """A RunContext over a provider and a journal."""

    def make(
        provider: Any = None, journal: Any = None, *, done: Sequence[str] = (), seed: int = 0, judge: Any = None
    ) -> RunContext:
        return RunContext(
            out_dir=tmp_path,
            seed=seed,
            done=frozenset(done),
            calls=journal if journal is not None else MemoryCalls(),
            provider=(lambda role: (judge if judge and role == "judge" else provider, f"model-of-{role}"))
            if provider is not None
            else None,
            roles=frozenset({"judge"} if judge else ()),
        )

    return make


@pytest.fixture
def journal() -> MemoryCalls:
    return MemoryCalls()
