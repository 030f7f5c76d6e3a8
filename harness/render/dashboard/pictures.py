"""The figures as files of the dashboard: SVG, drawn once for the light theme and once for the dark one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from harness.errors import StorageError
from harness.render.figures.catalogue import FIGURES, Missing, draw_figures
from harness.render.figures.style import ThemeName
from harness.render.figures.writer import figure_bytes

_THEMES: tuple[ThemeName, ThemeName] = ("light", "dark")


def write_pictures(connection: Connection, run_id: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Draw every figure that the run has data for.

    Pages show them as images, in which no script runs and to which no style of the page applies.

    Args:
        connection: to the database.
        run_id: the run.
        folder: the dashboard; figures go to `figures/`.

    Returns:
        Name of a report -> its figures: title, caption, and the files of both themes.

    Raises:
        StorageError: the disk is full or the folder is not writable.
    """
    pictures: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for theme in _THEMES:
        for drawn in draw_figures(connection, run_id, theme):
            if isinstance(drawn, Missing):
                continue
            entry = pictures[FIGURES[drawn.name].report].setdefault(
                drawn.stem, {"title": drawn.title, "caption": drawn.caption}
            )
            entry[theme] = f"figures/{drawn.stem}-{theme}.svg"
            entry["width_in"] = round(float(drawn.figure.get_figwidth()), 2)
            _write(folder / entry[theme], figure_bytes(drawn, "svg", transparent=True))
    return {report: list(entries.values()) for report, entries in pictures.items()}


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}; free space or change --out") from error
