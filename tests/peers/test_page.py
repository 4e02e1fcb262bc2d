"""The page in a real Chromium: it loads, filters, follows the record, works by keyboard, and takes names for names."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ..support import DaemonProcess, run_client
from .programs import debian, missing

TOKEN = "correct-horse-battery-staple"
HTTP = {"PROMETHEUS_ENABLED": "1", "PROMETHEUS_PORT": "0"}
OPTIONS = (
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = [
    "<img src=x onerror=hacked=1>",
    '"><script>hacked=1</script>',
    "__proto__",
    "constructor",
    "javascript:hacked=1",
    "{{hacked=1}} & =?#%41\n second line",
    "\u202eright to left",
    "w" * 256,
]

RECORD = """
import json
for skill, org, good, bad, latency_ms in json.loads(sys.argv[1]):
    for number in range(good + bad):
        client.record_skill_execution(
            skill, number < good, latency_ms * (1 + number / 10), f"u{number % 3}", org, error_type="KeyError"
        )
    client.record_skill_rating(skill, 4, "u1", org)
assert client.flush(60)
"""
SKILLS = [("parse_json", "acme", 30, 3, 2.0), ("summarise", "acme", 20, 10, 250.0), ("rank", "zeta", 25, 0, 20.0)]

# Texts whose contrast with what is behind them is below WCAG's AA: 4.5 : 1, or 3 : 1 for large ones.
FAINT = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => rgb(colour).slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const ground = getComputedStyle(at).backgroundColor;
      if (rgb(ground)[3] === 255) return ground;
    }
    return "white";
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) => element.checkVisibility()
    && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
  return texts.flatMap((element) => {
    const style = getComputedStyle(element);
    const [one, other] = [light(style.color), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    return ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5) ? [`${element.textContent}: ${ratio.toFixed(1)}`] : [];
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. Not for the session: it runs an event loop in the main thread, where others need theirs."""
    if sys.platform != "linux":
        missing("the browser comes from Debian")
    root = debian("chromium", platform.freedesktop_os_release().get("VERSION_CODENAME", ""), with_needs=True)
    libraries = {str(path.parent) for path in (root / "usr/lib").rglob("*.so*")}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=root / "usr/lib/chromium/chromium",
            args=OPTIONS,
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(sorted(libraries))},
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with a few skills, ordinary and hostile ones."""
    with DaemonProcess(tmp_path_factory.mktemp("page"), env=HTTP) as daemon:
        record(daemon, *SKILLS, *((name, "<b>org</b>", 2, 1, 5.0) for name in HOSTILE))
        yield daemon


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a fresh profile. At its end, nothing must have been said on the console."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert not said


def record(daemon: DaemonProcess, *skills: tuple[str, str, int, int, float]) -> None:
    """Record executions and a rating of each skill, in a process of its own, until they are committed."""
    run_client(RECORD, daemon.env, json.dumps(skills))


def url(daemon: DaemonProcess, place: str = "") -> str:
    """The page's address."""
    return f"http://127.0.0.1:{urlsplit(daemon.ask('status')['http']).port}/{place}"


def names(page: Page) -> list[str]:
    """The skills in the table, in their order."""
    return page.locator("tbody a").all_text_contents()


def cell(page: Page, skill: str, column: int) -> Any:
    """A cell of a skill's row."""
    return page.locator("tbody tr", has=page.get_by_role("link", name=skill, exact=True)).locator("td").nth(column)


class TestBoard:
    """All skills."""

    def test_it_shows_what_was_recorded(self, page: Page, daemon: DaemonProcess) -> None:
        """Leaderboard, totals, ledger and sinks are there, and say what the API says."""
        page.goto(url(daemon))
        expect(page.locator("#live")).to_have_attribute("data-state", "live")
        assert names(page)[:3] == ["parse_json", "summarise", "rank"]
        expect(cell(page, "parse_json", 3)).to_have_text("33")
        expect(cell(page, "summarise", 4)).to_contain_text("66.7 %")
        stored = daemon.ask("status")["ledger"]["stored"]
        expect(page.locator("aside")).to_contain_text(f"{stored:,} attempted")
        expect(page.locator("aside .badge").first).to_have_text("balances")
        expect(page.locator(".plot canvas")).to_be_visible()

    def test_it_follows_the_record(self, page: Page, daemon: DaemonProcess) -> None:
        """A skill recorded while the page is open is on it within five seconds, without a reload."""
        page.goto(url(daemon))
        expect(page.locator("#live")).to_have_attribute("data-state", "live")
        record(daemon, ("brand_new", "fresh", 3, 0, 1.0))
        expect(page.get_by_role("link", name="brand_new")).to_be_visible(timeout=5000)
        expect(page.locator("#org option", has_text="fresh")).to_be_attached()

    def test_filters_are_in_the_address(self, page: Page, daemon: DaemonProcess) -> None:
        """Choosing an org narrows everything, the address says so, and going back undoes it."""
        page.goto(url(daemon))
        page.get_by_label("Org").select_option("zeta")
        expect(page.locator("tbody a")).to_have_text(["rank"])
        assert page.url.endswith("#org=zeta")
        page.get_by_label("Period").select_option("7")
        expect(page).to_have_url(url(daemon, "#days=7&org=zeta"))
        page.reload()
        expect(page.get_by_label("Org")).to_have_value("zeta")
        expect(page.locator("tbody a")).to_have_text(["rank"])
        page.go_back()
        page.go_back()
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()

    def test_sorting_by_keyboard(self, page: Page, daemon: DaemonProcess) -> None:
        """A column head is a button: Enter ranks by it, again turns it round, and the focus stays on it."""
        page.goto(url(daemon))
        expect(page.get_by_role("link", name="rank")).to_be_visible()
        head = page.locator("th", has_text="p95")
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "ascending")
        expect(page.locator("tbody a").nth(0)).to_have_text("parse_json")
        page.keyboard.press("Enter")
        expect(head).to_have_attribute("aria-sort", "descending")
        expect(page.locator("tbody a").last).to_have_text("parse_json")
        expect(head.get_by_role("button")).to_be_focused()
        assert page.locator("th[aria-sort]").count() == 1

    def test_a_skill_by_keyboard(self, page: Page, daemon: DaemonProcess) -> None:
        """A link leads to the skill, and the browser's back to the board."""
        page.goto(url(daemon))
        page.get_by_role("link", name="summarise").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("summarise")
        page.go_back()
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()

    def test_the_focus_stays_when_rows_move(self, page: Page, tmp_path: Path) -> None:
        """A skill that overtakes another while its link has the focus keeps it."""
        with DaemonProcess(tmp_path, env=HTTP) as daemon:
            record(daemon, *SKILLS)
            page.goto(url(daemon))
            link = page.get_by_role("link", name="rank")
            link.focus()
            record(daemon, ("rank", "zeta", 50, 0, 20.0))
            expect(page.locator("tbody a").first).to_have_text("rank")
            expect(link).to_be_focused()


class TestSkill:
    """One skill."""

    def test_it_shows_all_there_is(self, page: Page, daemon: DaemonProcess) -> None:
        """Numbers, both charts, the distribution, ratings, error types, users and orgs."""
        page.goto(url(daemon, "#skill=summarise"))
        expect(page.locator(".tile").first).to_contain_text("30")
        expect(page.locator(".plot canvas")).to_have_count(2)
        assert page.locator(".histogram > span").count() > 5
        expect(page.locator(".card", has_text="Error types")).to_contain_text("KeyError10")
        expect(page.locator(".card", has_text="Orgs")).to_contain_text("acme")

    def test_an_unknown_skill_is_a_problem_that_says_what_to_do(self, browser: Browser, daemon: DaemonProcess) -> None:
        """It names what may have been meant, and has a link back."""
        page = browser.new_page()  # the console tells of the 404
        page.goto(url(daemon, "#skill=parse_jsn"))
        expect(page.get_by_role("alert")).to_contain_text("did you mean 'parse_json'")
        page.get_by_role("alert").get_by_role("link").click()
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()
        page.close()

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_names_are_shown_literally(self, page: Page, daemon: DaemonProcess, name: str) -> None:
        """In the table, the heading, the title and the address: text, and nothing that runs."""
        page.goto(url(daemon))
        page.locator("tbody a").filter(has_text=name.split("\n")[0]).first.click()
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.locator("h1").text_content() == name
        expect(page.locator(".tile").first).to_contain_text("3")
        assert page.evaluate("typeof hacked") == "undefined"
        assert page.locator("main img, main script, main b:not(.mark b)").count() == 0


class TestStates:
    """What the page says when there is nothing, or nobody."""

    def test_nothing_recorded(self, page: Page, tmp_path: Path) -> None:
        """An empty daemon's page says how to record."""
        with DaemonProcess(tmp_path, env=HTTP) as daemon:
            page.goto(url(daemon))
            expect(page.locator("tbody")).to_contain_text("Nothing was recorded")
            expect(page.locator(".plot")).to_have_text("No call in this period.")
            expect(page.locator(".plot canvas")).to_be_hidden()  # no scale of nothing
            page.get_by_label("Period").select_option("3660")
            expect(page.locator("tbody")).to_contain_text("record_skill_execution")

    def test_a_daemon_that_goes_and_comes_back(self, browser: Browser, tmp_path: Path) -> None:
        """The page says that nobody answers and how to start the daemon, and goes on by itself when it is back."""
        page = browser.new_page()  # the console tells of refused connections
        with DaemonProcess(tmp_path, env=HTTP) as daemon:
            address = url(daemon)
            page.goto(address)
            expect(page.locator("#live")).to_have_attribute("data-state", "live")
            daemon.kill()
            expect(page.get_by_role("alert")).to_contain_text("skillmeter run")
            daemon.start({"PROMETHEUS_PORT": str(urlsplit(address).port)})
            expect(page.get_by_role("alert")).to_be_hidden()
            expect(page.locator("#live")).to_have_attribute("data-state", "live")
        page.close()

    def test_it_asks_for_the_token(self, browser: Browser, tmp_path: Path) -> None:
        """Off loopback it shows nothing before the right token was given, which it keeps out of the address."""
        page = browser.new_page()  # the console tells of the 401s
        env = {**HTTP, "PROMETHEUS_HOST": "0.0.0.0", "ANALYTICS_HTTP_TOKEN": TOKEN}
        with DaemonProcess(tmp_path, env=env) as daemon:
            record(daemon, SKILLS[0])
            page.goto(url(daemon))
            field = page.get_by_label("This daemon asks for its token")
            field.fill("wrong")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("That is not the token")
            assert not names(page)
            field.fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.get_by_role("link", name="parse_json")).to_be_visible()
            assert TOKEN not in page.url
        page.close()

    def test_nothing_comes_from_elsewhere(self, page: Page, daemon: DaemonProcess) -> None:
        """Every request goes to the daemon."""
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url(daemon, "#skill=parse_json"))
        expect(page.locator(".plot canvas")).to_have_count(2)
        assert {urlsplit(address).netloc for address in asked} == {urlsplit(url(daemon)).netloc}

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("place", ["", "#skill=summarise", "#skill=nobody"])
    def test_every_text_can_be_read(self, browser: Browser, daemon: DaemonProcess, scheme: Any, place: str) -> None:
        """In the light and in the dark, texts have the contrast of WCAG's AA."""
        page = browser.new_page(color_scheme=scheme)
        page.goto(url(daemon, place))
        expect(page.locator("#live")).to_have_attribute("data-state", "problem" if "nobody" in place else "live")
        assert page.evaluate(FAINT) == []
        page.close()

    @pytest.mark.parametrize("place", ["", "#skill=" + "w" * 256])
    def test_a_phone_needs_no_sideways_scrolling(self, browser: Browser, daemon: DaemonProcess, place: str) -> None:
        """On a narrow screen the page is as wide as the screen, whatever the names are."""
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(url(daemon, place))
        expect(page.locator("#live")).to_have_attribute("data-state", "live")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.close()
