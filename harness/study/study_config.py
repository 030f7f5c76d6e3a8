"""What registry.yaml declares: plugins, observers, and the settings of a study."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from harness.config import Config
from harness.contract.stages import Stage, stage_of_word
from harness.errors import masked_argument
from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig
from harness.records import ModelRef

Section = TypeVar("Section", bound=Config)


class PluginRow(Config):
    """A plugin in the registry."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """What users type."""
    stage: Annotated[Stage, BeforeValidator(stage_of_word)]
    """Stage that it implements; its plural (`trainers`) is understood."""
    module: str
    """Importable module with the hook implementation."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Settings that differ from the plugin's defaults."""


class ObserverRow(Config):
    """A module that observes or wraps steps (hooks `harness_step_...` and `harness_run_step`)."""

    name: str
    """What `harness plugins` and `harness doctor` call it."""
    module: str
    """Importable module with the hook implementations."""


class DictionaryRow(Config):
    """A dictionary of a study; a learner's name alone means that learner under its own name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """What it is called, and its latents' source; `--set NAME.KEY=VALUE` reaches it after its learner's settings."""
    learner: str
    """Dictionary learner."""
    on: str | None = None
    """Probe of the study whose activations it is fitted on; by default the one that its learner names."""


class AdapterRow(Config):
    """A further adapter of a study; a trainer's name alone means that trainer under its own name."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    """What it is called, also as a model that answers benchmarks and as a source of features;
    `--set NAME.KEY=VALUE` reaches it after its trainer's settings. The name decides its seed, too."""
    trainer: str
    """Trainer."""


def _as_row(field: str) -> BeforeValidator:
    return BeforeValidator(lambda value: {"name": value, field: value} if isinstance(value, str) else value)


class PluginList(Config):
    """The modules that a run can load."""

    plugins: tuple[PluginRow, ...]
    """All plugins."""
    observers: tuple[ObserverRow, ...] = ()
    """Modules that observe or wrap steps. One that cannot be imported is left out and named."""


class StudyConfig(Config):
    """A study: a model, its data, and the plugins of each stage.

    The registry adds a field for each section of settings that a stage declares (`evaluate`, `features`, ...; see
    `harness.study.steps`).
    """

    summary: str
    """One line for `harness plugins list`."""
    model: ModelRef
    """Base model."""
    data: DataConfig
    """Training traces, also the documents that are read and ablated on."""
    chat: ChatFormat = ChatFormat()
    """The one format of all text."""
    read_chat: ChatFormat | None = None
    """Another format for what probes read, as in the paper's code, which read other text than it trained on."""
    adapter: str
    """Trainer of the adapter that is studied."""
    adapters: tuple[Annotated[AdapterRow, _as_row("trainer")], ...] = ()
    """Further adapters on the same base, each trained, evaluated, read and compared with the others: names of trainers,
    or `{name: ..., trainer: ...}`."""
    reference: str | None = None
    """Trainer of the full fine-tune that recovery is measured against."""
    probes: tuple[str, ...] = ()
    """Probes."""
    dictionaries: tuple[Annotated[DictionaryRow, _as_row("learner")], ...] = ()
    """Dictionaries: names of learners, or `{name: ..., learner: ..., on: PROBE}`."""
    interpreters: tuple[str, ...] = ()
    """Interpreters, each over every source."""
    ablations: tuple[str, ...] = ()
    """Ablations."""
    providers: dict[str, str] = Field(default_factory=dict)
    """LLM per role (explainer, categories, categoriser, scorer; `default` for the rest): `name:model`. Where one is
    named for `judge`, it grades what the explainer explained; for `second-judge`, features are graded by it, too; for
    `grader`, benchmark answers."""
    paper_benchmarks: dict[str, str] = Field(default_factory=dict)
    """Our benchmark -> the paper's benchmark shown beside it."""
    set: dict[str, Any] = Field(default_factory=dict)
    """`name.key: value` settings of this study."""
    presets: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Named sets of `name.key: value` settings."""

    def settings(self, section: type[Section]) -> Section:
        """The settings of a section, e.g. `study.settings(FeaturesConfig)`."""
        values = (getattr(self, name) for name in type(self).model_fields)
        return next(value for value in values if type(value) is section)

    def resolved(self) -> dict[str, Any]:
        """All settings but what they were resolved from, as JSON; secrets in URLs are masked."""
        return _masked(self.model_dump(mode="json", exclude={"summary", "set", "presets"}))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part) for part in value]
    return masked_argument(value) if isinstance(value, str) else value
