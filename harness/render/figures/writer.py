"""Figures to files. The same figure gives the same bytes: no dates, no random ids."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from harness.render.figures.style import Drawn, themed

FORMATS = ("svg", "pdf", "png")
"""File formats of figures."""

PNG_DPI = 300
"""Dots per inch of PNG files."""

_METADATA = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "ModDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def figure_bytes(drawn: Drawn, form: str, *, transparent: bool = False) -> bytes:
    """A figure in one of `FORMATS`.

    Text is drawn as outlines in SVG and embedded as TrueType in PDF, so that it looks alike everywhere.
    """
    stream = io.BytesIO()
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": "harness", "pdf.fonttype": 42}
    # The theme is set again because matplotlib makes the ticks when it saves.
    with themed(drawn.theme) as theme, matplotlib.rc_context(settings), warnings.catch_warnings():
        # Characters that the font lacks are drawn as boxes; the tables have them.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        ground = "none" if transparent else theme.ground
        drawn.figure.savefig(stream, format=form, dpi=PNG_DPI, metadata=_METADATA[form], facecolor=ground)
    return stream.getvalue()


def write_figure(drawn: Drawn, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure as `folder/STEM-THEME.FORMAT` for each format; the folder exists. Returns the paths."""
    paths = []
    for form in formats:
        path = folder / f"{drawn.stem}-{drawn.theme}.{form}"
        path.write_bytes(figure_bytes(drawn, form))
        paths.append(path)
    return paths


def file_stem(*parts: str | None) -> str:
    """A file name from words that may come from data: lower-case letters, digits and dashes."""
    words = "-".join(part for part in parts if part)
    return re.sub("[^a-z0-9]+", "-", words.lower()).strip("-")[:80] or "figure"
