"""Evaluation: one chat format, every item kept, greedy answers that are the model's own, no idle adapter."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks.answerer import InMemory, check_bound
from harness.benchmarks.catalogue import list_benchmarks, load_task
from harness.benchmarks.decode import Stop, greedy, make_stop
from harness.benchmarks.evaluate import evaluate
from harness.contract.settings import EvaluateConfig
from harness.errors import DataError, ModelError, UsageError
from harness.model.chat import ChatFormat
from harness.model.subject import Subject, attach_adapter, load_base, load_subject
from harness.records import ModelRef
from harness.testing import tiny_adapter, tiny_model, tiny_traces
from tests.benchmarks.sums import TASK, write_sums

CHAT = ChatFormat()


def at(folder: Path, **more: Any) -> EvaluateConfig:
    """Tasks of a folder, and further settings."""
    return EvaluateConfig(task_paths=(str(folder),), **more)


CHOICE = """
task: pick
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["1", "2", "3"]
doc_to_target: 1
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def bare(base: ModelRef) -> Subject:
    return load_subject(base, CHAT)


@pytest.fixture(scope="module")
def adapted(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return load_subject(base, CHAT, tiny_adapter(base, tmp_path_factory.mktemp("adapter")))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_sums(tmp_path_factory.mktemp("tasks"), 7)
    (folder / "pick.yaml").write_text(CHOICE)
    return folder


def test_every_item_is_kept_and_pairs(bare: Subject, adapted: Subject, tasks: Path) -> None:
    one = evaluate(InMemory(bare), "sums", variant="base", settings=at(tasks, batch_size=3))
    two = evaluate(InMemory(adapted), "sums", variant="adapter", settings=at(tasks))
    traces = tiny_traces(7)
    for result in (one, two):
        assert result.n_items == len(result.samples) == 7
        assert [s.doc_id for s in result.samples] == list(range(7))
        assert result.score == pytest.approx(sum(s.score for s in result.samples) / 7)
        assert [s.target for s in result.samples] == [t.answer for t in traces]
        for sample in result.samples:
            assert sample.score == float(sample.extracted == sample.target)
            assert sample.prompt_hash == hashlib.sha256(sample.prompt.encode()).hexdigest()
    assert [s.prompt_hash for s in one.samples] == [s.prompt_hash for s in two.samples]
    assert [s.response for s in one.samples] != [s.response for s in two.samples]
    assert (one.n_bound, two.n_bound) == (None, 14)
    assert one.item == "base/sums"


def test_prompts_are_the_training_documents_prompts(adapted: Subject, tasks: Path) -> None:
    result = evaluate(InMemory(adapted), "sums", variant="adapter", settings=at(tasks, limit=3))
    assert adapted.checkpoint is not None
    assert result.chat_hash == adapted.chat_hash == adapted.checkpoint.chat_hash
    for sample, trace in zip(result.samples, tiny_traces(3), strict=True):
        document = CHAT.document(adapted.tokenizer, trace)
        assert sample.prompt == adapted.tokenizer.decode(document.ids[: document.response_token])


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_greedy_writes_what_generate_writes(architecture: Any, tmp_path: Path) -> None:
    subject = load_subject(tiny_model(tmp_path / "base", architecture), CHAT)
    texts = [CHAT.prompt(subject.tokenizer, t.question) for t in tiny_traces(5)]
    subject.tokenizer.padding_side = "left"
    batch = subject.tokenizer(texts, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    wanted = subject.model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=30, do_sample=False, eos_token_id=None, pad_token_id=0
    )[:, ids.shape[1] :]
    assert torch.equal(greedy(subject.model, ids, mask, 30, Stop(())), wanted)
    # A token that rows write early ends them there; the others go on unharmed after those have left the batch.
    end = int(wanted[0, 3])
    stopped = greedy(subject.model, ids, mask, 30, Stop((end,)))
    for ours, theirs in zip(stopped.tolist(), wanted.tolist(), strict=True):
        at = theirs.index(end) if end in theirs else len(theirs)
        assert ours[:at] == theirs[: min(at, len(ours))]
        assert set(ours[at:]) <= {end}


def test_stop_strings_end_a_row(bare: Subject) -> None:
    tokenizer = bare.tokenizer
    rule = make_stop(tokenizer, ["<|im_end|>", "Therefore"])
    assert rule.ids == (tokenizer.eos_token_id,)
    assert rule.strings == ("Therefore",)
    written = torch.tensor([tokenizer.encode("so. Therefore")[-3:], tokenizer.encode("check: 1 2")[-3:]])
    assert rule.met(written).tolist() == [True, False]


def test_generation_config_does_not_change_answers(base: ModelRef, bare: Subject, tasks: Path) -> None:
    penalised = load_subject(base, CHAT)
    penalised.model.generation_config.repetition_penalty = 5.0
    one = evaluate(InMemory(bare), "sums", variant="base", settings=at(tasks))
    assert evaluate(InMemory(penalised), "sums", variant="base", settings=at(tasks)).samples == one.samples


def test_components_that_are_off_are_the_base(bare: Subject, adapted: Subject, tasks: Path) -> None:
    without = evaluate(InMemory(adapted, adapted.components), "sums", variant="without-all", settings=at(tasks))
    plain = evaluate(InMemory(bare), "sums", variant="base", settings=at(tasks))
    assert [s.response for s in without.samples] == [s.response for s in plain.samples]
    assert not any(m._forward_hooks for m in adapted.model.modules())


def test_adapter_that_does_nothing_is_refused(base: ModelRef, adapted: Subject, tmp_path: Path) -> None:
    nothing = replace(adapted, components=())
    with pytest.raises(ModelError, match="binds no module"):
        evaluate(InMemory(nothing), "organism_chain", variant="adapter")
    untrained = tiny_adapter(base, tmp_path)
    model = attach_adapter(load_base(base), str(untrained.path))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    with pytest.raises(ModelError, match="does not change"):
        check_bound(replace(adapted, model=model))


def test_multiple_choice_by_likelihood(bare: Subject, tasks: Path) -> None:
    result = evaluate(InMemory(bare), "pick", variant="base", settings=at(tasks, limit=4))
    assert result.n_items == 4
    assert all(s.response in {"1", "2", "3"} and s.target == "2" for s in result.samples)
    assert all(s.score == float(s.response == s.target) for s in result.samples)


def test_repeats_are_samples_of_their_own(bare: Subject, tasks: Path, tmp_path: Path) -> None:
    text = TASK.replace("do_sample: false", "do_sample: true, temperature: 1.0").replace("task: sums", "task: again")
    text = text.replace("sums.jsonl", str(tasks / "sums.jsonl")).replace(
        "{function: take_first}", "{function: take_first_k, k: 3}"
    )
    (tmp_path / "again.yaml").write_text(text + "repeats: 3\n")
    result = evaluate(InMemory(bare), "again", variant="base", settings=at(tmp_path, limit=2), seed=4)
    assert [(s.doc_id, s.repeat) for s in result.samples] == [(d, r) for d in range(2) for r in range(3)]
    assert len({s.response for s in result.samples[:3]}) > 1
    assert result.n_items == 2
    assert (
        result.samples
        == evaluate(InMemory(bare), "again", variant="base", settings=at(tmp_path, limit=2), seed=4).samples
    )


def test_names(tasks: Path) -> None:
    assert {"organism_chain", "organism_long", "organism_choice"} <= set(list_benchmarks())
    assert {"sums", "pick"} <= set(list_benchmarks([tasks]))
    with pytest.raises(UsageError, match="no task folder"):
        list_benchmarks([tasks / "no"])
    assert len(load_task("organism_chain").test_docs()) >= 200


def test_unreadable_data_is_named(tasks: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.yaml").write_text(TASK)
    with pytest.raises(DataError, match=r"sums\.jsonl"):
        load_task("sums", [tmp_path])


def test_prompts_that_do_not_fit_are_refused(bare: Subject, tasks: Path, tmp_path: Path) -> None:
    text = TASK.replace("max_gen_toks: 12", "max_gen_toks: 500").replace("sums.jsonl", str(tasks / "sums.jsonl"))
    (tmp_path / "sums.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"max_gen_toks \(it is 500\)"):
        evaluate(InMemory(bare), "sums", variant="base", settings=at(tmp_path))


def test_listing_imports_no_lm_eval() -> None:
    import subprocess

    code = (
        "import sys; from harness.benchmarks.evaluate import list_benchmarks; list_benchmarks(); "
        "print('lm_eval' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
