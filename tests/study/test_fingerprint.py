"""What a step's key says of folders: an adapter or a dictionary that differs in one bit is another one."""

from __future__ import annotations

import os
from pathlib import Path

from harness.records import ModelRef
from harness.study.fingerprint import folder_fingerprint, model_fingerprint


def test_every_byte_of_a_folder_counts(tmp_path: Path) -> None:
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(bytes(3 << 20))
    before = folder_fingerprint(str(tmp_path))
    assert before == folder_fingerprint(str(tmp_path))
    with weights.open("r+b") as stream:
        stream.seek(2 << 20)
        stream.write(b"\x01")
    os.utime(weights, ns=(1, 2))
    assert folder_fingerprint(str(tmp_path)) != before
    assert folder_fingerprint(str(tmp_path / "none")) is None


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path: Path) -> None:
    from harness.study import fingerprint

    (tmp_path / "sae.safetensors").write_bytes(b"one")
    fingerprint._hash.cache_clear()
    first = folder_fingerprint(str(tmp_path))
    assert folder_fingerprint(str(tmp_path)) == first
    assert fingerprint._hash.cache_info()[:2] == (1, 1)
    (tmp_path / "sae.safetensors").write_bytes(b"two")
    os.utime(tmp_path / "sae.safetensors", ns=(5, 6))
    assert folder_fingerprint(str(tmp_path)) != first


def test_a_base_model_is_known_by_its_files_names_sizes_and_first_megabyte(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(2 << 20))
    base = ModelRef(path=str(tmp_path))
    before = model_fingerprint(base)
    (tmp_path / "model.safetensors").write_bytes(b"\x01" + bytes((2 << 20) - 1))
    os.utime(tmp_path / "model.safetensors", ns=(1, 2))
    assert model_fingerprint(base) != before
