"""The paper's claims, from `claims.yaml`, and how it was done, from `setup.yaml`.

Values are as printed; counts (`successes` of `n`) are those that the printed decimals fit. No interval is printed. The
two recoveries have different denominators: full - base in table 1, adapter - base in table 2.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

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
    margin: float
    """Ours is equivalent within it, in the number's unit. Stated by the harness, not by the paper."""
    unit: str = "share"
    """`share` or `count`."""
    successes: int | None = None
    """Of n, where it is a share of counted cases."""
    n: int | None = None
    """Cases."""
    comment: str | None = None
    """What to know about it."""


class Declared(BaseModel):
    """Base of what the files declare: frozen, nothing extra allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Clause(Declared):
    """One thing that a sentence says."""

    says: str
    """In words."""
    test: str | None = None
    """How it is tested (`harness.reports.card.clauses`); None where nothing tests it."""
    of: tuple[str | int, ...] = ()
    """What is compared, the side that is claimed to be larger first."""
    margin: float = 0.0
    """Two shares are alike within it."""
    cases: Literal["all", "one"] = "all"
    """Which of the cases, e.g. benchmarks, must show it."""
    papers_model_only: bool = False
    """Whether it speaks of the paper's model alone, as of its layers."""
    reason: str | None = None
    """Why nothing tests it."""


class Sentence(Declared):
    """A sentence of the paper, or a comparison that its sentences need (`place` is then `control`)."""

    place: str
    """Where it stands."""
    text: str
    """As printed, shortened."""
    clauses: tuple[Clause, ...]
    """What it says."""


class Setting(Declared):
    """A way in which the paper's run was done."""

    what: str
    """In words."""
    place: str
    """Where it is said."""
    paper: Any = None
    """The paper's value; None where neither the paper nor its code says."""
    stored: tuple[str, ...] = ()
    """Where a run has its own (the head of `setup.yaml`): the first that is there counts."""
    null_is: Any = None
    """What it stands for where it is not set; None: that cannot be known."""
    always: str | None = None
    """What every run does, whatever its settings."""


class Paper(Declared):
    """Everything that the paper claims, and how it was done."""

    paper: str
    """Its title."""
    model: str
    """Its model's name, as the last part of a path or hub id."""
    numbers: tuple[Claim, ...]
    """What is printed."""
    sentences: tuple[Sentence, ...]
    """What it says."""
    controls: tuple[Sentence, ...]
    """What its sentences need and it does not compare."""
    setup: tuple[Setting, ...]
    """How it was done."""

    def is_model(self, model: str | None) -> bool:
        """Whether a model, by path or hub id, is the paper's."""
        return bool(model) and str(model).rstrip("/").rsplit("/", 1)[-1].lower() == self.model.lower()


@cache
def paper() -> Paper:
    """The paper's claims and setup. Read when first asked for."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where libyaml is there
    folder = files("harness.paper")
    texts = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("claims.yaml", "setup.yaml"))
    claims, setup = (yaml.load(text, Loader=loader) for text in texts)
    return Paper(**claims, setup=setup)
