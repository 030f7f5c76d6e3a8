"""What plugin authors test with: tiny real models, adapters, traces and evidence, and one check of the whole contract.

Where pytest runs, `harness.testing.fixtures` is there as a plugin: `tiny_subject`, `scripted_provider`, `run_context`.
"""

from harness.testing.check import check_plugin as check_plugin
from harness.testing.tiny import Architecture as Architecture
from harness.testing.tiny import MemoryCalls as MemoryCalls
from harness.testing.tiny import tiny_activations as tiny_activations
from harness.testing.tiny import tiny_adapter as tiny_adapter
from harness.testing.tiny import tiny_evidence as tiny_evidence
from harness.testing.tiny import tiny_model as tiny_model
from harness.testing.tiny import tiny_tokenizer as tiny_tokenizer
from harness.testing.tiny import tiny_traces as tiny_traces
