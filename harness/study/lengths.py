"""How many tokens the documents have: tokenised where the tokenizer is here, without torch and without weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from harness.model.chat import ChatFormat
from harness.model.traces import DataConfig, fingerprint, load_traces, resolve
from harness.records import Trace
from harness.study import sizes
from harness.study.step import Plan

MOST_TOKENISED = 2000
"""Traces that are tokenised; of more, every n-th, and the others by their characters."""
_MOST_CHARACTERS = 4_000_000
"""Of them; about two seconds."""


def document_lengths(plan: Plan) -> tuple[tuple[float, ...], bool]:
    """Tokens of every document of the study, chat included, cut where `data.cut` says so, and whether each was counted.

    Raises:
        DataError: the traces cannot be read, and `known_sizes.yaml` does not name them.
        ModelError: the chat format does not suit the tokenizer.
    """
    study = plan.study
    version = json.dumps(fingerprint(study.data))  # the file may change while the process lives
    whole, counted = _lengths(study.data.model_dump_json(), study.chat.model_dump_json(), study.model.path, version)
    limit = study.data.cut_tokens
    return (whole, counted) if limit is None else (tuple(min(n, limit) for n in whole), False)


@lru_cache(maxsize=8)
def _lengths(data_json: str, chat_json: str, model: str, version: str) -> tuple[tuple[float, ...], bool]:
    data = DataConfig.model_validate_json(data_json)
    written_down = sizes.data_tokens(data.path)
    if written_down is not None and not resolve(data.path).exists():
        n = min(written_down[0], data.limit or written_down[0])
        return (written_down[1] / written_down[0],) * n, False
    traces = load_traces(data)
    characters = [len(t.question) + len(t.trace) + len(t.answer) for t in traces]
    folder = resolve(model)
    if not (folder / "tokenizer.json").is_file():
        return tuple(n / sizes.CHARACTERS_PER_TOKEN for n in characters), False
    every = max(1, -(-len(traces) // MOST_TOKENISED), -(-sum(characters) // _MOST_CHARACTERS))
    counted = _tokenised(traces[::every], ChatFormat.model_validate_json(chat_json), str(folder))
    if every == 1:
        return tuple(map(float, counted)), True
    ratio = sum(counted) / max(sum(characters[::every]), 1)
    return tuple(n * ratio for n in characters), False


def _tokenised(traces: Sequence[Trace], chat: ChatFormat, folder: str) -> list[int]:
    from transformers import PreTrainedTokenizerFast  # a tenth of the time of AutoTokenizer, which imports torch

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return [len(chat.document(tokenizer, trace).ids) for trace in traces]
