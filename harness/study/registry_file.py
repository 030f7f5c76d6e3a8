"""Which registry.yaml is meant, and whether it can bring more than the harness's own plugins. Imports nothing heavy."""

from __future__ import annotations

import os
import re
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

from harness.errors import RegistryError

ENTRY_POINT_GROUP = "harness"


def find_registry(given: str | None) -> Path:
    """`--registry`, `$HARNESS_REGISTRY`, `./registry.yaml`, else the one that comes with the package.

    Raises:
        RegistryError: the file that was named does not exist.
    """
    for name, origin in ((given, "--registry"), (os.environ.get("HARNESS_REGISTRY"), "$HARNESS_REGISTRY")):
        if name:
            if not Path(name).is_file():
                raise RegistryError(f"{origin}: no file {name}")
            return Path(name)
    local = Path("registry.yaml")
    return local if local.is_file() else Path(str(files("harness").joinpath("registry.yaml")))


def names_others(path: Path) -> bool:
    """Whether a registry, or an installed package, names modules that are not the harness's own.

    Reports of plugins cost a second of loading; where nobody can bring one, the registry is not read for them.
    """
    text = re.sub(r"(?m)^\s*#.*$", "", path.read_text(encoding="utf-8", errors="replace"))
    modules = re.findall(r"module[\"']?\s*:\s*[\"']?([\w.]+)", text)
    others = [module for module in modules if not module.startswith("harness_plugins.")]
    return bool(others) or bool(entry_points(group=ENTRY_POINT_GROUP))
