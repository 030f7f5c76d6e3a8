"""Damaged copies of small folders: what a loader makes of them must be a result or one sentence."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63, 1e308, float("nan"), float("inf"), 0.5, "", "none", "topk", "é\ud83d", "(", "*",
    [], [[]], [1, [0, 3]], ["q_proj"], {}, {"k": 4}, {"q_proj": -1}, {"": {}},
)  # fmt: skip


def mutated(folder: Path, out: Path, rng: random.Random, kinds: dict[str, Any] | None = None) -> Path:
    """A copy of a folder with one to three faults in its files: in a value of a JSON file, or in bytes of any.

    Args:
        folder: a good one.
        out: the copy; replaced.
        rng: what decides.
        kinds: values of further fields to try, by name.
    """
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(folder, out)
    for _ in range(rng.choice((1, 1, 2, 3))):
        file = rng.choice(sorted(p for p in out.iterdir() if p.is_file()))
        if file.suffix == ".json" and rng.random() < 0.7:
            _mutate_json(file, rng, kinds or {})
        else:
            _mutate_bytes(file, rng)
    return out


def _mutate_json(file: Path, rng: random.Random, kinds: dict[str, Any]) -> None:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return
    place = config
    while isinstance(place, dict) and (inner := [v for v in place.values() if isinstance(v, dict) and v]):
        if rng.random() < 0.5:
            break
        place = rng.choice(inner)
    if not isinstance(place, dict) or rng.random() < 0.05:
        file.write_text(json.dumps(rng.choice(VALUES)))
        return
    key = rng.choice([*place, *kinds, "of_tomorrow"])
    if rng.random() < 0.15:
        place.pop(key, None)
    else:
        place[key] = rng.choice([*VALUES, *([kinds[key]] if key in kinds else [])])
    file.write_text(json.dumps(config))


def _mutate_bytes(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    how = rng.randrange(5)
    if how == 0 or not data:
        data = data[: rng.randrange(len(data) + 1)]
    elif how == 1:  # anywhere
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 2:  # in the header, where lengths, names and types are
        data[rng.randrange(min(len(data), 300))] = rng.randrange(256)
    elif how == 3:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.randrange(1, 20))
    else:  # a number that is not finite
        at = max(0, (rng.randrange(len(data)) // 4) * 4 - 4)
        data[at : at + 4] = b"\x00\x00\x80\x7f"
    file.write_bytes(bytes(data))
