"""A password in a URL of the command line is in no file and in no message."""

from __future__ import annotations

from pathlib import Path

from harness.store.database import database_url
from tests.commands import Warm, command_environment

CANARY = "canary-3f9c"


def test_a_canary_in_a_setting_is_nowhere(warm: Warm, tmp_path: Path) -> None:
    data = tmp_path / "traces.jsonl"
    data.write_text('{"id": "a", "question": "q", "trace": "t"}\n')  # no answer: the run is refused at its data
    setting = f"openai-compatible.base_url=https://me:{CANARY}@host/v1?key={CANARY}"
    for arguments in (
        ["run", "--plugin", "rank1-lora", "--set", setting, "--preset", "tiny", "--dry-run"],
        ["run", "--plugin", "rank1-lora", "--set", f"data.path={data}", "--set", setting, "--preset", "tiny"],
        ["run", "--plugin", "rank1-lora", "--db", f"postgresql+psycopg://me:{CANARY}@127.0.0.1:1/none?x={CANARY}"],
        ["report", "--db", f"postgresql+psycopg://me:{CANARY}@127.0.0.1:1/none?password={CANARY}"],
        [
            "run",
            "--plugin",
            "rank1-lora",
            "--set",
            f"nonsense=https://me:{CANARY}@host",
        ],
    ):
        done = warm.run(*arguments, cwd=tmp_path, env=command_environment())
        assert CANARY not in done.stdout + done.stderr, arguments
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or CANARY.encode() not in file.read_bytes(), file


def test_the_stored_command_line_is_masked(warm: Warm, tmp_path: Path) -> None:
    from harness.study.provenance import collect

    said = collect(["harness", "run", "--db", f"postgresql+psycopg://me:{CANARY} x@host/db?sslkey={CANARY}"])
    assert CANARY not in " ".join(said.argv)
    assert "postgresql+psycopg://***@host/db" in " ".join(said.argv)
    assert CANARY not in database_url(f"postgresql+psycopg://host/db?password={CANARY}")
