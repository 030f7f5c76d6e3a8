"""Damaged artefacts of done steps: each is found, named, and healed by the next run that needs it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.study.artefacts import damage
from tests.commands import Warm, command_environment
from tests.outcome import contents, files

RUN = ["run", "--plugin", "rank1-lora", "--preset", "tiny", "--device", "cpu"]


def flip(file: Path, share: float) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[min(int(len(data) * share), len(data) - 1)] ^= 1
    file.write_bytes(data)


def edit(file: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the content."""
    file.write_bytes(change(file.read_bytes()))


def swap(a: Path, b: Path) -> None:
    """Exchange two files."""
    a.rename(a.with_name("third"))
    b.rename(a)
    a.with_name("third").rename(b)


def replace_by_link(path: Path, target: Path) -> None:
    """Put a link where a file or folder was."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


def replace_by_file(folder: Path) -> None:
    """Put a file where a folder was."""
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def replace_by_folder(file: Path) -> None:
    """Put a folder where a file was."""
    file.unlink()
    file.mkdir()


ADAPTER, FULL, DENSE, LATENTS, DICTIONARY, PLANTED = (
    ("train/rank1-lora", "adapter"), ("train/full-finetune", "model"), ("probe/mlp-neurons", "activations"),
    ("learn/batch-topk", "latents"), ("learn/pca", "dictionary"), ("plant/planted", "planted"),
)  # fmt: skip
ADAPTER_FILE, FULL_FILE, WEIGHTS = "adapter_model.safetensors", "model.safetensors", "sae_weights.safetensors"

KINDS: dict[str, tuple[tuple[str, str], str, Callable[[Path], object]]] = {
    "a bit of an adapter": (ADAPTER, ADAPTER_FILE, lambda d: flip(d / ADAPTER_FILE, 0.6)),
    "the first bit of an adapter": (ADAPTER, ADAPTER_FILE, lambda d: flip(d / ADAPTER_FILE, 0)),
    "the last bit of an adapter": (ADAPTER, ADAPTER_FILE, lambda d: flip(d / ADAPTER_FILE, 1)),
    "a bit of a full model": (FULL, FULL_FILE, lambda d: flip(d / FULL_FILE, 0.6)),
    "a bit of a dictionary": (DICTIONARY, WEIGHTS, lambda d: flip(d / WEIGHTS, 0.6)),
    "a bit of activations": (DENSE, "shard-00000.values.npy", lambda d: flip(d / "shard-00000.values.npy", 0.6)),
    "a bit of token ids": (PLANTED, "shard-00000.ids.npy", lambda d: flip(d / "shard-00000.ids.npy", 0.6)),
    "a bit of latents": (LATENTS, "shard-00000.columns.npy", lambda d: flip(d / "shard-00000.columns.npy", 0.6)),
    "a bit of a manifest": (LATENTS, "manifest.json", lambda d: flip(d / "manifest.json", 0.5)),
    "an adapter cut in two": (ADAPTER, ADAPTER_FILE, lambda d: edit(d / ADAPTER_FILE, lambda b: b[: len(b) // 2])),
    "a dictionary less a byte": (DICTIONARY, WEIGHTS, lambda d: edit(d / WEIGHTS, lambda b: b[:-1])),
    "a byte more": (FULL, FULL_FILE, lambda d: edit(d / FULL_FILE, lambda b: b + b"\0")),
    "a block of zeros": (FULL, FULL_FILE, lambda d: edit(d / FULL_FILE, lambda b: b[:-512] + bytes(512))),
    "all zeros": (DENSE, "shard-00000.json", lambda d: edit(d / "shard-00000.json", lambda b: bytes(len(b)))),
    "an emptied config": (ADAPTER, "adapter_config.json", lambda d: edit(d / "adapter_config.json", lambda _: b"")),
    "emptied weights": (DICTIONARY, WEIGHTS, lambda d: edit(d / WEIGHTS, lambda _: b"")),
    "a deleted config": (DICTIONARY, "cfg.json", lambda d: (d / "cfg.json").unlink()),
    "deleted weights": (FULL, FULL_FILE, lambda d: (d / FULL_FILE).unlink()),
    "a deleted manifest": (DENSE, "manifest.json", lambda d: (d / "manifest.json").unlink()),
    "a deleted shard": (LATENTS, "shard-00000.values.npy", lambda d: (d / "shard-00000.values.npy").unlink()),
    "a deleted artefact": (DICTIONARY, "cfg.json", lambda d: shutil.rmtree(d)),
    "a deleted step": (DENSE, "manifest.json", lambda d: shutil.rmtree(d.parent)),
    "an emptied folder": (LATENTS, "manifest.json", lambda d: [p.unlink() for p in d.iterdir()]),
    "a renamed folder": (ADAPTER, "adapter_config.json", lambda d: d.rename(d.with_name("adapter.old"))),
    "two files swapped": (
        DENSE, "shard-00000.ranked.npy",
        lambda d: swap(d / "shard-00000.segments.npy", d / "shard-00000.ranked.npy"),
    ),
    "an edited manifest": (
        DENSE, "manifest.json", lambda d: edit(d / "manifest.json", lambda b: b.replace(b'"raw"', b'"write"'))
    ),
    "an edited manifest of the same size": (
        LATENTS, "manifest.json", lambda d: edit(d / "manifest.json", lambda b: b.replace(b"latent1", b"latent9"))
    ),
    "an edited rank": (
        ADAPTER, "adapter_config.json",
        lambda d: edit(d / "adapter_config.json", lambda b: b.replace(b'"r": 1', b'"r": 2')),
    ),
    "other line ends": (DICTIONARY, "cfg.json", lambda d: edit(d / "cfg.json", lambda b: b.replace(b"\n", b"\r\n"))),
    "another dictionary's weights": (
        DICTIONARY, WEIGHTS,
        lambda d: shutil.copy(next(d.parents[1].glob("learn-identity-*")) / "dictionary" / WEIGHTS, d / WEIGHTS),
    ),
    "a link to nothing for a file": (FULL, FULL_FILE, lambda d: replace_by_link(d / FULL_FILE, Path("nothing"))),
    "a link to nothing for a step": (PLANTED, "manifest.json", lambda d: replace_by_link(d.parent, Path("nothing"))),
    "a link to another artefact": (
        DICTIONARY, "cfg.json",
        lambda d: replace_by_link(d, next(d.parents[1].glob("learn-ica-*")) / "dictionary"),
    ),
    "a file for a folder": (LATENTS, "manifest.json", lambda d: replace_by_file(d)),
    "a file for a step": (DENSE, "manifest.json", lambda d: replace_by_file(d.parent)),
    "a folder for a file": (ADAPTER, ADAPTER_FILE, lambda d: replace_by_folder(d / ADAPTER_FILE)),
}  # fmt: skip


def steps(study: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Name -> folder and output of each done step."""
    with sqlite3.connect(study / "results.db") as connection:
        rows = connection.execute(
            "SELECT name, artifact, output_json FROM step WHERE output_json IS NOT NULL"
        ).fetchall()
    return {name: (study / "artifacts" / folder, json.loads(output)) for name, folder, output in rows}


@pytest.fixture
def study(tiny_study: Path, tmp_path: Path) -> Path:
    """A copy of a folder in which the study has run."""
    return Path(shutil.copytree(tiny_study, tmp_path / "study"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_damage_is_named(kind: str, study: Path) -> None:
    (step, artefact), file, harm = KINDS[kind]
    folder, output = steps(study)[step]
    assert damage(output, folder, contents=True) is None
    harm(folder / artefact)
    others = {name: damage(found, place, contents=True) for name, (place, found) in steps(study).items()}
    why = others.pop(step)
    assert why is not None
    assert str(folder) in why
    assert file in why or "missing" in why
    assert set(others.values()) == {None}


def test_a_step_of_an_older_version_has_no_hashes_and_is_looked_for(study: Path) -> None:
    folder, output = steps(study)["learn/pca"]
    del output["files"]
    flip(folder / "dictionary" / WEIGHTS, 0.6)
    assert damage(output, folder, contents=True) is None
    shutil.rmtree(folder / "dictionary")
    assert damage(output, folder, contents=False) == f"{folder / 'dictionary'} is missing"


def test_what_lies_beside_the_artefacts_is_nobodys_business(study: Path) -> None:
    folder, output = steps(study)["train/rank1-lora"]
    (folder / "job.json").unlink()
    (folder / "adapter" / "README.md").write_text("a card that somebody wrote")
    assert damage(output, folder, contents=True) is None


def harm(study: Path, *kinds: str) -> list[str]:
    """Damage artefacts; the files that must be named."""
    for kind in kinds:
        (step, artefact), _, change = KINDS[kind]
        change(steps(study)[step][0] / artefact)
    return [KINDS[kind][0][0] for kind in kinds]


SEEN_BY_SIZE = [
    ("a deleted manifest", "an adapter cut in two", "emptied weights", "a deleted artefact"),
    (
        "a link to nothing for a step",
        "a file for a step",
        "a folder for a file",
        "an emptied folder",
        "deleted weights",
    ),
    ("a link to nothing for a file", "a file for a folder", "a deleted step", "a renamed folder", "a deleted config"),
]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", SEEN_BY_SIZE, ids=lambda kinds: kinds[0])
def test_the_next_run_does_damaged_steps_again_and_ends_with_the_same_bytes(
    kinds: tuple[str, ...], study: Path, tiny_study: Path, warm: Warm
) -> None:
    damaged = set(harm(study, *kinds))
    done = warm.run(*RUN, cwd=study, env=command_environment())
    assert done.returncode == 0, done.stderr
    said = done.stderr.replace("\n", " ")
    for step in damaged:
        assert f"{step}: " in said
    assert said.count("the step runs again") == len(damaged)
    assert f"{len(damaged)} steps done" in said
    assert files(study) == files(tiny_study)
    assert contents(study) == contents(tiny_study)
    assert "everything is done" in warm.run(*RUN, cwd=study, env=command_environment()).stderr


@pytest.mark.slow
def test_changed_bits_are_found_before_a_step_reads_them(study: Path, tiny_study: Path, warm: Warm) -> None:
    """The ablation is pending and reads the adapter; nothing pending reads the dictionary, which doctor finds."""
    harm(study, "a bit of an adapter", "a bit of a dictionary")
    dry = warm.run(*RUN, "--dry-run", cwd=study, env=command_environment())
    assert "runs again" not in dry.stderr
    argv = [*RUN, "--only", "ablate", "--set", "leave-one-out.n_documents=3"]
    done = warm.run(*argv, cwd=study, env=command_environment())
    assert done.returncode == 0, done.stderr
    said = done.stderr.replace("\n", " ")
    assert said.count("its sha256 differs); the step runs again") == 1
    assert "train/rank1-lora: " in said
    adapter = steps(study)["train/rank1-lora"][0] / "adapter" / ADAPTER_FILE
    assert adapter.read_bytes() == (tiny_study / adapter.relative_to(study)).read_bytes()
    clean = Path(shutil.copytree(tiny_study, study.with_name("clean")))
    warm.run(*argv, cwd=clean, env=command_environment())
    assert contents(study) == contents(clean)
    looked = warm.run("doctor", "--artifacts", cwd=study, env=command_environment())
    assert looked.returncode == 1
    assert f"learn/pca: {steps(study)['learn/pca'][0]}" in looked.stdout
    assert "train/rank1-lora" not in looked.stdout
    assert "the next harness run" in looked.stdout
    looked = warm.run("doctor", "--artifacts", cwd=clean, env=command_environment())
    assert looked.returncode == 0, looked.stdout
