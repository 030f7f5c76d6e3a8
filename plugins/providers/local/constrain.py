"""Replies that keep to a JSON schema: before each token, those that the schema forbids are ruled out (llguidance)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import LogitsProcessor

from harness.errors import ProviderError

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class Constraints(LogitsProcessor):
    """One grammar per row of a batch; None lets a row write what it likes. For greedy and sampled, not for beams."""

    def __init__(self, grammars: Grammars, schemas: Sequence[dict[str, Any] | None]) -> None:
        self._matchers = [None if schema is None else grammars.matcher(schema) for schema in schemas]
        self._ends = list(grammars.ends)
        self._begun = False

    def __call__(
        self, input_ids: Int[torch.Tensor, "row token"], scores: Float[torch.Tensor, "row vocabulary"]
    ) -> Float[torch.Tensor, "row vocabulary"]:
        """The scores of the next token, minus infinity where a row's schema forbids it."""
        for row, matcher in enumerate(self._matchers):
            if matcher is None:
                continue
            if self._begun and not matcher.is_stopped():
                matcher.consume_token(int(input_ids[row, -1]))
            allowed = torch.zeros(scores.shape[1], dtype=torch.bool)
            if matcher.is_stopped():
                allowed[self._ends] = True
            else:
                bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
                n = min(len(bits), scores.shape[1])
                allowed[:n] = torch.from_numpy(bits[:n].astype(bool))
            scores[row, ~allowed.to(scores.device)] = -torch.inf
        self._begun = True
        return scores


class Grammars:
    """Grammars of schemas over a tokenizer's vocabulary. Making it takes a second.

    Raises:
        ProviderError: llguidance is not installed.
    """

    def __init__(self, tokenizer: Any, ends: Sequence[int]) -> None:
        if find_spec("llguidance") is None:
            raise ProviderError(
                "local.structured_output=true needs the package llguidance, which is not installed: "
                "pip install 'interp-harness[json]'"
            )
        import llguidance.hf

        self._guidance, self.ends = llguidance, tuple(ends)
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, eos_token=list(ends))

    def matcher(self, schema: dict[str, Any]) -> Any:
        """A fresh reader of replies that keep to the schema, written without white space between what is required.

        Raises:
            ProviderError: the schema has something that llguidance cannot constrain.
        """
        compact = {"whitespace_flexible": False}  # a small model writes line breaks until it is cut
        grammar = self._guidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=compact)
        matcher = self._guidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ProviderError(f"local: a reply cannot be constrained to its schema: {matcher.get_error()}")
        return matcher
