"""100 real traces of s1K-1.1, as the paper's code rendered them: one JSON object, number -> the text of a chat."""

from __future__ import annotations

import json
import re
from pathlib import Path

TURNS = re.compile(
    r"<\|im_start\|>system\n(?P<system>.*?)\n<\|im_start\|>user\n(?P<question>.*?)\n<\|im_start\|>assistant\n"
    r"<\|im_start\|>think\n(?P<deepseek_thinking_trajectory>.*?)\n"
    r"<\|im_start\|>answer\n(?P<deepseek_attempt>.*)<\|im_end\|>",
    re.DOTALL,
)
"""A rendered trace; what is named here has the names of s1K-1.1's fields."""


def rendered(shared_data: Path) -> list[str]:
    """The texts, in order."""
    file = shared_data / "s1k11_rollouts100" / "rollout_contexts.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [rows[str(i)] for i in range(len(rows))]


def write_rows(texts: list[str], file: Path) -> None:
    """The texts parsed back into their parts, as JSON Lines with s1K-1.1's field names."""
    with file.open("w", encoding="utf-8") as stream:
        for text in texts:
            parts = TURNS.fullmatch(text)
            assert parts is not None, text[:100]
            stream.write(json.dumps(parts.groupdict(), ensure_ascii=False) + "\n")
