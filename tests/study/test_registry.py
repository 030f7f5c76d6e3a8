"""The registry: what is read, and how its faults are named (file, line, field)."""

from __future__ import annotations

import random
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
    assert registry.studies["s"].chat.answer_prefix == "Answer: "


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


NESTED = f"aM: &aM [{', '.join(['*aN'] * 9)}]\n"
MERGED = f"aM: &aM {{<<: [{', '.join(['*aN'] * 9)}]}}\n"


def eight(line: str) -> str:
    """The line eight times, each of nine aliases of the one before."""
    return "".join(line.replace("M", str(i)).replace("N", str(i - 1)) for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a [*a]\n", "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ("{a: " * 5_000, "nested too deeply"),
        ("a0: &a0 [x]\n" + eight(NESTED), "aliases"),
        ("a0: &a0 {x: 1}\n" + eight(MERGED), "aliases"),
        ("? [a, b]\n: 1\n", "keys are names"),
        ("version: 2001-99-99\n", "month must be in"),
        ("version: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("version: \x00\n", "not allowed"),
        ("", "valid dictionary"),
    ],
)  # fmt: skip
def test_hostile_yaml_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RegistryError, match=words) as caught:
        read_registry(file)
    assert str(file) in str(caught.value)


def test_anchors_may_be_used(tmp_path: Path) -> None:
    text = GOOD.replace("model: {path: m}", "model: &m {path: m}") + GOOD[GOOD.index("  s:\n") :].replace(
        "  s:\n", "  t:\n"
    ).replace("{path: m}", "*m")
    assert read_registry(write(tmp_path, text)).studies["t"].model.path == "m"


def test_a_mutated_registry_is_read_or_named(tmp_path: Path) -> None:
    """2,000 files, most of a whole registry with a few bytes or lines changed."""
    rng, good = random.Random(0), find_registry(None).read_bytes()
    pieces = b"""&a |*a|<<: |? |!!int |!!binary |- |[|{|: |\x00|\xff|\t|%|"\\ud83d"|1e999|2001-13-01|~""".split(b"|")
    file, said = tmp_path / "registry.yaml", list[str]()
    for number in range(2_000):
        data = bytearray(good if number % 20 == 0 else GOOD.encode())
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data) + 1)
            how = rng.randrange(5)
            if how == 0:
                del data[at:]
            elif how == 1:
                data[at : at + 1] = bytes([rng.randrange(256)])
            elif how == 2:
                data[at:at] = rng.choice(pieces)
            elif how == 3:
                del data[at : at + rng.randrange(1, 30)]
            else:
                start = rng.randrange(len(data) + 1)
                data[at:at] = data[start : start + 40]
        file.write_bytes(bytes(data))
        try:
            read_registry(file)
        except RegistryError as error:
            said.append(str(error))
    assert len(said) > 1_000
    assert [sentence for sentence in said if not sentence.startswith((str(file), f"cannot read {file}"))] == []


def test_a_dictionary_may_name_its_probe_by_on_which_yaml_takes_for_a_truth_value(tmp_path: Path) -> None:
    text = GOOD + "    dictionaries: [a, {name: b, learner: a, on: mlp-neurons}]\n"
    text += "    paper_benchmarks: {no: x, yes: y}\n"
    study = read_registry(write(tmp_path, text)).studies["s"]
    assert [(d.name, d.learner, d.on) for d in study.dictionaries] == [("a", "a", None), ("b", "a", "mlp-neurons")]
    assert study.paper_benchmarks == {"no": "x", "yes": "y"}


def test_two_dictionaries_of_one_name_are_refused(tmp_path: Path) -> None:
    text = GOOD + "    dictionaries: [a, {name: a, learner: b}]\n"
    with pytest.raises(
        RegistryError, match=r"registry.yaml:12: .*two dictionaries or adapters are called 'a'; give one"
    ):
        read_registry(write(tmp_path, text))
