"""Records of LLM calls under the name they had before: new code imports harness.records."""

from harness.records.llm import LLMCall as LLMCall
from harness.records.llm import LLMReply as LLMReply
from harness.records.llm import LLMRequest as LLMRequest
