"""The paper's claims, from `claims.yaml`: numbers for the column beside ours, patterns, and claims not tested here.

Values are as printed; counts (`successes` of `n`) are those that the printed decimals fit. No interval is printed. The
two recoveries have different denominators: full - base in table 1, adapter - base in table 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from harness.records.base import Record

PAPER_SOURCES = {"adapter-activations": "LoRA directions", "batch-topk": "SAE latents"}
"""Our source -> the paper's name for it."""


class Claim(Record):
    """A number of the paper, for the column beside ours."""

    TABLE = "paper_claim"
    UNIQUE = ("place", "quantity", "subject")

    place: str
    """Where it is printed."""
    quantity: str
    """What it is, e.g. `score/adapter`, `recovery`, `share_of_adapter_gap/attention`, `grade/0`."""
    subject: str
    """The benchmark or source, by the paper's name."""
    value: float
    """As printed; shares between 0 and 1."""
    unit: str = "share"
    """`share` or `count`."""
    successes: int | None = None
    """Of n, where it is a share of counted cases."""
    n: int | None = None
    """Cases."""
    comment: str | None = None
    """What to know about it."""


@dataclass(frozen=True)
class Pattern:
    """A claim that one thing is larger than, or like, another.

    Attributes:
        place: where it is made.
        statement: in words.
        test: how it is tested; None where nothing tests it.
        reason: why not.
    """

    place: str
    statement: str
    test: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Paper:
    """Everything that the paper claims.

    Attributes:
        title: of the paper.
        model: its model's name, as the last part of a path or hub id.
        numbers: what is printed.
        top_layers: layers with the largest KL.
        patterns: what should hold on any model.
        untested: what this harness does not test.
    """

    title: str
    model: str
    numbers: tuple[Claim, ...]
    top_layers: tuple[int, ...]
    patterns: tuple[Pattern, ...]
    untested: tuple[Pattern, ...]

    def is_model(self, model: str | None) -> bool:
        """Whether a model, by path or hub id, is the paper's."""
        return bool(model) and str(model).rstrip("/").rsplit("/", 1)[-1].lower() == self.model.lower()


@cache
def paper() -> Paper:
    """The paper's claims. Read when first asked for."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there
    data = yaml.load(files("harness.store").joinpath("claims.yaml").read_text(encoding="utf-8"), Loader=loader)
    return Paper(
        title=data["paper"],
        model=data["model"],
        numbers=tuple(Claim(**c) for c in data["numbers"]),
        top_layers=tuple(data["top_layers"]["layers"]),
        patterns=tuple(Pattern(**p) for p in data["patterns"]),
        untested=tuple(Pattern(**p) for p in data["untested"]),
    )
