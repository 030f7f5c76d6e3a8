"""A base in a GGUF file: the logits of the model it was written from, and artefacts as of any other base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from harness.contract.context import RunContext
from harness.errors import ModelError, UsageError
from harness.model import folders, subject
from harness.model.chat import ChatFormat
from harness.model.subject import load_base, load_subject, load_tokenizer
from harness.model.traces import resolve
from harness.records import ModelRef
from harness.study.fingerprint import model_fingerprint
from harness.study.sizes import model_size
from harness.testing import tiny_adapter, tiny_traces
from harness.testing.tiny import tiny_tokenizer
from harness_plugins.trainers.full_finetune import FullFinetuneConfig
from harness_plugins.trainers.full_finetune.trainer import FullTrainer

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed: pip install 'interp-harness[gguf]'")

LAYERS, HEADS, WIDTH, INNER = 2, 2, 16, 32


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Llama and its tokenizer."""
    folder = tmp_path_factory.mktemp("original")
    tokenizer = tiny_tokenizer(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512,
            tie_word_embeddings=False, rms_norm_eps=1e-5,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def file(original: Path) -> Path:
    """The same in GGUF, float32, written as llama.cpp's converter does."""
    path = original.parent / f"{original.name}-gguf" / "tiny.gguf"
    path.parent.mkdir()
    state = AutoModelForCausalLM.from_pretrained(original).state_dict()
    tokenizer = AutoTokenizer.from_pretrained(original)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokenizer))
    model = json.loads((original / "tokenizer.json").read_text())
    special = {t["id"] for t in model["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    writer.add_token_types([3 if i in special else 1 for i in range(len(tokenizer))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in state.items():
        if "q_proj" in name or "k_proj" in name:  # llama.cpp's order of the rotary halves
            rows, columns = tensor.shape
            tensor = tensor.view(HEADS, 2, rows // HEADS // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.arange(1, 20)[None]).logits
    return found


def test_it_is_the_model_it_was_written_from(original: Path, file: Path) -> None:
    torch.testing.assert_close(
        logits(load_base(ModelRef(path=str(file)))), logits(load_base(ModelRef(path=str(original))))
    )
    tokenizer, theirs = load_tokenizer(ModelRef(path=str(file))), load_tokenizer(ModelRef(path=str(original)))
    (trace,) = tiny_traces(1)
    assert ChatFormat().document(tokenizer, trace).ids == ChatFormat().document(theirs, trace).ids


def test_it_saves_like_any_other(file: Path, tmp_path: Path) -> None:
    base = ModelRef(path=str(file))
    model = load_base(base)
    model.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(logits(load_base(ModelRef(path=str(tmp_path / "saved")))), logits(model))
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())


def test_a_full_fine_tune_of_it_is_trained_saved_and_loaded(file: Path, tmp_path: Path) -> None:
    base = ModelRef(path=str(file))
    config = FullFinetuneConfig(epochs=1, batch_size=2, micro_batch_size=2, max_length=500)
    checkpoint = FullTrainer(config).train(base, tiny_traces(2), ChatFormat(), RunContext(tmp_path, seed=0))
    assert load_subject(base, ChatFormat(), checkpoint).checkpoint == checkpoint


def test_an_adapter_names_the_file_as_its_base(file: Path, tmp_path: Path) -> None:
    base = ModelRef(path=str(file))
    checkpoint = tiny_adapter(base, tmp_path)
    assert json.loads((checkpoint.path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    assert load_subject(base, ChatFormat(), checkpoint).components


def test_without_the_package_the_cure_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package gguf, .* pip install 'interp-harness\[gguf\]'"):
        load_base(ModelRef(path=str(file)))


def test_a_missing_a_damaged_and_an_unnamed_file(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model folder or GGUF file .*none\.gguf"):
        load_base(ModelRef(path=str(tmp_path / "none.gguf")))
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"cannot load the model '.*cut\.gguf'"):
        load_base(ModelRef(path=str(tmp_path / "cut.gguf")))
    with pytest.raises(ModelError, match=r"name the file: --set model\.path=.*tiny\.gguf"):
        load_base(ModelRef(path=str(file.parent)))


def test_another_file_is_another_model(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "tiny.gguf"
    other.write_bytes(file.read_bytes())
    assert model_fingerprint(ModelRef(path=str(other))) == model_fingerprint(ModelRef(path=str(file)))
    other.write_bytes(file.read_bytes() + b"\0")
    assert model_fingerprint(ModelRef(path=str(other))) != model_fingerprint(ModelRef(path=str(file)))


def test_a_path_in_any_installed_package() -> None:
    import peft

    assert resolve("package://peft/tuners") == Path(peft.__file__).parent / "tuners"
    assert resolve("package://lm-eval/tasks").is_dir()  # by the distribution's name
    assert resolve("package://harness/organism/checkpoint/config.json").is_file()
    with pytest.raises(UsageError, match="no package 'no-such-thing' is installed"):
        resolve("package://no-such-thing/x")


def test_bfloat16_warns_once_on_a_cpu_without_it(
    original: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = ModelRef(path=str(original), dtype="bfloat16")
    for capable, n in (({"avx2": True, "avx512_bf16": False}, 1), ({"avx512_bf16": True}, 0)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda capable=capable: {"architecture": "x86_64", **capable}, raising=False
        )
        subject._warn_of_slow_bfloat16.cache_clear()
        caplog.clear()
        load_base(base)
        load_base(base)
        assert caplog.text.count("--set model.dtype=float32") == n


def test_a_plan_knows_the_size_of_a_file(file: Path, original: Path) -> None:
    from_file = model_size(str(file), file)
    assert from_file == model_size(str(original), original)
    assert from_file is not None
    assert from_file.n_parameters == sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(original).parameters())
    torn = file.with_name("torn.gguf")
    torn.write_bytes(file.read_bytes()[:2])
    assert model_size(str(torn), torn) is None
