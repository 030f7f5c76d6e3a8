"""A study's steps in the order in which they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.config import Config
from harness.contract.stages import Stage
from harness.study.llms import LLMChoice
from harness.study.study_config import StudyConfig


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: unique in the plan, e.g. `learn/batch-topk`.
        stage: the stage that it belongs to.
        kind: what it does (`harness.study.steps`).
        plugin: who does it; None for what the harness does itself.
        config: the plugin's validated config, or the harness's settings.
        inputs: names of the steps whose outputs it reads.
        key: sha256 of all that its result depends on (`harness.study.planner`).
        seed: derived from the run's seed and the name.
        variant: for evaluations, which model.
        shared: whether runs of all seeds share it: neither it nor what it reads depends on the run's seed.
        recipe: the key without the seed: two steps of one recipe differ by the seed at most.
    """

    name: str
    stage: Stage
    kind: str
    plugin: str | None
    config: Config
    inputs: tuple[str, ...]
    key: str
    seed: int
    variant: str | None = None
    shared: bool = False
    recipe: str = ""

    @property
    def label(self) -> str:
        """The name without the kind, e.g. `batch-topk@k=8`: what its results are called."""
        return self.name.partition("/")[2]


@dataclass(frozen=True)
class Plan:
    """A study with all settings resolved, and its steps in the order in which they run.

    Attributes:
        name: the study's name.
        preset: the preset that was chosen.
        study: the study.
        seed: of the run.
        steps: inputs before what reads them.
        llms: role -> who answers.
        sources: names of the steps whose features are explained.
        controls: source -> the source that it is to exceed (`Registration.control_of`).
    """

    name: str
    preset: str | None
    study: StudyConfig
    seed: int
    steps: tuple[Step, ...]
    llms: Mapping[str, LLMChoice] = field(default_factory=dict)
    sources: frozenset[str] = frozenset()
    controls: Mapping[str, str] = field(default_factory=dict)

    def step(self, name: str) -> Step:
        """The step of that name."""
        return next(s for s in self.steps if s.name == name)
