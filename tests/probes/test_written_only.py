"""No exemplar of any source, and nothing that is counted, lies on a token of the chat template."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.activations.exemplars import collect_features
from harness.activations.latents import encode_set
from harness.activations.store import StoredActivations, open_set
from harness.contract.context import RunContext
from harness.model.chat import WRITTEN, ChatFormat
from harness.model.subject import Subject, load_subject
from harness.model.traces import DataConfig, load_traces
from harness.organism import MODEL, TRACES
from harness.records import ModelRef, Trace
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from harness_plugins.dictionaries import baselines
from harness_plugins.probes import adapter_activations, mlp_neurons, random_directions

SMOLLM2 = Path(__file__).resolve().parents[2] / "real" / "model"
"""Made by `make test-real`."""
SMOLLM2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def organism(_: Path) -> ModelRef:
    return ModelRef(path=str(MODEL))


def with_smollm2s_template(folder: Path) -> ModelRef:
    """A tiny model whose tokenizer has SmolLM2's chat template, default system prompt included."""
    base = tiny_model(folder / "base", "llama")
    (Path(base.path) / "chat_template.jinja").write_text(SMOLLM2_TEMPLATE, encoding="utf-8")
    return base


def real_smollm2(folder: Path) -> ModelRef:
    """The real tokenizer and the first two layers' worth of the real weights."""
    if not SMOLLM2.is_dir():
        pytest.skip(f"SmolLM2-135M-Instruct is not at {SMOLLM2}: make test-real")
    shutil.copytree(SMOLLM2, folder / "base", copy_function=lambda a, b: Path(b).symlink_to(a))
    config = json.loads((SMOLLM2 / "config.json").read_text())
    (folder / "base" / "config.json").unlink()
    (folder / "base" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 2}))
    return ModelRef(path=str(folder / "base"))


@pytest.fixture(scope="module", params=[organism, with_smollm2s_template, real_smollm2], ids=lambda f: f.__name__)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("subject")
    base = request.param(folder)
    return load_subject(base, ChatFormat(), tiny_adapter(base, folder / "adapter"))


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    return [*load_traces(DataConfig(path=str(TRACES), limit=5)), *tiny_traces(3)]


@pytest.fixture(scope="module")
def sets(subject: Subject, traces: list[Trace], tmp_path_factory: pytest.TempPathFactory) -> list[StoredActivations]:
    """A set of every kind of source: adapter, neurons, random directions, latents."""
    read = []
    for module in (adapter_activations, mlp_neurons, random_directions):
        (registration,) = module.harness_probes()
        config = {"n_per_layer": 4} if module is mlp_neurons else {}
        probe = registration.implementation()(registration.config(**config))
        run = RunContext(out_dir=tmp_path_factory.mktemp("probe"), seed=0)
        read.append(open_set(probe.read(subject, traces, run)))
    registration = next(r for r in baselines.harness_dictionaries() if r.name == "pca")
    learner = registration.implementation()(registration.config(k=2))
    run = RunContext(out_dir=tmp_path_factory.mktemp("pca"), seed=0)
    dictionary = learner.fit(read[0].set, run)
    latents = encode_set(learner.load(dictionary), read[0], run.out_dir / "latents", dictionary)
    return [*read, open_set(latents)]


def places_of(trace: Trace, text: str) -> list[tuple[int, int]]:
    """Where a reader sees question, trace and answer: found by the marks round them, not by the renderer."""
    question = text.index("user\n" + trace.question) + len("user\n")
    start = text.index("<|im_start|>think\n") + len("<|im_start|>think\n")
    answer = text.index("answer\nAnswer: ") + len("answer\nAnswer: ")
    return [
        (question, question + len(trace.question)),
        (start, start + len(trace.trace)),
        (answer, answer + len(trace.answer)),
    ]


def test_no_exemplar_of_any_source_lies_on_a_template_token(sets: list[StoredActivations], traces: list[Trace]) -> None:
    by_id = {t.id: t for t in traces}
    for stored in sets:
        n = 0
        for feature in collect_features(stored, k=64, cap=8, sample=10):
            for exemplar in (*feature.exemplars, *feature.sampled):
                document = stored.document(exemplar.document)
                a, b = document.offsets[exemplar.position]
                places = places_of(by_id[exemplar.document], document.text)
                assert any(start <= a and b <= end for start, end in places), document.text[a:b]
                n += 1
        assert n > 50, stored.set.source


def test_counts_sums_and_moments_are_of_what_was_written(sets: list[StoredActivations], traces: list[Trace]) -> None:
    for stored in sets:
        rows = []
        for trace, document in zip(traces, stored.documents(), strict=True):
            assert document.id == trace.id
            places = places_of(trace, document.text)
            inside = [any(s <= a and b <= e for s, e in places) for a, b in document.offsets.tolist()]
            rows.append(document.values[np.array(inside)].astype(np.float64))
        written = np.concatenate(rows)
        features = list(collect_features(stored))
        assert {f.n_tokens for f in features} == {len(written)}
        assert len(written) < stored.n_tokens()
        np.testing.assert_allclose(stored.moments().mean, written.mean(0), rtol=1e-9, atol=1e-12)
        plus = [f for f in features if not f.feature.endswith("-")]
        np.testing.assert_allclose([f.density_per_token for f in plus], (written > 0).mean(0))
        np.testing.assert_allclose(
            [f.activation_sum for f in plus], np.maximum(written, 0).sum(0), rtol=1e-4, atol=1e-6
        )


def test_contexts_still_show_the_template_round_the_target(sets: list[StoredActivations]) -> None:
    shown = ["".join(e.tokens) for f in collect_features(sets[0], cap=8) for e in f.exemplars]
    assert any("<|im_start|>think\n" in text for text in shown)


@pytest.mark.parametrize("part", WRITTEN)
def test_segments_choose_what_counts(subject: Subject, traces: list[Trace], part: Any, tmp_path: Path) -> None:
    (registration,) = adapter_activations.harness_probes()
    probe = registration.implementation()(registration.config())
    subject = Subject(**{**vars(subject), "ranked": (part,)})
    stored = open_set(probe.read(subject, traces, RunContext(out_dir=tmp_path, seed=0)))
    for trace, document in zip(traces, stored.documents(), strict=True):
        start, end = places_of(trace, document.text)[WRITTEN.index(part)]
        for a, b in document.offsets[document.ranked].tolist():
            assert start <= a <= b <= end
