"""The page in a real Chromium: it loads, filters, follows the record, works by keyboard, and takes names for names."""

import json
import os
import platform
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ..support import HTTP, DaemonProcess, run_client, wait_until
from .programs import debian, missing

TOKEN = "correct-horse-battery-staple"
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

OLDER = """
import time
for days in (0, 0.01, 2, 5):
    client.record_skill_execution("parse_json", True, 1.0, timestamp=time.time() - 86_400 * days)
assert client.flush(60)
"""

# What is written on a canvas, since it was last wiped.
WRITTEN = """
window.written = [];
const { clearRect, fillText } = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.clearRect = function (...where) {
  written = [];
  return clearRect.call(this, ...where);
};
CanvasRenderingContext2D.prototype.fillText = function (text, ...where) {
  written.push(text);
  return fillText.call(this, text, ...where);
};
"""

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


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with more skills than are shown at first: s119 is the most used, s000 the least."""
    with DaemonProcess(tmp_path_factory.mktemp("many"), env=HTTP) as daemon:
        record(daemon, *((f"s{number:03}", "acme", number + 1, 0, 1.0) for number in range(120)))
        yield daemon


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon with more orgs and skills than an answer holds: s0000 to s1099, each once, in orgs of their number."""
    with DaemonProcess(tmp_path_factory.mktemp("crowded"), env=HTTP) as daemon:
        record(daemon, *((f"s{number:04}", f"org {number:04}", 1, 0, 1.0) for number in range(1100)))
        yield daemon


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon of one test. Named before the page, it is there until the page is closed."""
    with DaemonProcess(tmp_path, env=HTTP) as daemon:
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
    row = page.locator("tbody tr", has=page.get_by_role("link", name=skill, exact=True))
    return row.locator("th, td").nth(column)


def written(page: Page, wanted: str) -> list[str]:
    """The texts of a form on the canvas that was drawn last."""
    return [text for text in page.evaluate("written") if re.fullmatch(wanted, text)]


def refreshed(page: Page) -> None:
    """Have it refresh, and wait until it has."""
    with page.expect_response("**/api/v1/orgs*"):
        page.evaluate("dispatchEvent(new Event('hashchange'))")
    expect(page.locator("#live")).to_have_attribute("data-state", "live")


def kept(page: Page) -> tuple[int, int]:
    """How many nodes and listeners the browser keeps for the page, garbage aside."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    session.send("HeapProfiler.collectGarbage")
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return metrics["Nodes"], metrics["JSEventListeners"]


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
        expect(page.locator("tbody a").first).to_have_text("summarise")
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

    def test_the_focus_stays_when_rows_move(self, fresh: DaemonProcess, page: Page) -> None:
        """A skill that overtakes another while its link has the focus keeps it."""
        record(fresh, *SKILLS)
        page.goto(url(fresh))
        link = page.get_by_role("link", name="rank")
        link.focus()
        record(fresh, ("rank", "zeta", 50, 0, 20.0))
        expect(page.locator("tbody a").first).to_have_text("rank")
        expect(link).to_be_focused()

    @pytest.mark.parametrize(
        "label", ["Skill", "Over time", "Calls", "Success", "p50", "p95", "p99", "Rating", "Users"]
    )
    def test_every_column_can_be_sorted_by(self, page: Page, daemon: DaemonProcess, label: str) -> None:
        """Either way, all the skills stay, and who listens is told by which column and which way."""
        page.goto(url(daemon, "#sort=rating" if label == "Calls" else ""))
        expect(page.get_by_role("rowheader", name="parse_json")).to_be_visible()
        all_names = sorted(names(page))
        slowest_or_last = {"Skill": all_names[-1], "p50": "summarise", "p95": "summarise", "p99": "summarise"}
        head = page.get_by_role("columnheader", name=label, exact=True)
        ways = ["ascending", "descending"] if label in ("Skill", "p50", "p95", "p99") else ["descending", "ascending"]
        for way in ways:
            head.get_by_role("button").press("Enter")
            expect(head).to_have_attribute("aria-sort", way)
            assert sorted(names(page)) == all_names
            if way == "descending" and label in slowest_or_last:
                assert names(page)[0] == slowest_or_last[label]

    def test_little_evidence_neither_wins_nor_loses(self, fresh: DaemonProcess, page: Page) -> None:
        """Turned round, a column begins with what is surely the worst, not with what was hardly tried."""
        skills = [
            ("fails_often", "acme", 20, 80, 5.0),
            ("fails_once", "acme", 0, 1, 9000.0),
            ("works", "acme", 90, 10, 1.0),
        ]
        record(fresh, *skills)
        page.goto(url(fresh, "#sort=success_rate&reversed=1"))
        expect(page.locator("tbody a")).to_have_text(["fails_often", "fails_once", "works"])
        page.goto(url(fresh, "#sort=performance&reversed=1"))
        expect(page.locator("tbody a")).to_have_text(["fails_often", "works", "fails_once"])

    def test_coming_back_from_a_skill(self, page: Page, many: DaemonProcess) -> None:
        """The board is where it was left, and the focus on the skill that was looked at."""
        page.goto(url(many))
        link = page.get_by_role("link", name="s050")
        link.focus()
        top = page.evaluate("scrollY")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("s050")
        page.go_back()
        expect(link).to_be_focused()
        assert top > 0
        assert page.evaluate("scrollY") == top


class TestManySkills:
    """More than are shown at first: what is looked for is found among all."""

    def test_the_rest_is_shown_on_request(self, page: Page, many: DaemonProcess) -> None:
        """A button shows all, which the address tells, and takes it back; the focus stays on it."""
        page.goto(url(many))
        expect(page.locator(".foot")).to_contain_text("The first 100 of 120 skills.")
        assert len(names(page)) == 100
        page.get_by_role("button", name="Show all").press("Enter")
        expect(page.locator("tbody tr")).to_have_count(120)
        page.reload()
        expect(page.locator("tbody tr")).to_have_count(120)
        button = page.get_by_role("button", name="Show the first 100")
        button.press("Enter")
        expect(page.locator("tbody tr")).to_have_count(100)
        expect(page.locator(".foot button")).to_be_focused()

    def test_the_least_are_the_least_of_all(self, page: Page, many: DaemonProcess) -> None:
        """Turned round, or in an order that the page makes, a column begins with skills beyond the first hundred."""
        page.goto(url(many, "#reversed=1"))
        expect(page.locator("tbody a").first).to_have_text("s000")
        page.goto(url(many, "#sort=skill"))
        expect(page.locator("tbody a").first).to_have_text("s000")
        expect(page.locator("tbody tr")).to_have_count(100)

    def test_one_is_found_by_its_name(self, page: Page, many: DaemonProcess) -> None:
        """Also one that is not shown; the address keeps what was looked for, and no other name is an answer too."""
        page.goto(url(many))
        expect(page.locator("tbody tr")).to_have_count(100)
        page.get_by_role("searchbox").press_sequentially("S00")
        expect(page.locator("tbody a")).to_have_text([f"s00{number}" for number in range(9, -1, -1)])
        page.reload()
        expect(page.locator("tbody a")).to_have_count(10)
        expect(page.get_by_role("searchbox")).to_have_value("S00")
        page.get_by_role("searchbox").fill("nothing like it")
        expect(page.locator("tbody")).to_contain_text("No skill has “nothing like it” in its name")

    def test_one_that_was_not_used_there_is_found_too(self, page: Page, daemon: DaemonProcess) -> None:
        """It is not said that there is none, when there is one elsewhere; the link leads to it."""
        page.goto(url(daemon, "#org=zeta&find=SUMMARISE"))
        expect(page.locator("tbody")).to_contain_text("No skill in this table has “summarise” in its name.")
        expect(page.locator(".others")).to_have_text("Not in this table: summarise")
        page.goto(url(daemon, "#find=SUMMARISE"))
        expect(page.locator("tbody a")).to_have_text(["summarise"])
        expect(page.locator(".others")).to_be_hidden()


class TestVeryMany:
    """More orgs and skills than an answer holds: each can be found, and looked at."""

    def test_any_org_can_be_chosen(self, page: Page, crowded: DaemonProcess) -> None:
        """A field offers those that have in them what is typed; a part that is only one's chooses it."""
        page.goto(url(crowded))
        field = page.get_by_label("Org").and_(page.get_by_placeholder("All orgs"))
        field.press_sequentially("ORG 109")
        expect(page.locator("datalist option")).to_have_count(10)
        assert page.locator("datalist option").first.get_attribute("value") == "org 1090"
        field.press_sequentially("7")
        field.press("Enter")
        expect(page.locator("tbody a")).to_have_text(["s1097"])
        expect(field).to_have_value("org 1097")
        expect(page).to_have_url(url(crowded, "#org=org+1097"))
        page.reload()
        expect(field).to_have_value("org 1097")
        expect(page.locator("tbody a")).to_have_text(["s1097"])
        field.fill("")
        field.press("Enter")
        expect(page).to_have_url(url(crowded, "#"))
        expect(page.locator(".foot")).to_contain_text("of 1,100 skills")

    def test_an_org_that_is_not_there(self, page: Page, crowded: DaemonProcess) -> None:
        """What several have in them, and what none has, is taken as it is typed, and nothing was recorded there."""
        page.goto(url(crowded))
        for typed in ("org 10", "nobody's"):
            page.get_by_placeholder("All orgs").fill(typed)
            page.get_by_placeholder("All orgs").press("Enter")
            expect(page.locator("tbody")).to_contain_text("Nothing was recorded in this period and org")
            expect(page.get_by_label("Org")).to_have_value(typed)

    def test_a_skill_beyond_those_that_are_looked_at(self, page: Page, crowded: DaemonProcess) -> None:
        """It is found by its name, and has a link."""
        page.goto(url(crowded))
        expect(page.locator(".foot")).to_contain_text("of 1,100 skills")
        page.get_by_role("searchbox", name="Find a skill").fill("s1099")
        expect(page.locator("tbody")).to_contain_text("No skill in this table has “s1099” in its name.")
        page.locator(".others").get_by_role("link", name="s1099").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("s1099")
        expect(page.locator(".tile").first).to_contain_text("1")


class TestSkill:
    """One skill."""

    def test_a_chart_by_keyboard(self, page: Page, daemon: DaemonProcess) -> None:
        """The arrow keys go from step to step, and show and tell its values, until the chart is left."""
        page.goto(url(daemon, "#skill=summarise"))
        chart = page.get_by_role("slider", name="Calls over time")
        expect(chart).to_have_attribute("aria-valuetext", re.compile("all: latest .*, highest 30"))
        page.get_by_role("button", name="Live").click()  # paused: what is told does not change under us
        chart.press("Home")
        expect(chart).to_have_attribute("aria-valuetext", re.compile(": all 30, failed 10$"))
        expect(chart.locator(".tip")).to_contain_text("all 30failed 10")
        chart.press("ArrowRight")
        expect(chart).to_have_attribute("aria-valuetext", re.compile(": all 0, failed 0$"))
        chart.press("Tab")
        expect(page.locator(".tip:visible")).to_have_count(0)

    def test_a_chart_stays_in_place_when_it_gets_dark(self, page: Page, daemon: DaemonProcess) -> None:
        """It is drawn in other colours, and each step is where it was."""
        page.goto(url(daemon, "#skill=summarise"))
        page.get_by_role("button", name="Live").click()
        expect(page.get_by_role("button", name="Paused")).to_be_visible()
        chart = page.get_by_role("slider", name="Calls over time")
        chart.press("Home")
        light = chart.screenshot(), chart.locator(".tip").get_attribute("style")
        page.emulate_media(color_scheme="dark")
        chart.press("Home")
        dark = chart.screenshot(), chart.locator(".tip").get_attribute("style")
        assert dark[0] != light[0]
        assert dark[1] == light[1]

    def test_an_org_that_never_called_it(self, page: Page, daemon: DaemonProcess) -> None:
        """It says that there is nothing, and which filters show what there is."""
        page.goto(url(daemon, "#skill=summarise&org=zeta"))
        expect(page.locator(".hint:visible")).to_contain_text("Take “All time” and “All orgs”")
        expect(page.locator(".tile").first).to_contain_text("0")
        page.get_by_label("Org").select_option("")
        expect(page.locator(".hint")).to_be_hidden()

    def test_it_shows_all_there_is(self, page: Page, daemon: DaemonProcess) -> None:
        """Numbers, both charts, the distribution, ratings, error types, users and orgs."""
        page.goto(url(daemon, "#skill=summarise"))
        expect(page.locator(".tile").first).to_contain_text("30")
        expect(page.locator(".plot canvas")).to_have_count(2)
        assert page.locator(".histogram > span").count() > 5
        expect(page.locator(".card", has_text="Error types")).to_contain_text("KeyError10")
        expect(page.locator(".card", has_text="Orgs")).to_contain_text("acme")

    def test_a_health_that_was_reported(self, fresh: DaemonProcess, page: Page) -> None:
        """It is shown for a skill of which nothing else is known, and beside what the record says."""
        run_client("client.update_health_score('new', 45); assert client.flush(60)", fresh.env)
        page.goto(url(fresh, "#skill=new"))
        health = page.locator(".tile", has_text="Health")
        expect(health).to_have_text("Health45of 100, as reported")
        record(fresh, ("new", "acme", 0, 0, 0.0))
        expect(health).to_have_text("Health80of 100; 45 reported")

    def test_an_unknown_skill_is_a_problem_that_says_what_to_do(self, browser: Browser, daemon: DaemonProcess) -> None:
        """It names what may have been meant, and has a link back."""
        page = browser.new_page()  # the console tells of the 404
        page.goto(url(daemon, "#skill=parse_jsn"))
        expect(page.get_by_role("alert")).to_contain_text("did you mean 'parse_json'")
        expect(page.locator("main > *")).to_be_hidden()  # no empty numbers
        page.get_by_role("alert").get_by_role("link").focus()
        with page.expect_response("**/api/v1/usage*"):
            pass  # it has asked again, and said nothing new
        with page.expect_response("**/api/v1/usage*"):
            pass
        expect(page.get_by_role("alert").get_by_role("link")).to_be_focused()
        page.keyboard.press("Enter")
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


class TestAxes:
    """What is written below a chart."""

    def test_times_fit_the_period(self, fresh: DaemonProcess, page: Page) -> None:
        """Days where steps are days, times of the day where they are not, whichever was first; and no time twice."""
        page.add_init_script(WRITTEN)
        run_client(OLDER, fresh.env)
        page.goto(url(fresh))
        day, time = r"[A-Z][a-z]{2} \d+", r"\d\d:\d\d(:\d\d)?"
        for days, wanted in (("30", day), ("1", time), ("7", day)):
            page.get_by_label("Period").select_option(days)
            below = wait_until(partial(written, page, wanted), what=f"{wanted} below the chart")
            assert len(set(below)) == len(below)

    def test_a_year_on_a_phone(self, fresh: DaemonProcess, page: Page) -> None:
        """However narrow the chart and long the time, there is a day to go by."""
        page.add_init_script(WRITTEN)
        page.set_viewport_size({"width": 360, "height": 740})
        run_client(OLDER.replace("5)", "400)"), fresh.env)
        page.goto(url(fresh, "#days=3660"))
        wait_until(partial(written, page, r"[A-Z][a-z]{2} \d+"), what="a day below the chart")


class TestStates:
    """What the page says when there is nothing, or nobody."""

    def test_nothing_recorded(self, fresh: DaemonProcess, page: Page) -> None:
        """An empty daemon's page says how to record; with ratings alone, that there is another order to look at."""
        page.goto(url(fresh))
        expect(page.locator("tbody")).to_contain_text("record_skill_execution")
        expect(page.locator(".plot")).to_have_text("No call in this period.")
        expect(page.locator(".plot canvas")).to_be_hidden()  # no scale of nothing
        page.get_by_label("Period").select_option("3660")
        expect(page.locator("tbody")).to_contain_text("record_skill_execution")
        record(fresh, ("rated", "acme", 0, 0, 0.0))
        expect(page.locator("tbody")).to_contain_text("Nothing to rank by this column")
        page.get_by_label("Org").select_option("acme")
        page.get_by_role("button", name="Rating").click()
        expect(page.locator("tbody a")).to_have_text(["rated"])

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

    def test_a_daemon_that_is_silent(self, browser: Browser, tmp_path: Path) -> None:
        """It is taken for away after a while, and is there again when it answers."""
        page = browser.new_page()  # the console tells of what was given up
        with DaemonProcess(tmp_path, env=HTTP) as daemon:
            record(daemon, SKILLS[0])
            page.goto(url(daemon))
            expect(page.get_by_role("link", name="parse_json")).to_be_visible()
            daemon.pause()
            expect(page.get_by_role("alert")).to_contain_text("does not answer", timeout=30_000)
            expect(page.get_by_role("link", name="parse_json")).to_be_visible()
            daemon.resume()
            expect(page.get_by_role("alert")).to_be_hidden(timeout=30_000)
        page.close()

    def test_numbers_are_of_the_period_that_is_named(self, browser: Browser, daemon: DaemonProcess) -> None:
        """Those of another one are not shown while there is no answer."""
        page = browser.new_page()  # the console tells of requests that fail
        page.goto(url(daemon))
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()
        page.route("**/api/**", lambda route: route.abort())
        expect(page.get_by_role("alert")).to_be_visible()
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()
        page.get_by_label("Period").select_option("7")
        expect(page.get_by_role("link", name="parse_json")).to_be_hidden()
        page.close()

    def test_a_daemon_that_cannot_answer(self, browser: Browser, daemon: DaemonProcess) -> None:
        """Its own trouble is told as such, with who helps, and not blamed on the filters."""
        page = browser.new_page()  # the console tells of the 503
        trouble = {"status": 503, "json": {"error": "the database is locked"}}
        page.route("**/api/v1/overview*", lambda route: route.fulfill(**trouble))
        page.goto(url(daemon))
        expect(page.get_by_role("alert")).to_contain_text("The database is locked. “skillmeter doctor” says what to do")
        page.close()

    def test_a_quarantine_that_cannot_be_seen(self, fresh: DaemonProcess, page: Page) -> None:
        """It says why, and shows the journals beside it."""
        quarantine = fresh.spool_dir / "quarantine"
        quarantine.symlink_to(quarantine)
        page.goto(url(fresh))
        facts = page.locator(".card", has_text="In quarantine")
        expect(facts).to_contain_text("Journals0")
        expect(facts).to_contain_text("In quarantinecannot be read: [Errno 40]")

    def test_it_asks_for_the_token(self, browser: Browser, tmp_path: Path) -> None:
        """Off loopback it shows nothing before the right token was given, which it keeps out of the address."""
        page = browser.new_page()  # the console tells of the 401s
        env = {**HTTP, "PROMETHEUS_HOST": "0.0.0.0", "ANALYTICS_HTTP_TOKEN": TOKEN}
        with DaemonProcess(tmp_path, env=env) as daemon:
            record(daemon, SKILLS[0])
            page.goto(url(daemon))
            field = page.get_by_label("This daemon asks for its token")
            for wrong in ("wrong", "\u2026"):
                field.fill(wrong)
                page.keyboard.press("Enter")
                expect(page.get_by_role("alert")).to_contain_text("That is not the token")
                page.reload()
            assert not names(page)
            field.fill(TOKEN)
            page.keyboard.press("Enter")
            expect(page.get_by_role("link", name="parse_json")).to_be_visible()
            assert TOKEN not in page.url
        page.close()

    def test_somebody_else_answers(self, page: Page, daemon: DaemonProcess) -> None:
        """What a proxy puts in an answer's place is not taken for one, nor for a fault of the page."""
        page.route("**/api/**", lambda route: route.fulfill(status=200, body="<h1>Log in</h1>"))
        page.goto(url(daemon))
        expect(page.get_by_role("alert")).to_contain_text("What answers is not the daemon")
        page.unroute("**/api/**")
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()

    def test_a_browser_that_stores_nothing(self, page: Page, daemon: DaemonProcess) -> None:
        """It only has to be given the token, if there is one, each time."""
        page.add_init_script("Object.defineProperty(window, 'sessionStorage', { get() { throw Error('denied'); } })")
        page.goto(url(daemon))
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()

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

    def test_the_focus_can_be_seen(self, page: Page, daemon: DaemonProcess) -> None:
        """Wherever the tab key leads, from the first link to the first skill, there is a ring around it."""
        page.goto(url(daemon))
        expect(page.get_by_role("link", name="parse_json")).to_be_visible()
        for _ in range(17):
            page.keyboard.press("Tab")
            style = page.evaluate("getComputedStyle(document.activeElement).outline")
            assert "solid 2px" in style, page.evaluate("document.activeElement.outerHTML")
        expect(page.get_by_role("link", name="parse_json")).to_be_focused()

    @pytest.mark.parametrize(("motion", "animation"), [("no-preference", "pulse"), ("reduce", "none")])
    def test_nothing_moves_for_who_asked_for_it(
        self, browser: Browser, daemon: DaemonProcess, motion: Any, animation: str
    ) -> None:
        """The one thing that moves stands still if the system says so."""
        page = browser.new_page(reduced_motion=motion)
        page.goto(url(daemon))
        expect(page.locator("#live")).to_have_attribute("data-state", "live")
        assert page.evaluate("getComputedStyle(document.querySelector('.dot')).animationName") == animation
        page.close()

    def test_a_tab_left_open_does_not_grow(self, page: Page, daemon: DaemonProcess) -> None:
        """Fifty refreshes and ten skills later the browser keeps as many nodes and listeners for it as before."""

        def look_around(times: int) -> None:
            for _ in range(times):
                page.evaluate("location.hash = '#skill=summarise'")
                expect(page.locator(".histogram")).to_be_visible()
                page.evaluate("location.hash = ''")
                expect(page.get_by_role("link", name="parse_json")).to_be_visible()
                for _ in range(5):
                    refreshed(page)

        page.goto(url(daemon))
        look_around(2)
        nodes, listeners = kept(page)
        look_around(10)
        more_nodes, more_listeners = kept(page)
        assert more_nodes < nodes + 200  # one skill that is kept has more
        assert more_listeners == listeners

    @pytest.mark.parametrize("place", ["", "#skill=" + "w" * 256])
    def test_a_phone_needs_no_sideways_scrolling(self, browser: Browser, daemon: DaemonProcess, place: str) -> None:
        """On a narrow screen the page is as wide as the screen, whatever the names are."""
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(url(daemon, place))
        expect(page.locator("#live")).to_have_attribute("data-state", "live")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.close()

    def test_a_phone_has_every_column(self, browser: Browser, daemon: DaemonProcess) -> None:
        """The table moves sideways, and the names stay in view."""
        page = browser.new_page(viewport={"width": 360, "height": 740})
        page.goto(url(daemon))
        users = cell(page, "parse_json", 9)
        users.scroll_into_view_if_needed()
        expect(users).to_be_in_viewport(ratio=0.9)
        expect(page.get_by_role("link", name="parse_json")).to_be_in_viewport(ratio=0.9)
        page.close()


NUMBERS = {
    "count(12345678)": "12,345,678",
    "count(null)": "\N{EN DASH}",
    "short(9999)": "9,999",
    "short(12345678)": "12.3M",
    "brief(999999)": "999,999",
    "brief(12345678)": "12.3M",
    "amount(1, 'call')": "1 call",
    "amount(0, 'call')": "0 calls",
    "latency(0)": "0 ms",
    "latency(0.0004)": "0.40 µs",
    "latency(0.4)": "0.40 ms",
    "latency(1234)": "1.23 s",
    "latency(90000)": "1.50 min",
    "latency(32000000)": "8.89 h",
    "latency(1e9)": "11.6 d",
    "latency(1e12)": "31.7 y",
    "latency(1e15)": "31.7K y",
    "percent(1)": "100 %",
    "percent(0.99999)": "99.9 %",
    "percent(0.00001)": "0.1 %",
    "interval(0.9998, 1)": "99.9\N{EN DASH}100.0 %",
    "bytes(0)": "0 B",
    "bytes(1048576)": "1.0 MiB",
    "duration(3600)": "1 h",
    "visible(' ')": "“ ”",
    "visible('a b')": "a b",
}


def test_numbers_of_any_size(page: Page, daemon: DaemonProcess) -> None:
    """They are short and true, with their unit; a name of blanks can be seen."""
    page.goto(url(daemon))
    shown = {call: page.evaluate(f"import('/format.js').then((format) => format.{call})") for call in NUMBERS}
    assert shown == NUMBERS
