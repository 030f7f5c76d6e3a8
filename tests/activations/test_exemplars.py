"""The k highest activations of every feature: exact, sorted, capped per document, shown as the text read."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.activations.exemplars import collect_features, evidence
from harness.activations.store import ActivationWriter, StoredDocument, open_set, token_texts, whole_characters
from harness.model.chat import Document
from harness.testing import tiny_activations, tiny_tokenizer


def test_the_result_does_not_depend_on_the_shards(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = {f"d{i}": rng.integers(-3, 4, (int(rng.integers(2, 30)), 4)) for i in range(12)}
    found = [
        list(collect_features(open_set(tiny_activations(tmp_path / str(n), documents, shard_tokens=n)), k=9, cap=2))
        for n in (1, 40, 10_000)
    ]
    assert found[0] == found[1] == found[2]


def test_evidence_is_the_highest_exemplars_after_the_cap_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    documents = {f"d{i}": rng.normal(size=(20, 2)) for i in range(10)}
    features = list(collect_features(open_set(tiny_activations(tmp_path, documents)), k=16, cap=2))
    for feature, shown in zip(features, evidence(features, 5), strict=True):
        assert shown.exemplars == feature.exemplars[:5]
        targets = [e.activations[e.target] for e in feature.exemplars]
        assert targets == sorted(targets, reverse=True)
        assert [e.rank for e in feature.exemplars] == list(range(16))
        documents_shown = [e.document for e in feature.exemplars]
        assert max(map(documents_shown.count, documents_shown)) <= 2


def test_a_polarity_never_shows_the_other_ones_activations(tmp_path: Path) -> None:
    values = np.array([[0.0], [2.0], [-3.0], [1.0], [-1.0]])
    stored = open_set(tiny_activations(tmp_path, {"d": values}))
    plus, minus = collect_features(stored)
    assert (plus.feature, minus.feature) == ("L0.q_proj+", "L0.q_proj-")
    assert plus.exemplars[0].activations == (0, 2, 0, 1, 0)
    assert minus.exemplars[0].activations == (0, 0, 3, 0, 1)
    assert (plus.activation_max, minus.activation_max) == (2, 3)
    assert plus.density_per_token == minus.density_per_token == 2 / 4  # the first token does not count


def test_activations_have_few_digits_and_every_float16_is_told_from_the_next(tmp_path: Path) -> None:
    every_97th = np.arange(1, 0x7C00, 97, dtype=np.uint16).view(np.float16)  # subnormal ones included
    values = np.concatenate([[0.0], every_97th, np.nextafter(every_97th, np.float16(0))]).astype(np.float32)
    stored = open_set(tiny_activations(tmp_path, {"d": values[:, None]}, dtype="float16"))
    shown = next(collect_features(stored, k=1, window=len(values))).exemplars[0].activations
    np.testing.assert_array_equal(np.array(shown, np.float16), values.astype(np.float16))
    assert max(len(f"{value:.16e}".split("e")[0].rstrip("0")) for value in map(Decimal, map(repr, shown))) == 6


def test_an_unsigned_column_is_one_feature(tmp_path: Path) -> None:
    stored = open_set(tiny_activations(tmp_path, {"d": np.ones((3, 2))}, signed=False))
    assert [f.feature for f in collect_features(stored)] == list(stored.columns)


def test_a_dead_feature_is_reported_without_exemplars(tmp_path: Path) -> None:
    stored = open_set(tiny_activations(tmp_path, {"d": np.array([[0.0], [1.0]])}))
    minus = list(collect_features(stored))[1]
    assert minus.exemplars == ()
    assert (minus.activation_max, minus.density_per_token, minus.activation_sum) == (0, 0, 0)


@pytest.mark.parametrize("position", [1, 5, 29])
def test_the_window_holds_the_target_and_is_clipped_to_the_document(tmp_path: Path, position: int) -> None:
    values = np.zeros((30, 1))
    values[position] = 7
    stored = open_set(tiny_activations(tmp_path, {"d": values}))
    (exemplar,) = next(iter(collect_features(stored, window=3))).exemplars
    assert exemplar.activations[exemplar.target] == 7
    assert exemplar.position == exemplar.start + exemplar.target == position
    assert exemplar.tokens == stored.tokens("d")[max(position - 3, 0) : position + 4]


def test_tokens_that_are_not_ranked_read_zero(tmp_path: Path) -> None:
    stored = open_set(tiny_activations(tmp_path, {"d": np.array([[9.0], [8.0], [1.0]])}))
    assert stored.document("d").ranked.tolist() == [False, True, True]
    document = replace(stored.document("d"), ranked=np.array([False, False, True]))
    stored.document = lambda _: document  # type: ignore[method-assign]
    stored.documents = lambda _=None: iter([document])  # type: ignore[method-assign]
    plus = next(iter(collect_features(stored)))
    assert [e.activations for e in plus.exemplars] == [(0, 0, 1)]
    assert plus.n_tokens == 1


def test_a_window_that_documents_share_is_shown_once_with_their_count(tmp_path: Path) -> None:
    writer = ActivationWriter(
        tmp_path, "s", ("c",), layers=(0,), projections=(None,), signed=False, site="made up", chat_hash="0"
    )
    for i in range(6):
        text = "abcdefg" if i < 5 else "abcdefx"
        spans = tuple((j, j + 1) for j in range(7))
        document = Document(f"d{i}", text, tuple(range(7)), spans, ("think",) * 7, (True,) * 7)
        writer.append(document, np.array([0, 0, 0, 1 + i, 0, 0, 0], dtype=np.float32)[:, None])
    writer.finish()
    (feature,) = collect_features(open_set(tmp_path), sample=6)
    assert [(e.rank, e.document, e.n_identical) for e in feature.exemplars] == [(0, "d5", 1), (1, "d4", 5)]
    assert [(e.rank, e.n_identical) for e in feature.sampled] == [(2, 1), (3, 5)]
    (narrow,) = collect_features(open_set(tmp_path), window=2)
    assert [(e.document, e.n_identical) for e in narrow.exemplars] == [("d5", 6)]
    assert feature.density_per_token == 6 / 36, "counts are of all tokens, whatever is shown"


def test_sampled_contexts_follow_the_highest_and_carry_their_quantile(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stored = open_set(tiny_activations(tmp_path, {f"d{i}": rng.normal(size=(50, 2)) for i in range(10)}))
    plain = list(collect_features(stored, k=8, cap=2))
    for feature, without in zip(collect_features(stored, k=8, cap=2, sample=5, seed=3), plain, strict=True):
        assert feature.exemplars == without.exemplars
        assert (without.sampled, len(feature.sampled)) == ((), 5)
        assert [e.rank for e in feature.sampled] == list(range(8, 13))
        assert all(e.quantile is None for e in feature.exemplars)
        values = [e.activations[e.target] for e in feature.sampled]
        assert values == sorted(values, reverse=True)
        # One from each fifth.
        assert [int(5 * e.quantile) for e in feature.sampled if e.quantile is not None] == [4, 3, 2, 1, 0]
        for e in feature.sampled:
            assert e.tokens[e.target] == stored.tokens(e.document)[e.position]
    (shown, *_) = evidence(collect_features(stored, k=8, sample=5), 3)
    assert (len(shown.exemplars), len(shown.sampled)) == (3, 5)


def windows_equal_decoding(tokenizer: object, text: str, starts: range, length: int) -> int:
    """Check every window of a text; return how many edges had to move."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)  # type: ignore[operator]
    ids, offsets = np.array(encoded["input_ids"]), np.array(encoded["offset_mapping"]).reshape(-1, 2)
    none = np.zeros(len(ids), dtype=bool)
    document = StoredDocument("d", text, ids, offsets, none, none, np.zeros((len(ids), 0)))
    moved = 0
    for wanted in (s for s in starts if s < len(ids)):
        start, stop = whole_characters(document, wanted, min(wanted + length, len(ids)))
        assert start <= wanted
        moved += (start, stop) != (wanted, min(wanted + length, len(ids)))
        texts = token_texts(document, start, stop)
        assert len(texts) == stop - start
        assert "".join(texts) == tokenizer.decode(ids[start:stop].tolist())  # type: ignore[attr-defined]
    return moved


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="aé你好→×🙂👩‍🚀 \n\\{}<|im_end|>", max_size=30), st.integers(1, 6))
def test_joined_window_tokens_are_the_decoded_window(text: str, length: int) -> None:
    import unicodedata

    normal = unicodedata.normalize("NFC", text)
    windows_equal_decoding(tokenizer(), normal, range(len(normal)), length)


_TOKENIZER: list[object] = []


def tokenizer() -> object:
    """Built once; hypothesis does not take function fixtures."""
    if not _TOKENIZER:
        import tempfile

        _TOKENIZER.append(tiny_tokenizer(Path(tempfile.mkdtemp())))
    return _TOKENIZER[0]


def test_tokens_of_one_character_are_merged_into_the_first() -> None:
    assert windows_equal_decoding(tokenizer(), "a你b🙂c", range(0, 9), 2) > 0


@pytest.mark.slow
def test_windows_of_real_traces_with_the_real_tokenizer(shared_data: Path, qwen25_tokenizer: Any) -> None:
    rows = json.loads((shared_data / "s1k11_rollouts100" / "rollout_contexts.json").read_text())
    moved = 0
    for text in rows.values():
        text = unicodedata.normalize("NFC", text)
        n = len(qwen25_tokenizer(text, add_special_tokens=False)["input_ids"])
        moved += windows_equal_decoding(qwen25_tokenizer, text, range(0, n, 23), 25)
    assert moved > 0
