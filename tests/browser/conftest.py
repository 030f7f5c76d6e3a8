"""Pages in a real headless Chromium, opened from their folder. Run by `make test-dashboard`, which installs it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from harness.render.dashboard.site import write_dashboard

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "dashboard-shots"
PATIENCE_S = 10.0
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--window-size=1360,900",
)  # fmt: skip


@pytest.fixture(scope="session")
def studies() -> ModuleType:
    """Makers of whole studies."""
    from tests.render.dashboard import study as makers

    return makers


@pytest.fixture(scope="session")
def study(studies: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small study with hostile text."""
    return studies.make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def site(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its dashboard, all documents kept whole."""
    out = tmp_path_factory.mktemp("site") / "dashboard"
    write_dashboard(study.db, artifacts=study.artifacts, out=out, n_documents=12)
    return out


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """One browser, with a profile of its own."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.exit("these tests need Debian's chromium and chromium-driver: make test-dashboard installs them", 3)
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options=options, service=Service(driver))
    yield chrome
    chrome.quit()


@dataclass
class Page:
    """A dashboard in the browser."""

    chrome: Chrome
    site: Path

    def open(self, address: str = "#/") -> float:
        """Open an address as a new page; returns the seconds until it is drawn."""
        self.chrome.get("about:blank")
        start = time.monotonic()
        self.chrome.get(f"{(self.site / 'index.html').as_uri()}{address}")
        self.ready(address)
        return time.monotonic() - start

    def ready(self, address: str) -> None:
        """Wait until the page of this address is drawn."""
        self.until(lambda: self.js("return document.querySelector('main').dataset.ready") == address, address)

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"not in {PATIENCE_S} s: {what} (at {self.address})"
            time.sleep(0.02)

    def js(self, code: str, *arguments: object) -> Any:
        """Run JavaScript in the page."""
        return self.chrome.execute_script(code, *arguments)

    def texts(self, selector: str) -> list[str]:
        """The text of all elements, as the document holds it."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)

    def click(self, selector: str) -> None:
        """Click an element."""
        self.chrome.find_element(By.CSS_SELECTOR, selector).click()

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        ActionChains(self.chrome).send_keys(*keys).perform()

    def choose(self, label: str, value: str) -> None:
        """Choose in a select."""
        self.js(
            "const s = [...document.querySelectorAll('select')].find(s => s.ariaLabel === arguments[0]);"
            "s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
            label,
            value,
        )
        self.frame()

    def frame(self) -> None:
        """Let the page draw twice."""
        self.chrome.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    @property
    def address(self) -> str:
        """What the address bar says after the file's name."""
        return self.js("return location.hash")

    def look(self, *, dark: bool = False, phone: bool = False) -> None:
        """Set the system's theme and the size of the screen."""
        theme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        if phone:
            size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
            self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        else:
            self.chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def shot(self, name: str) -> None:
        """Keep a picture of what is seen."""
        SHOTS.mkdir(exist_ok=True)
        self.frame()
        self.chrome.save_screenshot(str(SHOTS / f"{name}.png"))


def requests(chrome: Chrome) -> list[str]:
    """Addresses of everything that was asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # The browser's own start page may still be loading when the first test begins: its requests are not the pages'.
    return [p["request"]["url"] for p in asked if not p["documentURL"].startswith("chrome:")]


@pytest.fixture
def page(chrome: Chrome, site: Path) -> Iterator[Page]:
    """The small dashboard; afterwards nothing was asked for outside its folder, and nothing went wrong."""
    yield from watched(chrome, site)


def watched(chrome: Chrome, site: Path) -> Iterator[Page]:
    """A page that is watched for requests and errors."""
    chrome.get_log("browser"), chrome.get_log("performance")
    opened = Page(chrome, site)
    opened.look()
    opened.open()
    opened.js("localStorage.clear()")
    yield opened
    asked = requests(chrome)
    assert asked
    outside = [url for url in asked if not url.startswith((site.as_uri() + "/", "about:blank"))]
    assert not outside
    wrong = [entry for entry in chrome.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert not wrong
