"""Text from models and corpora is text, whatever it looks like (A19)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import Chrome

from harness.render.dashboard.scripts import packed_script
from tests.dashboard_scripts import unpack

from .conftest import Page, requests, watched

SIGNS = {"\u2028": "⏎", "\u2029": "¶", "\u202e": "‹U+202E›", "\u2067": "‹U+2067›", "\u200b": "‹U+200B›", "\x00": "␀",
         "\x1b[31m": "␛[31m", "\x7f": "␡", "\u0085": "‹U+0085›", "\n": "⏎", "\t": "⇥"}  # fmt: skip
MADE_OF = {"SPAN", "MARK", "DIV", "BUTTON", "A", "LI", "OL", "UL", "P", "H1", "H2", "SECTION", "ASIDE", "DL", "DT",
           "DD", "svg", "path", "line", "rect", "text", "title", "FIGURE", "FIGCAPTION", "INPUT", "TABLE", "THEAD",
           "TBODY", "TR", "TH", "TD", "CAPTION", "DETAILS", "SUMMARY", "PRE", "NAV", "SELECT", "OPTION", "LABEL",
           "FIELDSET", "LEGEND"}  # fmt: skip
"""Elements that the pages make; images are only the figures."""


def shown(token: str) -> str:
    return SIGNS.get(token, token)


def nothing_ran(page: Page) -> None:
    with pytest.raises(NoAlertPresentException):
        _ = page.chrome.switch_to.alert
    found = set(page.js("return [...document.querySelectorAll('main *')].map(e => e.tagName)"))
    assert found <= MADE_OF
    assert page.js("return [...document.scripts].every(s => s.hasAttribute('src'))")
    assert page.js("return Object.keys(Object.prototype)") == []


def test_every_hostile_token_of_a_document_stands_there_as_text(page: Page, studies: Any) -> None:
    page.open("#/document/trace-0000")
    tokens = page.texts(".text .t")
    # The generator puts them at every second place from the fifth on.
    for i, token in enumerate(studies.HOSTILE):
        assert tokens[5 + 2 * i] == shown(token)
    nothing_ran(page)


def test_right_to_left_text_does_not_move_its_neighbours(page: Page, studies: Any) -> None:
    page.open("#/document/trace-0000")
    boxes = page.js(
        "return [...document.querySelectorAll('.text .t')].map(t => { const b = t.getClientRects()[0];"
        " return b ? [b.top, b.left, b.width] : null })"
    )
    for token in ("\u202e", "\u2067", "مرحبا"):
        at = 5 + 2 * studies.HOSTILE.index(token)
        for left, right in ((at - 1, at), (at, at + 1)):
            a, b = boxes[left], boxes[right]
            if a and b and abs(a[0] - b[0]) < 4:
                assert a[1] < b[1]


@pytest.mark.parametrize(
    "token", ["</script>", "<img src=x onerror=alert(1)>", "\u2028", "\u202e", "\x00", "__proto__"]
)
def test_a_hostile_token_can_be_found_and_its_feature_read(page: Page, studies: Any, token: str) -> None:
    """Latent i likes the words whose number is i modulo 39."""
    i = studies.HOSTILE.index(token) % 39
    page.open(f"#/feature/batch-topk/latent{i}")
    assert shown(token) in page.texts(".context .at")
    nothing_ran(page)
    page.open("#/features")
    page.js(
        "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))",
        token,
    )
    page.frame()
    if token.strip() and token.isprintable():
        assert f"latent{i}" in page.texts(".lines .line-name")
    nothing_ran(page)


def test_names_of_models_and_categories_are_text(page: Page) -> None:
    page.open("#/")
    assert "<b>model</b>" in page.texts(".run")[0]
    page.open("#/features?category=Operators+%3C%2Fscript%3E")
    assert page.texts(".status") == ["13 of 52 features"]
    assert set(page.texts(".lines .line-category")) == {"Operators </script>"}
    nothing_ran(page)


@pytest.fixture
def broken(chrome: Chrome, site: Path, tmp_path: Path) -> Iterator[Page]:
    """A dashboard with lone surrogates, which no database of ours holds but JSON does, in every place for text."""
    copy = tmp_path / "dashboard"
    shutil.copytree(site, copy)
    for file in [copy / "data" / "catalogue.js", *(copy / "data" / "features").iterdir()]:
        name = str(file.relative_to(copy / "data").with_suffix(""))
        file.write_bytes(packed_script(name, _spoil(unpack(file.read_bytes()))))
    yield from watched(chrome, copy)


def _spoil(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _spoil(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_spoil(v) for v in value]
    return value.replace("fires on", "fires \ud800 on \udfff") if isinstance(value, str) else value


def test_lone_surrogates_are_shown_by_their_number(broken: Page) -> None:
    broken.open("#/feature/batch-topk/latent1")
    assert "fires ‹U+D800› on ‹U+DFFF›" in broken.texts(".said")[0]
    broken.open("#/features?q=%22fires%22")
    broken.open("#/features?source=batch-topk")
    assert any("fires ‹U+D800› on ‹U+DFFF›" in text for text in broken.texts(".line-text"))


def test_the_policy_forbids_what_the_pages_never_do(page: Page) -> None:
    blocked = page.chrome.execute_async_script(
        "const done = arguments[0]; const seen = [];"
        "addEventListener('securitypolicyviolation', (e) => { seen.push(e.effectiveDirective);"
        " if (seen.length === 3) done(seen); });"
        "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s);"
        "const i = document.createElement('img'); i.src = 'https://example.org/x.png'; document.body.append(i);"
        "document.body.setAttribute('style', 'color: red');"
        "setTimeout(() => done(seen), 3000);"
    )
    assert sorted(blocked) == ["img-src", "script-src-elem", "style-src-attr"]
    assert page.js("return window.ran") is None
    assert requests(page.chrome)[-1] == "https://example.org/x.png"  # asked for, and refused
    assert len(page.chrome.get_log("browser")) >= 3
    page.open()
