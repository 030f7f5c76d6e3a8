"""Records: what plugins return and the runner stores. Frozen, validated, free of torch.

Every record has an `item`: its name within the step that made it. A step that is run again after an interruption is
told which items are already stored (`RunContext.done`) and need not make them again.

Absence has a reason: a field that can be None has a `reason` beside it that says why it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from harness.ablation_records import AblationScore as AblationScore
from harness.dictionary_records import DictionaryScore as DictionaryScore
from harness.dictionary_records import LatentEffect as LatentEffect
from harness.feature_records import ActivationSet as ActivationSet
from harness.feature_records import Evidence as Evidence
from harness.feature_records import Exemplar as Exemplar
from harness.feature_records import Feature as Feature
from harness.feature_records import Record as Record
from harness.feature_records import Source as Source

Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""The matrices of a Llama-style block, in the paper's order of figure 3. Other architectures use their own names."""


class ModelRef(Record):
    """A base model: a local Hugging Face folder or a hub id."""

    path: str
    """Local folder, `package://harness/...` (shipped with the package) or hub id."""
    revision: str | None = None
    """Hub revision; None is the default branch."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Dtype of the base weights. Adapters stay in float32."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Off unless you have read it."""


class Trace(Record):
    """One training example: a question, the reasoning trace and the answer."""

    id: str
    """Unique within the data set."""
    question: str
    """The user's turn."""
    trace: str
    """The reasoning, without control tokens."""
    answer: str
    """The final answer attempt, without prefix."""
    spans: dict[str, tuple[tuple[int, int, str], ...]] = Field(default_factory=dict)
    """Optional ground truth: part (question, trace, answer) -> (start, end, class) character spans."""


class Checkpoint(Record):
    """What a trainer made: a PEFT adapter, or a full model."""

    item: str = "checkpoint"
    """Name within the step."""
    kind: Literal["adapter", "full"]
    """`adapter`: a PEFT folder on top of the base; `full`: a model folder of its own."""
    path: Path
    """The folder."""
    base: ModelRef
    """The model it was trained from."""
    chat_hash: str
    """Hash of the ChatFormat that rendered its training text."""
    n_parameters: NonNegativeInt
    """Trained parameters."""
    n_examples: NonNegativeInt
    """Training examples used; 0 for an adapter that was not trained here."""
    n_truncated: NonNegativeInt = 0
    """Examples left out because they would have lost their answer to the length limit."""
    n_steps: NonNegativeInt = 0
    """Optimiser steps."""
    losses: tuple[tuple[int, float], ...] = ()
    """(step, mean loss in nats per supervised token), as logged."""


class Sample(Record):
    """One benchmark item as answered by one model."""

    doc_id: NonNegativeInt
    """Row of the benchmark, the same for every model: the pairing of the paired tests."""
    repeat: NonNegativeInt = 0
    """Index among repeated generations."""
    prompt: str
    """What the model was given."""
    prompt_hash: str
    """sha256 of the prompt."""
    response: str
    """What it generated."""
    extracted: str | None
    """The answer found in the response; None if there is none (counted as wrong)."""
    target: str
    """The gold answer."""
    score: float
    """1 correct, 0 wrong."""
    finish: Literal["stop", "length"] | None = None
    """`length`: the token limit cut the answer; None where nothing was generated (multiple choice by likelihood)."""
    n_tokens: NonNegativeInt | None = None
    """Tokens written; None where nothing was generated."""
    loops: bool = False
    """Whether the answer ends in a loop: one unit over and over."""


class EvaluationResult(Record):
    """One model variant on one benchmark."""

    item: str
    """Name within the step: `variant/benchmark`."""
    variant: str
    """`base`, `adapter`, `full`, or an ablated adapter such as `without-attention`."""
    benchmark: str
    """Task name."""
    n_items: NonNegativeInt
    """Items of the benchmark that were run, failures included."""
    score: float
    """Mean score over items, 0 to 1."""
    samples: tuple[Sample, ...]
    """Every item."""
    chat_hash: str
    """Hash of the ChatFormat that rendered the prompts."""
    engine: str
    """What generated: backend, version and dtype. Scores of different engines are not compared silently."""
    n_bound: NonNegativeInt | None = None
    """Adapter modules that were bound (None without an adapter)."""


class Dictionary(Record):
    """A fitted dictionary over an activation set."""

    item: str = "dictionary"
    """Name within the step."""
    name: str
    """The learner's name; the source name of its latents."""
    path: Path
    """Folder with the dictionary in its learner's format, e.g. SAELens'."""
    columns: tuple[str, ...]
    """Columns it was fitted on, in order: a dictionary of other columns is refused."""
    n_latents: NonNegativeInt
    """Size of the dictionary."""
    k: float
    """Latents per token it was trained for (the target L0)."""
    signed: bool = False
    """Whether a latent is active in both directions: two features, `latent0+` and `latent0-`."""
    losses: tuple[tuple[int, float], ...] = ()
    """(step, training loss)."""


Status = Literal["graded", "unparsed", "failed", "too-few-contexts", "dead"]
"""What became of a grading. `unparsed`: the reply cannot be read; `failed`: there is none; `dead`: no context."""


class Explanation(Record):
    """What an interpreter made of one feature."""

    item: str
    """Name within the step: the feature's name."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    interpreter: str
    """Who explained: `lexical`, `autointerp`."""
    explanation: str | None
    """A few words; None with a reason."""
    grade: Literal[0, 1, 2] | None
    """0 monosemantic, 1 broad but consistent, 2 polysemantic (appendix B.1); None with a reason, and still counted."""
    status: Status = "graded"
    """What became of it; `failed` where there is no grade and nothing else is said."""
    reason: str
    """The judge's justification, or why there is no grade."""
    raw: str | None = None
    """The raw reply where it could not be parsed."""
    rule: str | None = None
    """What the explanation says in the interpreter's own notation, where it has one to predict by."""
    n_exemplars: NonNegativeInt
    """Contexts shown."""

    @model_validator(mode="before")
    @classmethod
    def _without_grade(cls, values: dict[str, object]) -> dict[str, object]:
        if values.get("grade") is None and values.get("status", "graded") == "graded":
            return {**values, "status": "failed"}
        return values


class Category(Record):
    """A functional category (step 1 of appendix B.2)."""

    item: str
    """`category:` and the string_id."""
    category: str
    """string_id, snake_case."""
    parent: str | None = None
    """string_id of the category that this is a subcategory of."""
    name: str
    """For people."""
    definition: str
    """One or two sentences."""
    examples: tuple[str, ...] = ()
    """Explanations it was made from."""


class CategoryAssignment(Record):
    """One feature's category (step 2 of appendix B.2)."""

    item: str
    """`source/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    category: str
    """A string_id, or `uncategorised` with a reason."""
    reason: str | None = None
    """Why it is uncategorised."""
    subcategory: str | None = None
    """A subcategory of it, `uncategorised` with a reason, or None where the category has none."""
    subcategory_reason: str | None = None
    """Why the subcategory is `uncategorised`."""


AnyRecord = (
    Checkpoint
    | EvaluationResult
    | ActivationSet
    | Dictionary
    | DictionaryScore
    | LatentEffect
    | Feature
    | Explanation
    | Category
    | CategoryAssignment
    | AblationScore
)
"""Everything that the runner can store."""
