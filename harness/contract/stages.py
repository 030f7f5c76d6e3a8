"""The stages' contracts: one Protocol each, what a plugin registers, and what a run hands to it.

A plugin offers `Registration`s; the host picks one by name, validates its config, imports the implementation's class
and constructs it with the config. No torch here: plugins import theirs with the implementation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from harness.config import Config
from harness.contract.codec import Codec
from harness.contract.context import RunContext
from harness.contract.provider import Provider
from harness.errors import UsageError
from harness.records import (
    ActivationSet,
    Category,
    CategoryAssignment,
    Checkpoint,
    Dictionary,
    Evidence,
    Explanation,
    ModelRef,
    Record,
    ScoringAnswer,
    ScoringTest,
    Trace,
)

if TYPE_CHECKING:
    import numpy as np

    from harness.model.chat import ChatFormat
    from harness.model.subject import Subject

Stage = Literal["train", "evaluate", "probe", "learn", "interpret", "ablate", "provide"]
"""The one word for a stage, in hooks, registry, `--only`, database and reports."""

STAGES: tuple[Stage, ...] = ("train", "evaluate", "probe", "learn", "interpret", "ablate")
"""Stages that have steps, in the order in which a study goes through them."""

PLURALS: dict[Stage, str] = {
    "train": "trainers",
    "probe": "probes",
    "learn": "dictionaries",
    "interpret": "interpreters",
    "ablate": "ablations",
    "provide": "providers",
}
"""Stages that plugins implement -> the plural: folder in plugins/, hook `harness_<plural>`, list in a study."""


def stage_of_word(word: str) -> str:
    """The stage that a word means: a plural means its stage (`ablations` -> `ablate`); other words are returned."""
    return next((stage for stage, plural in PLURALS.items() if plural == word), word)


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Registration(Generic[T_co]):
    """A named implementation that a plugin offers for a stage.

    Attributes:
        name: what users type; unique over all plugins.
        config: the Config class; its docstrings are the reference that `harness plugins show` prints.
        load: where the implementation, a callable `config -> implementation`, is: `"package.module:Class"`, or a
            function that imports and returns it. It may import torch.
        summary: one line for `harness plugins`.
        version: part of every step's key: raise it when results change.
        scores: whether an interpreter also answers scoring tests (`Scorer`).
        deterministic: whether an interpreter, by construction, gives the same contexts the same answer in whatever
            order they come: its agreement with itself is then no evidence, and reports say so.
        rules: whether an interpreter's explanations carry rules that hold on a token or not (`RuleReader`).
        asks_llm: whether an interpreter asks a provider; `--provider` chooses those that do.
        seeded: False where the result does not depend on the step's seed (an interpreter: its explanations); the runs
            of several seeds share the step where they share what it reads.
        control_of: name of the probe whose features a probe's are to be exceeded by.
        needs: names of plugins whose output this one reads (a dictionary needs its probe).
        reads: kinds of earlier steps, such as `learn`, `judge` or `interpret`, whose records an ablation gets as
            `run.made`.
        writes: whether an ablation yields `WriteDirection`s, which explanations are held against (the output score).
        fits: False for a dictionary learner that opens what was fitted elsewhere: there is no second fit.
        baseline: a dictionary that others are judged beside: scored like them, not explained unless asked.
    """

    name: str
    config: type[Config]
    load: Callable[[], Callable[[Any], T_co]] | str
    summary: str
    version: str = "1"
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    writes: bool = False
    seeded: bool = True
    asks_llm: bool = False
    scores: bool = False
    deterministic: bool = False
    rules: bool = False
    fits: bool = True
    baseline: bool = False
    control_of: str | None = None

    def __post_init__(self) -> None:
        """Make `load` a function where it is a name, so that `registration.load()` returns the class either way."""
        if isinstance(self.load, str):
            object.__setattr__(self, "load", partial(_import_named, self.name, self.load))

    def implementation(self) -> Callable[[Any], T_co]:
        """Import the implementation: a callable `config -> implementation`.

        Raises:
            UsageError: `load` names a module that cannot be imported, or nothing in it.
        """
        assert callable(self.load)
        return self.load()


def _import_named(plugin: str, target: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"plugin {plugin!r}: cannot load {target!r} (module:Class): {error}") from error


class Trainer(Protocol):
    """Makes a checkpoint from a base model and traces."""

    def train(self, base: ModelRef, traces: Sequence[Trace], chat: ChatFormat, run: RunContext) -> Checkpoint:
        """Train and return the checkpoint, saved under `run.out_dir`.

        Called again after an interruption, it goes on from its last checkpoint in `run.out_dir`.
        """
        ...


class Probe(Protocol):
    """Reads features over tokens."""

    def read(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> ActivationSet:
        """Run the traces through the model once and write the activations under `run.out_dir`."""
        ...


class DictionaryLearner(Protocol):
    """Fits a dictionary on an activation set."""

    def fit(self, activations: ActivationSet, run: RunContext) -> Dictionary:
        """Fit on the training documents of the set, save under `run.out_dir`."""
        ...

    def load(self, dictionary: Dictionary) -> Codec:
        """Open a fitted dictionary."""
        ...


class Interpreter(Protocol):
    """Explains, grades and categorises features from their evidence."""

    def explain(self, evidence: Sequence[Evidence], run: RunContext) -> Iterator[Explanation]:
        """One Explanation per feature, also for those that fail (with a reason)."""
        ...

    def categorise(
        self, explained: Sequence[tuple[Explanation, Evidence]], run: RunContext
    ) -> Iterator[Category | CategoryAssignment]:
        """Categories first, then one assignment per feature."""
        ...


class Scorer(Protocol):
    """What an interpreter can do besides: say which contexts or tokens an explanation fits (`scores`)."""

    def answer(self, tests: Sequence[tuple[Explanation, ScoringTest]], run: RunContext) -> Iterator[ScoringAnswer]:
        """One answer per test, in any order, also for those that fail (with a reason)."""
        ...


class TokenMasks(Protocol):
    """Says on which tokens of a document rules hold."""

    def __call__(self, tokens: Sequence[str]) -> np.ndarray:
        """Bool [token, rule].

        Args:
            tokens: texts of all tokens of the document, in order; together they are its text.
        """
        ...


class RuleReader(Protocol):
    """What an interpreter can do besides: hold its explanations' rules against any token (`Registration.rules`)."""

    def token_masks(self, rules: Sequence[str]) -> TokenMasks:
        """For rules (`Explanation.rule`), a function of a document's tokens."""
        ...


class Ablation(Protocol):
    """Measures what parts of an adapter do, by switching them off or changing them through the tap."""

    def measure(self, subject: Subject, traces: Sequence[Trace], run: RunContext) -> Iterator[Record]:
        """Yield each record (an AblationScore, or one of the plugin's own) as soon as it is measured; skip items in
        `run.done`."""
        ...


AnyImplementation = Trainer | Probe | DictionaryLearner | Interpreter | Ablation | Provider
