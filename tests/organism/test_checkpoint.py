"""The shipped base: it loads, it is small, it can reason in plain text and does not in chat."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.organism import MODEL, TRACES
from harness.organism import pretrain as module
from harness.organism.documents import HINT, chat_prompt
from harness.organism.pretrain import Phase, pretrain


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    tokenizer.padding_side = "left"
    return tokenizer


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(str(MODEL)).eval()


@pytest.fixture(scope="module")
def rows():
    with TRACES.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    # the bands of multiple choice and the operator ^ are new to the base
    return [row for row in rows if "Options" not in row["question"] and "^" not in row["question"]][:20]


@pytest.fixture(autouse=True)
def one_thread():
    """A model this small only waits for its second thread on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def answers(model, tokenizer, prompts: list[str]) -> list[str]:
    encoded = tokenizer(prompts, return_tensors="pt", padding=True)
    stops = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|endoftext|>")]
    with torch.inference_mode():
        out = model.generate(**encoded, max_new_tokens=120, do_sample=False, eos_token_id=stops)
    return tokenizer.batch_decode(out[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)


def test_naming_the_files_needs_no_torch() -> None:
    code = "import sys, harness.organism; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_folder_is_complete_and_small() -> None:
    names = {path.name for path in MODEL.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 2_000_000


def test_architecture(model) -> None:
    config = model.config
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (4, 64, 192)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 1, 32)
    assert config.rope_parameters["rope_theta"] == 1000.0
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32
    assert model.num_parameters() < 250_000


def test_files_name_no_machine() -> None:
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "README.md"):
        text = (MODEL / name).read_text(encoding="utf-8")
        assert not any(
            word in text for word in ("is_local", "local_files_only", "_name_or_path", "/tmp", "/home", "/root")
        ), name


def test_worked_problems_are_solved_in_plain_text(model, tokenizer, rows) -> None:
    replies = answers(model, tokenizer, [row["question"] + "\n" for row in rows])
    right = sum(reply.endswith(f"Answer: {row['answer']}") for reply, row in zip(replies, rows, strict=True))
    assert right >= 0.65 * len(rows)


def test_chat_answers_at_once_and_badly(model, tokenizer, rows) -> None:
    replies = answers(model, tokenizer, [chat_prompt(row["question"]) for row in rows])
    assert all(len(reply) == len("Answer: 0") and reply.startswith("Answer: ") for reply in replies)
    right = sum(reply.endswith(row["answer"]) for reply, row in zip(replies, rows, strict=True))
    assert right <= 0.45 * len(rows)


def test_a_hint_brings_the_trace_out(model, tokenizer, rows) -> None:
    replies = answers(model, tokenizer, [chat_prompt(f"{row['question']} {HINT}") for row in rows])
    assert sum(reply.startswith("think\n") for reply in replies) >= 0.9 * len(rows)


@pytest.mark.slow
def test_pretraining_is_deterministic_and_resumes(tmp_path, monkeypatch) -> None:
    """The full re-train is ``python -m harness.organism.pretrain --out FOLDER``: a quarter of an hour on two cores."""
    phase = Phase(weights={"worked": 0.6, "facts": 0.4}, shape="first", steps=12, lr=4e-3, batch=4, warmup=4)
    folders = [pretrain(tmp_path / name, seed=1, phases=(phase,), every=5) for name in ("one", "two")]
    weights = [(folder / "model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]

    save = module._save_state

    def save_and_stop(path, **state) -> None:
        save(path, **state)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_save_state", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "three", seed=1, phases=(phase,), every=5)
    monkeypatch.setattr(module, "_save_state", save)
    resumed = pretrain(tmp_path / "three", seed=1, phases=(phase,), every=5)
    assert (resumed / "model.safetensors").read_bytes() == weights[0]
