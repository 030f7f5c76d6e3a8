"""What the harness stores about its own work: runs, steps, LLM calls, the paper's numbers. One class per table."""

from __future__ import annotations

from typing import Annotated, Any

from harness.records.base import Record, References

StepId = Annotated[int | None, References("step", on_delete="SET NULL")]
"""The step that asked first. What was paid for outlives the step."""


class StudyRun(Record):
    """One call of `harness run`."""

    study: str
    """The study's name."""
    preset: str | None
    """Its preset."""
    seed: int
    """The run's seed."""
    seeds: str | None
    """All seeds of the command that the run is one of (`--seeds`); NULL where it has one."""
    model: str | None
    """The base model, by path or hub id."""
    device: str | None
    """As asked for, e.g. `auto`."""
    argv: str
    """The command line."""
    started_at: str
    """ISO 8601, UTC."""
    finished_at: str | None
    """ISO 8601, UTC; NULL while it runs, or where it was killed."""
    status: str
    """`running`, `done`, `incomplete`, `waiting`, `failed` or `interrupted` (a killed one when the next begins)."""
    reason: str | None
    """Why it is not done."""
    git_sha: str | None
    """The commit that it ran from."""
    git_dirty: bool | None
    """Whether tracked files differed from it."""
    versions: dict[str, str]
    """Package -> installed version."""
    paper_names: dict[str, str]
    """Our benchmark -> the paper's, for the column beside ours."""
    controls: dict[str, str]
    """Source of features -> the source that it is to exceed: random directions for the adapter's, and so on."""
    settings: dict[str, Any]
    """The study's settings as resolved: model, data, chat format, plugins, sections. Each step has its plugin's."""


class Step(Record):
    """One step of a study; its key is the hash of everything that its result depends on."""

    UNIQUE = ("key",)

    key: str
    """sha256 of its settings, its inputs' keys and the data."""
    recipe: str | None
    """The same without the seed: two steps of one recipe differ by the seed at most."""
    name: str
    """E.g. `ablate/leave-one-out`."""
    stage: str
    """The stage that it belongs to."""
    kind: str
    """What is done: a stage's own work, or what follows it, e.g. `judge`, `score`, `verify`."""
    plugin: str | None
    """Who does it; NULL where the harness does."""
    plugin_version: str | None
    """The plugin's version."""
    config: dict[str, Any]
    """Its settings."""
    inputs: tuple[str, ...]
    """Names of the steps that it reads."""
    seed: int
    """The step's seed."""
    device: str | None
    """Torch device."""
    engine: str | None
    """What computes: backend, version and dtype."""
    git_sha: str | None
    """The commit of its last attempt."""
    git_dirty: bool | None
    """Whether tracked files differed from it."""
    status: str
    """`running`, `done`, `incomplete`, `waiting`, `failed` or `interrupted`."""
    reason: str | None
    """Why it is not done."""
    wall_s: float | None
    """Wall time of its attempts, added up; that of a killed one is not known."""
    artifact: str | None
    """Its folder within the artefact folder."""
    output: dict[str, Any] | None
    """Its artefact records by type name, and in `files` the [bytes, sha256] of each of their files; NULL before it is
    done."""
    started_at: str
    """ISO 8601, UTC."""
    finished_at: str | None
    """ISO 8601, UTC."""


class RunStep(Record):
    """Which steps a run did or reused, in order."""

    PRIMARY_KEY = ("run_id", "step_id")
    UNIQUE = ("run_id", "position")
    INDEXES = (("step_id",),)

    run_id: Annotated[int, References("study_run")]
    """The run."""
    step_id: Annotated[int, References("step")]
    """The step."""
    position: int
    """The step's place in the run, from 0."""
    reused: bool
    """Whether an earlier run had done it."""


class RunLock(Record):
    """Which run may write to a PostgreSQL database: the one that has the token of the only row."""

    token: str
    """Random, new with each run; checked in every transaction that writes."""
    taken_at: str
    """ISO 8601, UTC."""


class LLMCall(Record):
    """The journal of LLM calls. A stored answer is replayed, never sent (or paid) again."""

    UNIQUE = ("key",)
    INDEXES = (("step_id",), ("batch",))

    key: str
    """sha256 of (provider, its settings, request)."""
    step_id: StepId
    """The step that asked first; what was paid for outlives it."""
    provider: str
    """Provider's name."""
    model: str
    """The model that was asked."""
    role: str
    """What it was for, e.g. `explainer`."""
    request: dict[str, Any]
    """What was asked."""
    response: dict[str, Any] | None
    """What came back; NULL where it failed."""
    status: str
    """`ok`, `failed` (asked again by the next run that needs it) or `submitted` (in a batch)."""
    error: str | None
    """Why it failed."""
    input_tokens: int | None
    """Prompt tokens, cached ones included."""
    cached_tokens: int | None
    """Prompt tokens read from the vendor's cache."""
    output_tokens: int | None
    """Reply tokens, reasoning included."""
    latency_s: float
    """From the first attempt to the end, waits included; of a batch, from its submission."""
    n_attempts: int
    """Requests sent, retries included."""
    price_usd: float | None
    """What the answer cost; NULL where the price or the usage is not known."""
    stored_at: str
    """ISO 8601, UTC."""
    settings: dict[str, Any]
    """What of the provider's settings decides an answer; never a secret."""
    price_date: str | None
    """Date of the price table that the price was computed with."""
    final: bool
    """Of a failed call: false where asking again may succeed."""
    batch: str | None
    """Label of the batch that it was sent in."""


class LLMBatch(Record):
    """Requests that were handed to a vendor's batch API together."""

    UNIQUE = ("label",)
    INDEXES = (("step_id",),)

    label: str
    """Our name of it."""
    step_id: StepId
    """The step that submitted it."""
    provider: str
    """Provider's name."""
    settings: dict[str, Any]
    """What of the provider's settings decides an answer."""
    role: str
    """What its calls are for."""
    vendor_id: str | None
    """The vendor's name of it; NULL until the vendor confirmed it."""
    status: str
    """`open`, `collected` or `lost`."""
    reason: str | None
    """Why it was lost, or calls of it failed."""
    n_calls: int
    """Its calls."""
    submitted_at: str
    """ISO 8601, UTC."""
    collected_at: str | None
    """ISO 8601, UTC."""
