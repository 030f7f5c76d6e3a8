"""`harness plugins new`: a plugin's package, written from templates. It installs, runs and passes its test as it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import StorageError, UsageError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

STAGES = {
    "train": "trainers",
    "probe": "probes",
    "learn": "dictionaries",
    "interpret": "interpreters",
    "ablate": "ablations",
    "provide": "providers",
}
"""What a plugin does -> the folder of its templates, which is the end of its hook's name."""


def write_package(name: str, stage: str, out: Path) -> list[Path]:
    """Write a package for a plugin and return its files.

    Args:
        name: the plugin's name: lower-case letters and digits in words joined by `-`.
        stage: a key or a value of `STAGES`.
        out: the folder to write to; it must be empty or new.

    Raises:
        UsageError: the name is no plugin's name, or the folder holds something.
        StorageError: the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is no name of a plugin: use lower-case letters, digits and '-', e.g. my-plugin")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already and not empty; choose another folder with --out DIR")
    from importlib.resources import files

    module = name.replace("-", "_")
    kind = STAGES.get(stage, stage)
    words = {
        "my-plugin": name,
        "my_plugin": module,
        "MyPlugin": "".join(part.capitalize() for part in name.split("-")),
        "MY_HOOK": f"harness_{kind}",
    }
    templates = files("harness.scaffold") / "templates"
    targets: list[tuple[Traversable, Path]] = [
        (templates / "pyproject.toml.txt", out / "pyproject.toml"),
        (templates / "test.py.txt", out / "tests" / f"test_{module}.py"),
    ]
    for template in sorted((templates / kind).iterdir(), key=lambda t: t.name):
        targets.append((template, out / "src" / module / template.name.removesuffix(".txt")))
    try:
        for template, path in targets:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_filled(template.read_text(encoding="utf-8"), words), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {error.filename or out}: {error.strerror}") from error
    return [path for _, path in targets]


def _filled(template: str, words: dict[str, str]) -> str:
    return re.sub("|".join(words), lambda match: words[match.group()], template)
