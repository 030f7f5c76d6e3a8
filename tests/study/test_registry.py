"""The registry: what is read, and how its faults are named (file, line, field)."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import RegistryError
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry

GOOD = """\
version: 1
default_study: s
plugins:
  - {name: rank1-lora, stage: trainers, module: harness_plugins.trainers.rank1_lora}
  - {name: mlp-neurons, stage: probes, module: harness_plugins.probes.mlp_neurons}
studies:
  s:
    summary: a study
    model: {path: m}
    data: {path: d.jsonl}
    adapter: rank1-lora
"""


def write(folder: Path, text: str) -> Path:
    file = folder / "registry.yaml"
    file.write_text(text)
    return file


def test_a_good_registry_is_read(tmp_path: Path) -> None:
    registry = read_registry(write(tmp_path, GOOD))
    assert [p.name for p in registry.plugins] == ["rank1-lora", "mlp-neurons"]
    assert registry.studies["s"].chat.think_header == "<|im_start|>think\n"


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (("mlp-neurons, stage", "rank1-lora, stage"), 5, ["plugins.1.name", "given twice"]),
        (("stage: probes", "stage: prober"), 5, ["plugins.1.stage", "'train'"]),
        (("summary: a study", "sumary: a study"), 8, ["sumary", "Extra inputs"]),
        (("    adapter: rank1-lora\n", ""), 8, ["adapter", "Field required"]),
        (("default_study: s", "default_study: t"), 2, ["default_study", "no study 't'"]),
        (("version: 1", "version: 2"), 1, ["version", "less than or equal to 1"]),
        (("summary: a study", "summary: a study\n    summary: b"), 9, ["given twice"]),
        (("model: {path: m}", "model: {path: m"), 10, ["expected"]),
    ],
)
def test_a_fault_is_named_with_file_line_and_field(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    assert change[0] in GOOD
    file = write(tmp_path, GOOD.replace(*change))
    with pytest.raises(RegistryError) as caught:
        read_registry(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:"), message
    assert abs(int(message.removeprefix(f"{file}:").split(":")[0]) - line) <= 1, message
    for word in words:
        assert word in message


def test_the_registry_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_REGISTRY", raising=False)
    assert find_registry(None).is_file(), "the package's own"
    local = write(tmp_path, GOOD)
    assert find_registry(None).resolve() == local
    other = tmp_path / "other.yaml"
    other.write_text(GOOD)
    monkeypatch.setenv("HARNESS_REGISTRY", str(other))
    assert find_registry(None) == other
    with pytest.raises(RegistryError, match=r"no file nowhere\.yaml"):
        find_registry("nowhere.yaml")
