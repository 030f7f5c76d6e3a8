"""registry.yaml: which plugins there are, and which studies are made of them.

An error names file, line and field. Precedence of settings: field default < plugin's row < study's `set` < preset <
`--set`.
"""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError

from harness.config import Config
from harness.contract.settings import EvaluateConfig
from harness.contract.stages import Registration, Stage, stage_of_word
from harness.errors import RegistryError, UnknownName
from harness.interpretation.config import EnrichmentConfig, GradingConfig, ScoringConfig
from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig
from harness.records import ModelRef

Location = tuple[str | int, ...]


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


class FeaturesConfig(Config):
    """Which tokens are read and which exemplars are kept, the same for every source of features."""

    documents: PositiveInt | None = None
    """First n traces; None is all."""
    exemplars: PositiveInt = 64
    """Highest activations kept per feature and polarity (the paper's 64)."""
    per_document: PositiveInt = 4
    """At most this many exemplars from one document."""
    sampled: NonNegativeInt = 20
    """Contexts per feature drawn uniformly over the quantiles of its active tokens, for scorers; 0 for none."""
    window: PositiveInt = 12
    """Tokens shown on each side of an exemplar."""


class JudgingConfig(Config):
    """How dictionaries are judged, the same for all of them."""

    splice_documents: NonNegativeInt = 64
    """Held-out documents run through the model with the scalars replaced; 0 leaves the KLs out."""
    ablated_latents: NonNegativeInt = 16
    """Most active latents of each learned dictionary that are switched off one by one; 0 leaves that out."""
    second_fit: bool = True
    """Fit once more with another seed, for the stability."""
    explain_baselines: bool = False
    """Exemplars, interpretation and single latents switched off for baselines (pca, random-dictionary, ...), too."""

    def explains(self, learner: Registration[Any]) -> bool:
        """Whether a learner's latents are features to explain."""
        return self.explain_baselines or not learner.baseline


class AnswersConfig(Config):
    """When an LLM compares answers with the gold ones. It does so where the study names a provider for `grader`; the
    rules' scores stay beside its verdicts, and nothing is generated again."""

    asked: Literal["rejected", "all"] = "rejected"
    """`rejected`: answers that the rules call wrong or cannot read; `all`: also those that they accept. Never asked:
    plain integers and option letters, which the rules compare exactly, and unfinished responses without an answer."""
    both_orders: bool = False
    """Ask twice, with the gold answer first and last; where the two replies differ the rules' score stands. Else its
    place is drawn by lot for every pair of answers."""
    max_tokens: PositiveInt = 4096
    """Longest reply, reasoning included."""
    temperature: float | None = None
    """None leaves it to the model (reasoning models refuse the parameter)."""


class StudyRow(Config):
    """A study: a model, its data, and the plugins of each stage."""

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
    evaluate: EvaluateConfig = EvaluateConfig()
    """Benchmarks."""
    answers: AnswersConfig = AnswersConfig()
    """When an LLM compares benchmark answers."""
    features: FeaturesConfig = FeaturesConfig()
    """Capture and exemplars."""
    judging: JudgingConfig = JudgingConfig()
    """Scores of dictionaries."""
    grading: GradingConfig = GradingConfig()
    """How the interpreters' grades are checked."""
    scoring: ScoringConfig = ScoringConfig()
    """How explanations are scored."""
    enrichment: EnrichmentConfig = EnrichmentConfig()
    """Which kinds of tokens features are held against."""
    adapter: str
    """Trainer of the adapter that is studied."""
    reference: str | None = None
    """Trainer of the full fine-tune that recovery is measured against."""
    probes: tuple[str, ...] = ()
    """Probes."""
    dictionaries: tuple[str, ...] = ()
    """Dictionary learners, on the adapter's activations."""
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


SECTIONS = (
    "model", "data", "chat", "read_chat", "evaluate", "answers", "features", "judging", "grading", "scoring",
    "enrichment", "providers",
)  # fmt: skip
"""Parts of a study that `--set SECTION.KEY=VALUE` reaches, beside the plugins."""


class Registry(Config):
    """The whole file."""

    version: int = Field(ge=1, le=1)
    """Format of the file."""
    default_study: str
    """Study that lends its model, data and adapter to `--plugin NAME` where NAME is a plugin."""
    plugins: tuple[PluginRow, ...]
    """All plugins."""
    observers: tuple[ObserverRow, ...] = ()
    """Modules that observe or wrap steps. One that cannot be imported is left out and named."""
    studies: dict[str, StudyRow]
    """All studies."""


def find_registry(given: str | None) -> Path:
    """`--registry`, `$HARNESS_REGISTRY`, `./registry.yaml`, else the one that comes with the package.

    Raises:
        RegistryError: the file that was named does not exist.
    """
    for name, origin in ((given, "--registry"), (os.environ.get("HARNESS_REGISTRY"), "$HARNESS_REGISTRY")):
        if name:
            if not Path(name).is_file():
                raise RegistryError(f"{origin}: no file {name}")
            return Path(name)
    local = Path("registry.yaml")
    return local if local.is_file() else Path(str(files("harness").joinpath("registry.yaml")))


def read_registry(path: Path) -> Registry:
    """Read and check a registry.

    Raises:
        RegistryError: not YAML, an unknown or missing field, a wrong value, a duplicate name, a study that names a
            plugin of another stage.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise RegistryError(f"{path}{line}: {getattr(error, 'problem', None) or error}") from error
    lines: dict[Location, int] = {}
    if node is not None:
        _index_lines(node, (), lines)
    _refuse_duplicate_keys(node, path)
    try:
        registry = Registry.model_validate(data)
    except ValidationError as error:
        errors = error.errors()
        # A misspelt field is both an extra one and a missing one: the extra one is what the user typed.
        first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
        raise RegistryError(_say(path, lines, first["loc"], first["msg"])) from error
    _check_names(registry, path, lines)
    return registry


def _index_lines(node: yaml.Node, place: Location, lines: dict[Location, int]) -> None:
    lines[place] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _index_lines(value, (*place, key.value), lines)
            lines[(*place, key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _index_lines(value, (*place, i), lines)


def _refuse_duplicate_keys(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise RegistryError(f"{path}:{key.start_mark.line + 1}: {key.value!r} is given twice")
            seen.add(key.value)
            _refuse_duplicate_keys(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicate_keys(value, path)


def _say(path: Path, lines: dict[Location, int], place: Location, message: str) -> str:
    known = place
    while known and known not in lines:
        known = known[:-1]
    field = ".".join(str(p) for p in place)
    return f"{path}:{lines.get(known, 1)}: {field}: {message}"


def _check_names(registry: Registry, path: Path, lines: dict[Location, int]) -> None:
    seen: set[str] = set()
    for i, row in enumerate(registry.plugins):
        if row.name in seen:
            raise RegistryError(_say(path, lines, ("plugins", i, "name"), f"{row.name!r} is given twice"))
        seen.add(row.name)
    if registry.default_study not in registry.studies:
        raise RegistryError(_say(path, lines, ("default_study",), f"no study {registry.default_study!r}"))


def find_study(registry: Registry, name: str) -> StudyRow:
    """The study of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in registry.studies:
        raise UnknownName("study", name, registry.studies)
    return registry.studies[name]
