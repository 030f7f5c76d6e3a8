"""What notebooks (`open`, `run`, `load`; docs/python.md) and authors of plugins import.

Importing it costs milliseconds: every name is fetched when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.results import Feature as Feature
    from harness.api.results import Results as Results
    from harness.api.results import Run as Run
    from harness.api.results import compare as compare
    from harness.api.results import open as open
    from harness.api.scalars import Scalars as Scalars
    from harness.api.studies import run as run
    from harness.api.subject import Subject as Subject
    from harness.api.subject import load as load
    from harness.api.table import Table as Table
    from harness.config import Config as Config
    from harness.config import ProviderConfig as ProviderConfig
    from harness.contract.codec import Codec as Codec
    from harness.contract.context import RunContext as RunContext
    from harness.contract.hooks import hookimpl as hookimpl
    from harness.contract.provider import Provider as Provider
    from harness.contract.report import Block as Block
    from harness.contract.report import Column as Column
    from harness.contract.report import Report as Report
    from harness.contract.stages import Ablation as Ablation
    from harness.contract.stages import DictionaryLearner as DictionaryLearner
    from harness.contract.stages import Interpreter as Interpreter
    from harness.contract.stages import Probe as Probe
    from harness.contract.stages import Registration as Registration
    from harness.contract.stages import Trainer as Trainer
    from harness.errors import HarnessError as HarnessError
    from harness.model.measure import measure_kl as measure_kl
    from harness.records import AblationScore as AblationScore
    from harness.records import ActivationSet as ActivationSet
    from harness.records import Category as Category
    from harness.records import CategoryAssignment as CategoryAssignment
    from harness.records import Checkpoint as Checkpoint
    from harness.records import Dictionary as Dictionary
    from harness.records import Estimate as Estimate
    from harness.records import EvaluationResult as EvaluationResult
    from harness.records import Evidence as Evidence
    from harness.records import Exemplar as Exemplar
    from harness.records import Explanation as Explanation
    from harness.records import Flat as Flat
    from harness.records import ModelRef as ModelRef
    from harness.records import Part as Part
    from harness.records import Record as Record
    from harness.records import Sample as Sample
    from harness.records import Trace as Trace
    from harness.store.read import records_of as records_of

__version__ = "0.1.0"

_HOME = {
    "harness.api.results": ["Feature", "Results", "Run", "compare", "open"],
    "harness.api.scalars": ["Scalars"],
    "harness.api.studies": ["run"],
    "harness.api.subject": ["Subject", "load"],
    "harness.api.table": ["Table"],
    "harness.config": ["Config", "ProviderConfig"],
    "harness.errors": ["HarnessError"],
    "harness.contract.hooks": ["hookimpl"],
    "harness.records": [
        "AblationScore", "ActivationSet", "Category", "CategoryAssignment", "Checkpoint", "Dictionary",
        "Estimate", "EvaluationResult", "Evidence", "Exemplar", "Explanation", "Flat", "ModelRef", "Part", "Record",
        "Sample", "Trace",
    ],
    "harness.contract.codec": ["Codec"],
    "harness.contract.context": ["RunContext"],
    "harness.contract.provider": ["Provider"],
    "harness.model.measure": ["measure_kl"],
    "harness.store.read": ["records_of"],
    "harness.contract.report": ["Block", "Column", "Report"],
    "harness.contract.stages": [
        "Ablation", "DictionaryLearner", "Interpreter", "Probe", "Registration", "Trainer",
    ],
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Ablation",
    "AblationScore",
    "ActivationSet",
    "Block",
    "Category",
    "CategoryAssignment",
    "Checkpoint",
    "Codec",
    "Column",
    "Config",
    "Dictionary",
    "DictionaryLearner",
    "Estimate",
    "EvaluationResult",
    "Evidence",
    "Exemplar",
    "Explanation",
    "Feature",
    "Flat",
    "HarnessError",
    "Interpreter",
    "ModelRef",
    "Part",
    "Probe",
    "Provider",
    "ProviderConfig",
    "Record",
    "Registration",
    "Report",
    "Results",
    "Run",
    "RunContext",
    "Sample",
    "Scalars",
    "Subject",
    "Table",
    "Trace",
    "Trainer",
    "compare",
    "hookimpl",
    "load",
    "measure_kl",
    "open",
    "records_of",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)
