"""The dashboard as a person uses it: search, filters, sorting, links, keys, themes, sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.dashboard_scripts import unpack

LINES = ".lines .line"
PAGES = {
    "overview": "#/",
    "features": "#/features?source=batch-topk",
    "feature": "#/feature/adapter-activations/L1.up_proj-",
    "latent": "#/feature/batch-topk/latent7",
    "failed": "#/feature/adapter-activations/L0.up_proj-",
    "dead": "#/feature/batch-topk/latent39",
    "documents": "#/documents",
    "document": "#/document/trace-0000?source=batch-topk&feature=latent7",
    "components": "#/components",
    "component": "#/component/L1.down_proj",
}


def catalogue(site: Path) -> dict[str, Any]:
    return unpack((site / "data" / "catalogue.js").read_bytes())


def names(page: Any) -> list[str]:
    return page.texts(f"{LINES} .line-name")


def search(page: Any, text: str) -> None:
    page.js(
        "const s = document.getElementById('search'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", text
    )
    page.frame()


# finding


def test_search_finds_explanations_names_and_tokens(page: Any, site: Path) -> None:
    page.open("#/features")
    assert page.texts(".status") == ["52 of 52 features"]
    search(page, "latent3 ")
    assert set(names(page)) == {"latent3", *(f"latent{i}" for i in range(30, 40))}
    stored = catalogue(site)
    words = stored["vocabulary"]["tokens"]
    word = next(w for w in words if len(w) > 5 and w.isascii() and w.strip().isalpha())
    strong = {
        name for name, tokens in zip(stored["feature"], stored["tokens"], strict=True)
        if any(word.strip() in words[t].lower() for t in tokens)
    }  # fmt: skip
    explained = {
        name for name, all_ in zip(stored["feature"], stored["explanations"], strict=True)
        if any(word.strip() in (e[1] or "") for e in all_)
    }  # fmt: skip
    search(page, word.strip().upper())
    assert set(names(page)) == strong | explained != set()
    search(page, "fires latent5")
    assert names(page) == ["latent5"]
    search(page, "nothing like this")
    assert page.texts(".status") == ["0 of 52 features"]
    assert "No feature matches" in page.texts(".lines")[0]


def test_filters_narrow_and_their_choices_follow_the_source(page: Any) -> None:
    page.open("#/features")
    page.choose("source", "adapter-activations")
    assert page.texts(".status") == ["12 of 52 features"]
    page.choose("layer", "1")
    page.choose("projection", "up_proj")
    assert sorted(names(page)) == ["L1.up_proj+", "L1.up_proj-"]
    assert page.address == "#/features?source=adapter-activations&layer=1&projection=up_proj"
    page.choose("source", "batch-topk")
    assert page.texts(".status") == ["40 of 52 features"]
    assert not page.js("return [...document.querySelectorAll('select')].some(s => s.ariaLabel === 'layer')")
    page.choose("category", "Numbers")
    assert page.texts(".status") == ["10 of 52 features"]


def test_grades_are_toggles_and_failures_are_one_of_them(page: Any) -> None:
    page.open("#/features")
    page.click(".toggle.grade-none")
    page.frame()
    assert page.texts(".status") == ["13 of 52 features"]
    assert {label for label in page.js(
        "return [...document.querySelectorAll('.lines .grade')].map(e => e.ariaLabel)"
    )} == {"grade: failed or not explained"}  # fmt: skip
    page.click(".toggle.grade-0")
    page.frame()
    assert page.texts(".status") == ["26 of 52 features"]
    assert page.address == "#/features?grades=none%2C0"
    page.click(".toggle.grade-none")
    page.frame()
    assert page.texts(".status") == ["13 of 52 features"]


def test_sorting_by_each_number_both_ways(page: Any, site: Path) -> None:
    stored = catalogue(site)
    order = {
        key: [n for _, n in sorted(zip(stored[key], stored["feature"], strict=True), key=lambda p: -p[0])]
        for key in ("sum", "max", "density")
    }
    page.open("#/features")
    assert names(page)[:5] == order["sum"][:5]
    for key in ("max", "density"):
        page.choose("sort by", key)
        values = dict(zip(stored["feature"], stored[key], strict=True))
        assert [values[n] for n in names(page)[:8]] == [values[n] for n in order[key][:8]]
    page.click(".head[aria-pressed='true']")
    page.frame()
    shown = [values[n] for n in names(page)]
    assert shown == sorted(shown)
    assert "order=up" in page.address


# addresses


def test_a_filtered_view_is_an_address(page: Any) -> None:
    page.open("#/features?q=fires&source=batch-topk&grades=1%2C2&sort=max")
    assert page.js("return document.getElementById('search').value") == "fires"
    found = names(page)
    page.choose("sort by", "sum")
    page.choose("sort by", "max")
    assert names(page) == found
    assert page.address == "#/features?q=fires&source=batch-topk&grades=1%2C2&sort=max"


def test_a_feature_is_an_address_and_back_returns_to_the_list(page: Any) -> None:
    page.open("#/features?source=batch-topk")
    first = names(page)[0]
    page.click(LINES)
    page.ready(f"#/feature/batch-topk/{first}")
    assert page.texts("h1") == [first]
    assert page.texts(".trail .muted") == ["1 of 40"]
    page.chrome.back()
    page.ready("#/features?source=batch-topk")
    assert page.texts(".status") == ["40 of 52 features"]


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("#/feature/batch-topk/nothing", "no feature nothing of batch-topk"),
        ("#/document/elsewhere", "not among those kept whole"),
        ("#/component/L9.q_proj", "no component L9.q_proj"),
        ("#/nonsense", "no page nonsense"),
        ("#/feature/%E0%A4%A/x", "no feature x"),
    ],
)
def test_an_address_that_leads_nowhere_says_so(page: Any, address: str, says: str) -> None:
    page.open(address)
    assert says in page.texts("main")[0]


# keys


def test_keys_lead_through_the_list_and_from_feature_to_feature(page: Any) -> None:
    page.open("#/features?source=batch-topk")
    order = names(page)
    page.keys("j", "j", "k", "j")
    assert page.js("return document.querySelector('[aria-current=true] .line-name').textContent") == order[1]
    page.keys(Keys.ENTER)
    page.ready(f"#/feature/batch-topk/{order[1]}")
    page.keys("j")
    page.ready(f"#/feature/batch-topk/{order[2]}")
    page.keys("k")
    page.ready(f"#/feature/batch-topk/{order[1]}")
    page.keys(Keys.ESCAPE)
    page.ready("#/features?source=batch-topk")
    assert page.js("return document.querySelector('[aria-current=true] .line-name').textContent") == order[1]


def test_slash_searches_from_everywhere_and_typing_is_no_command(page: Any) -> None:
    page.open("#/components")
    page.keys("/")
    page.ready("#/features")
    page.keys("/")
    page.keys("jkt")
    assert page.js("return document.activeElement.id + document.activeElement.value") == "searchjkt"
    assert page.js("return document.documentElement.dataset.theme") == "light"
    page.keys(Keys.ESCAPE)
    assert page.js("return document.activeElement.value") == ""


def test_n_and_p_go_through_the_strong_tokens(page: Any) -> None:
    page.open("#/feature/batch-topk/latent7")
    places = []
    for key in ("n", "n", "p"):
        page.keys(key)
        places.append(page.js("return Number(document.querySelector('.whole .chosen').dataset.at)"))
    assert places[0] < places[1]
    assert places[2] == places[0]
    levels = page.js("return [...document.querySelectorAll('.whole .t')].map(t => Number(t.dataset.level))")
    assert abs(levels[places[0]]) >= max(map(abs, levels)) / 2


def test_the_theme_follows_the_system_until_somebody_chooses(page: Any) -> None:
    assert page.js("return document.documentElement.dataset.theme") == "light"
    page.look(dark=True)
    page.until(lambda: page.js("return document.documentElement.dataset.theme") == "dark", "dark")
    page.keys("t")
    assert page.js("return document.documentElement.dataset.theme") == "light"
    page.open("#/features")
    assert page.js("return document.documentElement.dataset.theme") == "light"
    page.keys("?")
    assert page.js("return document.getElementById('keys').open") is True
    page.keys(Keys.ESCAPE)
    assert page.js("return document.getElementById('keys').open") is False


# what pages show


def test_a_document_is_coloured_by_any_feature_and_tells_what_is_strong_on_a_token(page: Any, site: Path) -> None:
    page.open("#/document/trace-0003?source=batch-topk&feature=latent7")
    before = page.js("return [...document.querySelectorAll('.text .t')].map(t => t.dataset.level)")
    search(page, "L1.up_proj+")
    page.click(".picks button")
    page.until(lambda: page.address.endswith("feature=L1.up_proj%2B"), "the address of the chosen feature")
    after = page.js("return [...document.querySelectorAll('.text .t')].map(t => t.dataset.level)")
    assert before != after
    assert {int(level) > 0 for level in after} == {True, False}
    page.click(".text .t[data-at='17']")
    assert "Strongest on" in page.texts(".reader-side h2")[0]
    number = next(
        d["number"]
        for d in unpack((site / "data" / "run.js").read_bytes())["documents"]
        if d["document"] == "trace-0003"
    )
    top = unpack((site / "data" / "documents" / str(number) / "top.js").read_bytes())
    stored = catalogue(site)
    expected = {stored["feature"][row[i]] for rows in top.values() for row in [rows[17]] for i in range(0, len(row), 2)}
    assert set(page.texts(".picks .line-name")) == expected


def test_an_attributed_token_shows_its_sources_over_tokens_and_components(page: Any) -> None:
    page.open("#/document/trace-0003")
    assert page.js("return [...document.querySelectorAll('.text .t.attributed')].map(t => t.dataset.at)") == ["90"]
    page.click(".text .t[data-at='90']")
    assert page.texts(".reader-side h2")[0].startswith("Where ")
    assert page.texts(".picks .line-name") == [
        "L1.down_proj", "L1.up_proj", "L1.q_proj", "L0.down_proj", "L0.up_proj", "L0.q_proj", "batch-topk latent7",
    ]  # fmt: skip
    assert page.texts(".picks .num")[:2] == ["−6.00", "+5.00"]
    lines = page.texts(".picks .line-text")
    assert lines[5] == "+0.750 lost when it alone is switched off"
    assert lines[0] == "not switched off"
    assert "not attributed +0.250" in page.texts(".about")[0]

    def coloured() -> dict[str, int]:
        found: dict[str, int] = page.js(
            "return Object.fromEntries([...document.querySelectorAll('.text .t')]"
            ".filter(t => t.dataset.level !== '0').map(t => [t.dataset.at, Number(t.dataset.level)]))"
        )
        return found

    assert coloured() == {"10": 167, "17": -333, "24": 500, "31": -667, "38": 833, "45": -1000}
    page.click(".picks li:nth-child(2) button")
    assert coloured() == {"38": 833}
    page.click(".picks li:nth-child(7) button")
    assert coloured() == {"12": 250}
    page.click(".text .t[data-at='17']")
    page.until(lambda: "Strongest on" in page.texts(".reader-side h2")[0], "the features of another token")
    assert page.js("return document.querySelector('.text .t[data-at=\"90\"]').classList.contains('attributed')")


def test_a_component_has_its_numbers_and_leads_to_its_latents(page: Any) -> None:
    page.open("#/components")
    page.click(".heatmap a[aria-label^='L1.down_proj']")
    page.ready("#/component/L1.down_proj")
    text = page.texts("main")[0]
    for needed in ("rank by KL1 of 6", "0.0600", "95 % interval", "[0.0480, 0.0780]", "scaling4.00"):
        assert needed in text
    latent = page.texts("table.report th[scope=row] a")[0]
    page.js("document.querySelector('table.report th[scope=row] a').click()")
    page.ready(f"#/feature/batch-topk/{latent}")


def test_a_failed_explanation_shows_why_and_the_reply(page: Any) -> None:
    page.open("#/feature/adapter-activations/L0.up_proj-")
    text = page.texts(".explanation")[0]
    assert "no explanation" in text
    assert "Why there is no grade: the reply was not JSON" in text
    assert "</script><script>alert(2)</script>" in text


def test_scores_enrichment_and_sampled_contexts_stand_on_the_feature(page: Any) -> None:
    page.open("#/feature/batch-topk/latent6")
    text = page.texts("main")[0]
    for needed in (
        "detection by lexical0.850 [0.6",
        "0.91010 + 10, 1 unanswered",
        "<i>Wait</i> (event)12.5 [7.10, 22.0]",
    ):
        assert needed in text
    assert "A sample of all its strengths" in text
    page.open("#/features?source=batch-topk&sort=score")
    assert page.texts(f"{LINES} .line-score")[:2] == ["0.85", "0.85"]


def test_what_a_feature_writes_and_causes_stands_on_its_page(page: Any) -> None:
    page.open("#/feature/batch-topk/latent7")
    text = page.texts(".causes")[0]
    for needed in (
        "promotes' wait' '</script>'< 0.001",
        "raises on text (nats)'‹U+202E›' +0.300 ± 0.0500, 'b' +0.200 ± 0.0500",
        "read by (cosine)L1.down_proj −0.2500.020",
        "against 200 random directions",
        "switched off: KL (nats)active on 30 of 480 tokens0.0200[0.0100, 0.0300]",
        "dose 10: kl (nats)in text; at rest 0; 2.00 times its normal size+0.500[+0.400, +0.600]+0.400",
        "over randomyesp 0.0018",
    ):
        assert needed in text
    page.open("#/feature/adapter-activations/L1.up_proj-")
    text = page.texts(".causes")[0]
    assert "no direct lens: up_proj does not write into the stream" in text
    assert "Steered: not known, this run steers batch-topk/latent7." in text
    assert "Both its signs together." in text


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_in_every_look(page: Any, name: str, look: str) -> None:
    page.look(dark=look == "dark", phone=look == "phone")
    page.open(PAGES[name])
    page.shot(f"{name}-{look}")
    assert len(page.texts("main")[0]) > 40
    over = page.js("return document.scrollingElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0, "the page is wider than the screen"
    nameless = page.js(
        "return [...document.querySelectorAll('a, button, input, select, [role=img], [role=region]')].filter(e =>"
        " !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.js("return document.querySelectorAll('h1').length") == 1
    assert weak_contrasts(page) == []


def weak_contrasts(page: Any) -> list[Any]:
    """Visible text whose contrast with what is painted behind it is below 4.5 (WCAG AA)."""
    return page.js(
        """
        const parse = (c) => {
          const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number);
          return c.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
        };
        const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
        const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
          .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
          .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (e) => { if (!e) return [255, 255, 255];
          return over(parse(getComputedStyle(e).backgroundColor), ground(e.parentElement)); };
        const weak = [];
        for (const e of document.querySelectorAll("main *, header *")) {
          const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
          if (!own || e.closest("svg, .hidden, noscript, option") || !e.offsetParent) continue;
          const back = ground(e);
          const text = over(parse(getComputedStyle(e).color), back);
          const [a, b] = [light(back), light(text)].sort((x, y) => y - x);
          const ratio = (a + 0.05) / (b + 0.05);
          const least = e.classList.contains("grade") ? 3 : 4.5; // a sign is a picture
          if (ratio < least) weak.push([e.className, e.textContent.slice(0, 30), ratio]);
        }
        return weak.slice(0, 5);
        """
    )


def test_a_document_is_coloured_by_how_far_the_models_are_apart_after_each_token(page: Any) -> None:
    def levels() -> dict[int, int]:
        pairs = page.js(
            "return [...document.querySelectorAll('.whole .t, .text .t')].map(t => [t.dataset.at, t.dataset.level])"
        )
        return {int(at): int(level) for at, level in pairs if int(level)}

    page.open("#/document/trace-0001?source=batch-topk&feature=latent7")
    assert page.texts(".kls button") == ["KL of adapter and base", "KL of full fine-tune and base"]
    page.click(".kls button")
    page.frame()
    assert levels() == {30: 1000, 31: 250}
    assert page.address == "#/document/trace-0001?kl=adapter"
    assert (
        "mean 0.0250 nats over 100 tokens from token 20, largest 2.00; 80 % of it in the top 1 % of tokens"
        in page.texts(".about")[0]
    )
    page.open("#/document/trace-0001?kl=full")
    assert levels() == {109: 1000, 108: 250}
    assert (
        page.js("return document.querySelector('.kls [aria-pressed=true]').textContent")
        == "KL of full fine-tune and base"
    )
    page.open("#/document/trace-0002")
    assert page.texts(".kls button") == ["KL of adapter and base"], "no full fine-tune was measured"
    page.open("#/document/trace-0003")
    assert page.texts(".kls button") == [], "it was not measured"
