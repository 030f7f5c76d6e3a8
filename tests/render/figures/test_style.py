from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from harness.render.figures.style import THEMES, Theme, category_colours, clean, ink_on, sequential, themed

# Machado, Oliveira & Fernandes 2009, severity 1: what dichromats see of linear RGB.
SIMULATED = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}


def _linear(colour: str) -> NDArray[np.float64]:
    c = np.array(to_rgb(colour))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def _lab(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB under D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear.clip(0, 1)
    t = xyz / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
@pytest.mark.parametrize("sight", SIMULATED)
def test_series_can_be_told_apart_also_by_colour_blind_readers(theme: Theme, sight: str) -> None:
    labs = [_lab(SIMULATED[sight] @ _linear(c)) for c in theme.series]
    nearest = min(float(np.linalg.norm(a - b)) for a, b in combinations(labs, 2))
    # A difference of 2.3 is just noticeable side by side; 6 is told apart at a distance. Two series come first: 20.
    assert nearest > 6
    assert np.linalg.norm(labs[0] - labs[1]) > 20


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_colours_stand_out_from_the_ground(theme: Theme) -> None:
    ground = _lab(_linear(theme.ground))
    assert abs(_lab(_linear(theme.ink))[0] - ground[0]) > 70
    assert min(np.linalg.norm(_lab(_linear(c)) - ground) for c in theme.series) > 25


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_the_scale_gains_contrast_with_the_ground_all_the_way(theme: Theme) -> None:
    colours = sequential(theme)
    lightness = np.array([_lab(_linear(colours(i / 20)[:3]))[0] for i in range(21)])  # type: ignore[arg-type]
    away = np.abs(lightness - _lab(_linear(theme.ground))[0])
    assert (np.diff(away) > 0).all()


def test_ink_on_a_colour_has_a_contrast_of_at_least_four_and_a_half() -> None:
    for theme in THEMES.values():
        for colour in theme.series:
            parts = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ _linear(c)) for c in (colour, ink_on(colour)))
            assert (parts[1] + 0.05) / (parts[0] + 0.05) >= 4.5


def test_names_from_data_are_shown_not_obeyed_and_fit() -> None:
    assert clean("a\x1b[31m\nb", 40) == "a\\x1b[31m\\nb"
    assert clean("aime24_nofigures_long", 12, 2) == "aime24_\nnofigures_l…"
    assert clean("reasoning control-flow", 12, 2) == "reasoning\ncontrol-flow"
    assert all(len(x) <= 7 for x in clean("word " * 9, 7, 3).split("\n"))


def test_what_is_not_a_category_is_grey_and_takes_no_colour() -> None:
    with themed("light") as theme:
        found = category_colours(theme, ["a", "uncategorised", "b"])
    assert (found["a"], found["b"]) == theme.series[:2]
    assert found["uncategorised"] not in theme.series
