"""The stages' contracts under the name they had before: new code imports harness.contract."""

from harness.contract.settings import EngineConfig as EngineConfig
from harness.contract.settings import EvaluateConfig as EvaluateConfig
