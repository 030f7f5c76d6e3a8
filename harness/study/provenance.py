"""Where a number came from: commit, versions, machine, command."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.errors import masked_argument

_PACKAGES = (
    "interp-harness", "torch", "transformers", "peft", "lm-eval", "datasets", "tokenizers", "safetensors", "numpy",
    "scipy", "vllm", "ray", "openai", "anthropic", "sqlalchemy", "pluggy", "pydantic",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What is stored with every run and every step."""

    git_sha: str | None
    """Commit of the harness's checkout; None outside one."""
    git_dirty: bool | None
    """Whether tracked files differ from it."""
    versions: dict[str, str]
    """Installed versions, Python's and the system's included."""
    argv: tuple[str, ...]
    """The command line; URLs in it are masked."""


def collect(argv: list[str] | None = None) -> Provenance:
    """Provenance of this process and its checkout. Imports none of the packages."""
    sha, dirty = _git()
    return Provenance(sha, dirty, installed_versions(), tuple(map(masked_argument, sys.argv if argv is None else argv)))


def installed_versions() -> dict[str, str]:
    """Versions of packages that results can depend on; those that are not installed are left out."""
    versions = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _git() -> tuple[str | None, bool | None]:
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        sha = _run(root, "rev-parse", "HEAD")
        return sha, bool(_run(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _run(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, timeout=5, check=True)
    return done.stdout.strip()
