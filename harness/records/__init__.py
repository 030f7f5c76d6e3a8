"""Records: what plugins return and the runner stores. Frozen, validated, free of torch.

Every record has an `item`: its name within the step that made it. A step that is run again after an interruption is
told which items are already stored (`RunContext.done`) and need not make them again.

Absence has a reason: a field that can be None has a `reason` beside it that says why it is.
"""

from __future__ import annotations

from harness.records.ablate import AblationScore as AblationScore
from harness.records.adapters import ModuleOverlap as ModuleOverlap
from harness.records.adapters import SharedFeature as SharedFeature
from harness.records.attribute import Attribution as Attribution
from harness.records.base import PLANTED as PLANTED
from harness.records.base import Estimate as Estimate
from harness.records.base import Flat as Flat
from harness.records.base import Part as Part
from harness.records.base import Record as Record
from harness.records.base import References as References
from harness.records.base import Source as Source
from harness.records.differences import Divergence as Divergence
from harness.records.differences import DocumentDivergence as DocumentDivergence
from harness.records.differences import KindDivergence as KindDivergence
from harness.records.differences import PartingToken as PartingToken
from harness.records.differences import ResidualChange as ResidualChange
from harness.records.evaluate import GRADER as GRADER
from harness.records.evaluate import AnswerVerdict as AnswerVerdict
from harness.records.evaluate import EvaluationResult as EvaluationResult
from harness.records.evaluate import Sample as Sample
from harness.records.evaluate import VerdictStatus as VerdictStatus
from harness.records.interpret import JUDGE as JUDGE
from harness.records.interpret import SCORING_KINDS as SCORING_KINDS
from harness.records.interpret import SECOND_JUDGE as SECOND_JUDGE
from harness.records.interpret import Category as Category
from harness.records.interpret import CategoryAssignment as CategoryAssignment
from harness.records.interpret import CategoryTrial as CategoryTrial
from harness.records.interpret import Condition as Condition
from harness.records.interpret import Coverage as Coverage
from harness.records.interpret import Enrichment as Enrichment
from harness.records.interpret import EventAssociation as EventAssociation
from harness.records.interpret import Explanation as Explanation
from harness.records.interpret import ExplanationScore as ExplanationScore
from harness.records.interpret import Grade as Grade
from harness.records.interpret import JudgeTrial as JudgeTrial
from harness.records.interpret import PlantedFeature as PlantedFeature
from harness.records.interpret import PlantedKind as PlantedKind
from harness.records.interpret import RatedContext as RatedContext
from harness.records.interpret import ScoringAnswer as ScoringAnswer
from harness.records.interpret import ScoringContext as ScoringContext
from harness.records.interpret import ScoringKind as ScoringKind
from harness.records.interpret import ScoringTest as ScoringTest
from harness.records.interpret import Status as Status
from harness.records.learn import Dictionary as Dictionary
from harness.records.learn import DictionaryScore as DictionaryScore
from harness.records.learn import LatentEffect as LatentEffect
from harness.records.llm import MAX_REPLY_CHARS as MAX_REPLY_CHARS
from harness.records.llm import ROLES as ROLES
from harness.records.llm import TOO_LONG as TOO_LONG
from harness.records.llm import LLMCall as LLMCall
from harness.records.llm import LLMReply as LLMReply
from harness.records.llm import LLMRequest as LLMRequest
from harness.records.llm import OpenBatch as OpenBatch
from harness.records.llm import call_hash as call_hash
from harness.records.llm import capped as capped
from harness.records.probe import ActivationSet as ActivationSet
from harness.records.probe import Evidence as Evidence
from harness.records.probe import Exemplar as Exemplar
from harness.records.probe import Feature as Feature
from harness.records.steer import SteeringEffect as SteeringEffect
from harness.records.train import Checkpoint as Checkpoint
from harness.records.train import ModelRef as ModelRef
from harness.records.train import Projection as Projection
from harness.records.train import Trace as Trace
from harness.records.writes import WriteDirection as WriteDirection
