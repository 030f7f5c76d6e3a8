"""Records of interpretation, and of tests of its reliability."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, model_validator

from harness.records.base import PLANTED, Estimate, Flat, Part, Record, Source

Grade = Literal[0, 1, 2]
"""0 monosemantic, 1 broad but consistent, 2 polysemantic (appendix B.1)."""


Status = Literal["graded", "top-only", "unparsed", "failed", "too-few-contexts", "dead"]
"""How a grading ended. `top-only`: only the highest contexts were graded; `unparsed`: the reply could not be read;
`failed`: there was no reply; `dead`: the feature has no activating context."""


class Explanation(Record):
    """An interpreter's explanation and grade of one feature."""

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

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
    grade: Grade | None
    """Of the explanation on the highest contexts and on a sample over all strengths, together: 0 monosemantic, 1 broad
    but consistent, 2 polysemantic (appendix B.1); None with a reason, and still counted."""
    grade_top: Grade | None = None
    """The same of the highest contexts alone, as in the paper. None where only both were graded, or nothing was."""
    status: Status = "graded"
    """How the grading ended; `failed` where there is no grade and the interpreter gives no status."""
    reason: str
    """The judge's justification of the grade, or why there is none."""
    reason_top: str | None = None
    """The justification of `grade_top`."""
    raw: str | None = None
    """The raw reply where it could not be parsed."""
    rule: str | None = None
    """The explanation in the interpreter's own notation, where it predicts activations from one."""
    n_exemplars: NonNegativeInt
    """Contexts shown."""

    @model_validator(mode="before")
    @classmethod
    def _without_grade(cls, values: dict[str, object]) -> dict[str, object]:
        if values.get("grade") is None and values.get("status", "graded") == "graded":
            return {**values, "status": "failed"}
        return values


class Coverage(Record):
    """What an explanation is worth over all of a feature's activation, not only its highest contexts.

    A token is covered where the explanation holds on it. `rule`: an explanation that is a rule is held against every
    ranked token; intervals are over documents. `sample`: the scorer says of sampled tokens whether it covers them, and
    every stratum counts by its share of the activation or of the tokens. `matched_`: the same where the feature's
    weaker activations are set to 0, so that it is active on as few tokens as the sparsest source's features.
    """

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

    item: str
    """`source/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    interpreter: str
    """Who explained."""
    basis: Literal["rule", "sample"] | None
    """How it was found; None with a reason."""
    purity: Estimate | None
    """Share of the feature's activation that falls on covered tokens."""
    recall: Estimate | None
    """Share of the covered tokens on which the feature is active."""
    density_per_token: NonNegativeFloat
    """Share of ranked tokens on which the feature is active (greater than 0)."""
    n_active: NonNegativeInt
    """Tokens on which it is active; of a sample, those that were asked about."""
    n_inactive: NonNegativeInt
    """The other ranked tokens; of a sample, those that were asked about."""
    n_covered: NonNegativeInt | None
    """Of all of these, how many the explanation covers."""
    n_documents: NonNegativeInt
    """Documents that they are of."""
    matched_above: NonNegativeFloat
    """Activation from which the feature counts as active when densities are matched; 0 where it is sparse enough."""
    matched_density_per_token: NonNegativeFloat
    """Share of ranked tokens on which it is then active."""
    matched_purity: Estimate | None
    """Purity of what is left of its activation."""
    matched_recall: Estimate | None
    """Recall of what is left of its activation."""
    matched_grade_top: Grade | None
    """`grade_top` by the contexts that are left; None where it has none, or where an LLM would have to be asked."""
    reason: str | None = None
    """Why a number is None."""


class Category(Record):
    """A functional category (step 1 of appendix B.2)."""

    IDENTITY = ("category",)

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

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

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


JUDGE = "judge"
"""The role of the LLM that grades explanations, where the study names one; otherwise the explainer does."""


SECOND_JUDGE = "second-judge"
"""The role of the LLM that grades everything a second time, where the study names one."""


PlantedKind = Literal["token", "context", "class", "position", "mixture", "random", "peak"]
"""What a planted feature fires on. `token`: one token; `context`: what follows one token; `class`: a class of tokens;
`position`: a place in the sentence; `mixture`: two unlike tokens; `random`: any tokens; `peak`: one token at the top,
and any tokens below it."""


ScoringKind = Literal["detection", "fuzzing", "intruder", "simulation", "output", "output-random"]
"""`detection`: which contexts activate the feature; `fuzzing`: which have the right tokens marked; `intruder`: which
one does not belong; `simulation`: how strongly each token of a context activates it; `output`: which tokens the feature
raises; `output-random`: the same answer, held against what a random direction raises."""


SCORING_KINDS: tuple[ScoringKind, ...] = ("detection", "fuzzing", "intruder", "simulation")
"""Kinds of scoring tests that are made of held-out contexts."""


Condition = Literal["repeat", "shuffle", "second-judge", "explainer"]
"""What a trial changes: nothing, the order of the contexts, or who grades: a second judge, or the explainer itself."""


class PlantedFeature(Record):
    """A made feature whose right grade is known."""

    IDENTITY = ("source", "feature")

    item: str
    """The feature's name."""
    source: Source = PLANTED
    """The activation set."""
    feature: str
    """The feature."""
    kind: PlantedKind
    """How it was made."""
    concepts: tuple[str, ...]
    """Tokens that it fires on, the token that it follows, or the name of a class or position; empty where random."""
    right_grade: Grade
    """The grade that a judge should give."""


class JudgeTrial(Record):
    """A repeated grading of a feature: the same request, another order of contexts, or another judge."""

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

    item: str
    """`condition/trial/source/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    interpreter: str
    """Who grades; the second judge has the name of the interpreter that asks it."""
    condition: Condition
    """What was changed."""
    trial: NonNegativeInt
    """Index among the trials of the condition."""
    explanation: str | None
    """A few words; None with a reason."""
    grade: Grade | None
    """As in Explanation."""
    grade_top: Grade | None = None
    """As in Explanation."""
    status: Status
    """How the grading ended."""
    reason: str
    """The judge's justification, or why there is no grade."""
    raw: str | None = None
    """The raw reply where it could not be parsed."""
    deterministic: bool = False
    """Whether the same grade was certain beforehand: a judge declared deterministic, asked by the same contexts."""


class ScoringContext(Record):
    """One context of a scoring test."""

    document: str
    """Trace id; of an output test, which shows single tokens, the token."""
    start: NonNegativeInt
    """First token of the context in the document."""
    tokens: tuple[str, ...]
    """Its tokens as text."""
    marked: tuple[NonNegativeInt, ...] = ()
    """Tokens shown marked (fuzzing and intruder)."""
    label: bool
    """The right answer, not shown: it activates (detection), its marks are right (fuzzing), it is the intruder.
    Simulation: whether it is one of the strongest, and not drawn at random. Output: whether the feature raises it."""
    hard: bool = False
    """Whether a negative shares a token that the feature fires on."""
    quiet: bool = True
    """Of a negative: False where it is merely one of the quietest contexts of a feature that has too few quiet ones."""
    activations: tuple[float | None, ...] = ()
    """Simulation: the activation of each token, not shown; None on tokens that do not count (special ones)."""


class ScoringTest(Record):
    """Contexts that are shown in one request; for a simulation, one context."""

    item: str
    """`kind/feature/number`."""
    kind: ScoringKind
    """What is asked."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    contexts: tuple[ScoringContext, ...]
    """In the order in which they are shown."""


class ScoringAnswer(Record):
    """An interpreter's answer to one test."""

    item: str
    """The test's."""
    ratings: tuple[float, ...] | None
    """Per context, 0 (certainly not) to 1 (certainly); simulation: per token, 0 to 1 (strongest); or None."""
    reason: str | None = None
    """Why there are none."""


class RatedContext(Record):
    """A context's right answer and its rating, without its text."""

    document: str
    """Trace id; of an output test, which shows single tokens, the token."""
    start: NonNegativeInt
    """First token."""
    label: bool
    """The right answer."""
    hard: bool
    """A negative that shares a token."""
    rating: float | None
    """0 to 1; None where the answer could not be used, and in simulations."""
    quiet: bool = True
    """False for a negative that is merely one of the feature's quietest contexts."""
    activations: tuple[float | None, ...] = ()
    """Simulation: the activation of each token; None on those that do not count."""
    predicted: tuple[float, ...] = ()
    """Simulation: the prediction for each token, 0 to 1; empty where the answer could not be used."""


class ExplanationScore(Record):
    """How well an explanation predicts on contexts that were not shown when it was made."""

    IDENTITY = ("source", "feature", "kind")
    INDEXES = (("source", "feature"),)

    item: str
    """`kind/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    interpreter: str
    """Who explained and predicts."""
    kind: ScoringKind
    """What was asked."""
    n_positive: NonNegativeInt
    """Contexts for which yes is right; for intruders, tests; for simulations, the strongest contexts; of outputs,
    raised tokens."""
    n_negative: NonNegativeInt
    """Contexts for which no is right; for simulations, those drawn at random."""
    n_hard: NonNegativeInt
    """Negatives that share a token the feature fires on."""
    n_not_quiet: NonNegativeInt = 0
    """Negatives that are not quiet but only the quietest of a feature too dense to have enough quiet ones."""
    n_unanswered: NonNegativeInt
    """Contexts (intruder: tests) without a usable answer; they count as wrong, in simulations as 0 on every token."""
    balanced_accuracy: float | None
    """Mean of the two hit rates; chance is 0.5. Intruder: share of intruders found; chance is 1 / contexts shown."""
    auc: float | None
    """Area under the ROC curve of the ratings; chance is 0.5. None for intruders, simulations and where nothing was
    answered."""
    correlation: Estimate | None = None
    """Simulation: Pearson's correlation of predicted and true activation over all tokens of all contexts; 0 where the
    prediction is the same everywhere. Interval: Fisher's z, jackknife over contexts, Student's t."""
    reason: str | None = None
    """Why a number is None."""
    contexts: tuple[RatedContext, ...] = ()
    """Every context."""


class EventAssociation(Part):
    """Association of a feature's activity with one kind of token."""

    UNIQUE = ("family", "event")

    family: Literal["class", "segment", "event"]
    """Ground-truth class of the corpus, segment of the document, or regular expression."""
    event: str
    """Its name."""
    n_event: NonNegativeInt
    """Ranked tokens that are such events."""
    n_both: NonNegativeInt
    """Of these, tokens on which the feature is active."""
    activation_share: float | None
    """Share of the feature's summed activation that falls on them."""
    odds_ratio: Annotated[Estimate | None, Flat("")]
    """Odds of being active on them over the odds elsewhere; a half is added to each count if one is 0. The interval has
    documents as clusters."""
    p_value: float | None
    """Two-sided Wald test of log odds ratio = 0, documents as clusters."""
    q_value: float | None
    """After Benjamini-Hochberg over all features and events of the source."""
    reason: str | None = None
    """Why there is no odds ratio."""


class Enrichment(Record):
    """Which kinds of tokens a feature fires on, measured on all tokens without an explanation."""

    IDENTITY = ("source", "feature")
    INDEXES = (("source", "feature"),)

    item: str
    """`source/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    active_above: NonNegativeFloat
    """Activation from which a token counts as active."""
    n_active: NonNegativeInt
    """Active tokens."""
    n_tokens: NonNegativeInt
    """Ranked tokens."""
    n_documents: NonNegativeInt
    """Documents."""
    top_class: str | None
    """Ground-truth class of most exemplars' own tokens."""
    top_class_share: float | None
    """Share of the exemplars that it holds."""
    reason: str | None = None
    """Why there is no class."""
    events: tuple[EventAssociation, ...]
    """Every kind of token."""


class CategoryTrial(Record):
    """A feature's category in a repetition of the whole categorisation on a sample of the features."""

    IDENTITY = ("source", "feature")

    item: str
    """`trial/source/feature`."""
    source: Source
    """The activation set."""
    feature: str
    """The feature."""
    interpreter: str
    """Who categorises."""
    trial: NonNegativeInt
    """Which re-run."""
    category: str
    """string_id of that re-run's own categories."""
    reason: str | None = None
    """Why it is uncategorised."""
    deterministic: bool = False
    """Whether the interpreter is declared deterministic."""
