"""Builds the organism's tokenizer: a small byte-level BPE in Qwen2's style, the same bytes on every run.

transformers rebuilds a ``Qwen2Tokenizer`` from the vocabulary and merges for every model of type qwen2, whatever the
files say, and gives added tokens the ids right after the vocabulary. So the file has exactly that shape, and a test
compares the ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from harness.organism.documents import SHAPES, draw_document

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_pad|>")
"""Added tokens, in the order of their ids."""

LEXICON = ("worked", "direct", "hinted", "unhinted", "facts", "recall")
"""The registers whose text the vocabulary is learned on."""

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|fim_pad|>",
    "unk_token": None,
    "extra_special_tokens": ["<|im_start|>", "<|im_end|>"],
    "model_max_length": 320,
    "clean_up_tokenization_spaces": False,
}
_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build_tokenizer(folder: Path, *, seed: int = 0, lines: int = 6000) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja into ``folder``.

    The vocabulary is learned on documents drawn with ``seed``, its registers alike; nothing else decides it.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    rng = Random(seed)
    texts: list[str] = []
    for _ in range(lines):
        document = draw_document(rng, dict.fromkeys(LEXICON, 1.0), SHAPES["first"])
        text = document.prompt + document.response
        for token in SPECIAL:
            text = text.replace(token, "\x00")
        texts.extend(part for part in text.split("\x00") if part)
    trainer = trainers.BpeTrainer(
        vocab_size=512 - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        min_frequency=20,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(_CONFIG, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(_TEMPLATE + "\n", encoding="utf-8")
