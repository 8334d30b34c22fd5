"""The dashboard in a real browser: what people see, do by mouse, keys and ear, and what happens when things fail."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from serving import pages
from serving.problems import Problem
from tests.browser.conftest import Open, Site, Watch, token
from tests.browser.fake_api import World

Shot = Callable[[Page, str], Path]
ROUTES = {
    "overview": "overview?range=1h",
    "activity": "activity?range=6h",
    "posts": "posts",
    "services": "services?range=1h",
    "hosts": "hosts?range=1h",
    "logs": "logs?range=1h",
    "users": "users?user=u00042",
    "alerts": "alerts",
    "pipeline": "pipeline",
    "lineage": "lineage",
}
"""Every page, with what it shows something of."""
ENGLISH = ("Overview", "Activity", "Posts", "Services", "Hosts", "Logs", "Users", "Alerts", "Pipeline", "Lineage")
KOREAN = ("개요", "활동", "게시물", "서비스", "호스트", "로그", "사용자", "경보", "파이프라인", "계보")
AXE = Path(pages.DIST).parent / "node_modules" / "axe-core" / "axe.min.js"
DRAWN = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let n = 0;
  for (let i = 0; i < data.length; i += 4) {
    const [r, g, b] = data.subarray(i, i + 3);
    if (data[i + 3] > 20 && Math.max(r, g, b) - Math.min(r, g, b) > 60) n++;
  }
  return n;
}"""
"""Pixels in a colour of data: axes, their words and the grid are all but grey."""


def settled(page: Page) -> None:
    """No panel waits for its first answer."""
    expect(page.locator(".panel, .signin-card").first).to_be_visible()
    expect(page.locator('[aria-busy="true"]')).to_have_count(0)


def panel(page: Page, title: str | re.Pattern[str]) -> Locator:
    """A panel by its heading."""
    return page.locator("section.panel").filter(has=page.get_by_role("heading", name=title))


def reaching(site: Site, route: str) -> str:
    """A route whose range has data: of a real platform nobody knows how long ago it was last fed."""
    return route if site.world else route.replace("range=1h", "range=24h")


def sideways(page: Page) -> int:
    """How many pixels the page can be moved sideways."""
    found: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found


# --- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROUTES)
def test_every_page_draws_its_data_and_asks_nobody_else(open_page: Open, site: Site, shot: Shot, name: str) -> None:
    page = open_page(reaching(site, ROUTES[name]))
    settled(page)
    expect(page.get_by_role("heading", level=1)).to_have_text(ENGLISH[list(ROUTES).index(name)])
    expect(page.locator(".panel .trouble")).to_have_count(0)
    for canvas in page.locator("canvas").all():
        assert canvas.evaluate(DRAWN) > 30, "a chart is blank"
    if name in ("overview", "activity", "services", "hosts", "logs", "users", "pipeline"):
        assert page.locator("canvas").count() > 0
    if name in ("overview", "posts"):
        expect(page.locator(".ranked .bar-fill").first).to_be_visible()
    shot(page, f"{name}-light-1440-en")


@pytest.mark.parametrize(
    ("theme", "width", "language"),
    [("dark", 1440, "ko-KR"), ("light", 375, "ko-KR"), ("dark", 375, "en-GB")],
)
def test_every_page_fits_every_screen_theme_and_language(
    open_page: Open, shot: Shot, theme: str, width: int, language: str
) -> None:
    page = open_page("alerts", theme=theme, width=width, height=812 if width < 500 else 900, language=language)
    titles = KOREAN if language == "ko-KR" else ENGLISH
    assert page.evaluate("document.documentElement.lang") == language[:2]
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    for title, (name, route) in zip(titles, ROUTES.items(), strict=True):
        page.evaluate("route => { location.hash = '#/' + route }", route)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        settled(page)
        assert sideways(page) <= 0, f"{name} is wider than the screen"
        shot(page, f"{name}-{theme}-{width}-{language[:2]}")


def test_a_chart_tells_its_numbers_in_words_and_as_a_table(open_page: Open, site: Site) -> None:
    page = open_page(reaching(site, "services?range=1h&service=notify"))
    settled(page)
    chart = panel(page, "Response times: notify")
    expect(chart.get_by_role("slider")).to_have_attribute(
        "aria-label", re.compile(r"p95: lowest .* ms, highest .*, last")
    )
    chart.get_by_text("Data table").click()
    rows = chart.locator(".numbers tbody tr")
    expect(rows.nth(49)).to_be_attached()  # the table is drawn when it is asked for, and counting does not wait
    assert len(re.findall(r"\d ms", chart.locator(".numbers tbody").inner_text())) >= 20


def test_hosts_show_what_is_expected_and_mark_what_was_unusual(open_page: Open, world: World) -> None:
    page = open_page("hosts?range=1h&host=web-2")
    settled(page)
    legend = page.locator(".host-chart .legend")
    for word in ("Observed", "Expected", "95% interval", "Anomaly"):
        expect(legend).to_contain_text(word)
    expect(page.locator(".host-marks")).to_have_text("Anomalies: 1")
    red = """canvas => {
      const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let n = 0;
      for (let i = 0; i < data.length; i += 4) if (data[i] > 180 && data[i + 1] < 90 && data[i + 2] < 90) n++;
      return n;
    }"""
    assert page.locator("canvas").evaluate(red) > 20


def test_lineage_is_followed_up_and_down_by_mouse_and_keys(open_page: Open, world: World, shot: Shot) -> None:
    page = open_page("lineage")
    settled(page)
    graph = panel(page, "What is made from what")
    assert graph.locator(".node").count() > 45 and graph.locator("path").count() > 50
    graph.get_by_role("button", name="service_health_minute", exact=True).click()
    details = panel(page, "gold.service_health_minute")
    row = details.locator("tbody tr").filter(has_text="p95_ms")
    expect(row).to_contain_text("silver.service_logs.event.duration aggregated")
    near = {
        one.removeprefix("redis:") for one in graph.locator(".node.on").evaluate_all("all => all.map(n => n.title)")
    }
    assert {"kafka:service-logs", "bronze.service_logs", "mlflow:trend", "gold:service_health_minute:latest"} <= near
    assert not near & {"kafka:user-events", "silver.quarantine", "gold.host_utilization_minute"}
    shot(page, "lineage-node-light-1440-en")
    row.get_by_role("link", name="silver.service_logs").click()
    expect(panel(page, "silver.service_logs").locator("tbody tr").first).to_contain_text("bronze.service_logs.value")
    page.go_back()
    chosen = graph.get_by_role("button", pressed=True)
    expect(chosen).to_have_text("service_health_minute")
    chosen.press("Tab")
    page.keyboard.press("Enter")
    expect(graph.get_by_role("button", pressed=True)).not_to_have_text("service_health_minute")
    graph.get_by_role("button", name="Show all").click()
    expect(graph.locator(".node.on")).to_have_count(0)


@pytest.mark.parametrize(("theme", "language"), [("light", "en-GB"), ("dark", "ko-KR")])
def test_lineage_of_a_node_fits_a_phone(open_page: Open, world: World, shot: Shot, theme: str, language: str) -> None:
    page = open_page("lineage?node=gold.trending_posts", width=375, height=812, theme=theme, language=language)
    settled(page)
    assert sideways(page) <= 0
    assert page.locator(".node:visible").evaluate_all("all => all.map(n => n.title)") == [
        "kafka:user-events", "bronze.user_events", "silver.user_events", "gold.trending_posts",
        "redis:gold:trending_posts:latest",
    ]  # fmt: skip
    shot(page, f"lineage-node-{theme}-375-{language[:2]}")


# --- live ------------------------------------------------------------------------------------------------------------


def test_numbers_move_with_the_stream_until_they_are_paused(open_page: Open, world: World) -> None:
    page = open_page("activity?range=1h")
    number = panel(page, "Now").locator(".figure-value").nth(1)
    expect(number).not_to_have_text("–")
    first = number.inner_text()
    expect(number).not_to_have_text(first)
    switch = page.get_by_role("button", name=re.compile("Pause updates"))
    switch.click()
    expect(page.locator(".live")).to_have_attribute("aria-pressed", "true")
    still, asked = number.inner_text(), len(world.asked)
    page.wait_for_timeout(1500)  # two beats of the stream
    assert (number.inner_text(), len(world.asked)) == (still, asked)
    page.get_by_role("button", name=re.compile("Resume updates")).click()
    expect(number).not_to_have_text(still)


def test_a_broken_stream_goes_on_from_where_it_was(open_page: Open, world: World) -> None:
    page = open_page("alerts")
    settled(page)
    expect(page.locator(".live")).to_have_class(re.compile("live-live"))
    asked = len([one for one in world.asked if one == "/v1/alerts"])
    world.say("alert", {"rule": "x", "subject": "y", "state": "firing"})
    _until(page, lambda: len([one for one in world.asked if one == "/v1/alerts"]) > asked)
    world.drop()
    _until(page, lambda: len(world.streams) == 2)
    assert world.streams == [None, "1"]
    expect(page.locator(".live")).to_have_class(re.compile("live-live"))


def test_a_table_that_moves_on_is_asked_again(open_page: Open, world: World) -> None:
    page = open_page("services?range=15m")
    settled(page)
    before = len([one for one in world.asked if one == "/v1/services"])
    page.clock.set_fixed_time(world.now.replace(minute=world.now.minute + 1))
    world.say("table", {"name": "gold.service_health_minute", "version": 4, "at": "2026-11-26T09:31:00Z"})
    _until(page, lambda: len([one for one in world.asked if one == "/v1/services"]) > before)


def test_notifications_are_followed_only_where_they_are_looked_at(open_page: Open, world: World) -> None:
    page = open_page("users?user=u00042")
    settled(page)

    def newest() -> str:
        return [one for one in world.asked if one.startswith("/v1/stream")][-1]

    _until(page, lambda: newest().endswith("notification&user_id=u00042"))
    page.get_by_role("link", name="Alerts").click()
    _until(page, lambda: "notification" not in newest())
    expect(page.locator(".live")).to_have_class(re.compile("live-live"))


def test_without_the_scope_the_stream_stays_off_and_says_why(open_page: Open, world: World, watch: Watch) -> None:
    watch.expected = {403}
    page = open_page("logs", token=token("read:logs"))
    expect(page.locator(".live")).to_contain_text("No live updates")
    expect(page.locator(".live")).to_have_attribute("title", re.compile("read:metrics"))
    page.wait_for_timeout(800)
    assert world.streams == []


def test_a_stream_that_is_refused_for_now_is_tried_again(open_page: Open, world: World, watch: Watch) -> None:
    watch.expected = {503}
    world.refuse_stream = Problem(503, "busy", "Too many streams.", {"Retry-After": "1"})
    page = open_page("alerts")
    expect(page.locator(".live")).to_contain_text("Retry in")
    world.refuse_stream = None
    expect(page.locator(".live")).to_have_class(re.compile("live-live"))


def _until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for something that the server sees."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(100)
    raise AssertionError("it did not happen within 10 s")


# --- who looks -------------------------------------------------------------------------------------------------------


def test_a_token_in_the_link_signs_in_and_leaves_the_address(open_page: Open, site: Site) -> None:
    page = open_page()
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    assert "token" not in page.url and page.url.startswith(f"{site.url}/#/overview")
    assert page.evaluate("sessionStorage.length") == 1
    assert page.evaluate("Object.values({...localStorage}).join().includes('.')") is False
    page.go_back()
    page.go_forward()
    assert "token" not in page.url


def test_without_a_token_the_page_asks_for_one(open_page: Open, site: Site, shot: Shot) -> None:
    page = open_page("services?range=6h", token=None)
    field = page.get_by_label("Access token")
    expect(field).to_be_focused()
    shot(page, "signin-light-1440-en")
    field.fill("not a token")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not a token")
    field.fill(f"  Bearer {site.token}\n")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Services")
    assert page.url.endswith("#/services?range=6h")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Access token")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_token_that_is_refused_is_asked_for_again_with_the_reason(open_page: Open, watch: Watch) -> None:
    watch.expected = {401}
    page = open_page("overview", token="aaaa.bbbb.cccc")
    expect(page.get_by_role("alert")).to_contain_text("The token was not accepted")
    expect(page.get_by_label("Access token")).to_be_focused()
    assert page.evaluate("sessionStorage.length") == 0


def test_a_missing_scope_is_named_where_it_is_needed_and_nowhere_else(
    open_page: Open, site: Site, world: World, watch: Watch
) -> None:
    watch.expected = {403}
    page = open_page("logs", token=token("read:metrics"))
    expect(panel(page, "Results")).to_contain_text("The token lacks the scope read:logs")
    page.get_by_role("link", name="Pipeline").click()
    expect(panel(page, "Tables")).to_contain_text("The token lacks the scope read:tables")
    expect(panel(page, "Tables")).to_contain_text("gold.activity_minute")
    page.get_by_role("link", name="Services").click()
    expect(panel(page, "Service health")).to_contain_text("gateway")


def test_messages_are_hidden_without_read_pii(open_page: Open, world: World, watch: Watch) -> None:
    watch.expected = {403}
    page = open_page("logs", token=token("read:metrics", "read:logs"))
    line = page.locator(".line").first
    line.locator("summary").click()
    expect(line.locator(".facts")).to_contain_text("needs the scope read:pii")
    page.get_by_label("Words in the message").fill("slow")
    page.keyboard.press("Enter")
    expect(panel(page, "Results")).to_contain_text("The token lacks the scope read:pii")


# --- what fails ------------------------------------------------------------------------------------------------------


def test_a_store_that_is_away_breaks_only_what_needs_it(
    open_page: Open, world: World, watch: Watch, shot: Shot
) -> None:
    watch.expected = {503}
    world.away = {"hdfs"}
    page = open_page("overview?range=1h")
    events = panel(page, "Events a minute")
    expect(events.get_by_role("alert")).to_contain_text("hdfs does not answer")
    expect(events.locator(".request code")).to_have_text(re.compile("[0-9a-f]{32}"))
    expect(panel(page, "Trending posts").locator(".ranked li")).to_have_count(8)
    expect(panel(page, "Alerts").locator(".alert").first).to_be_visible()
    shot(page, "overview-503")
    world.away = set()
    events.get_by_role("button", name="Try again").click()
    expect(events.locator("canvas")).to_be_visible()


def test_what_was_seen_stays_when_asking_again_fails(open_page: Open, world: World, watch: Watch, shot: Shot) -> None:
    watch.expected = {503}
    page = open_page("users?user=u00042")
    told = panel(page, "Notifications")
    expect(told.locator(".told li").first).to_be_visible()
    _until(page, lambda: any(one.endswith("notification&user_id=u00042") for one in world.asked))
    expect(page.locator(".live")).to_have_class(re.compile("live-live"))
    world.away = {"mongodb"}
    page.clock.set_fixed_time(world.now.replace(minute=world.now.minute + 1))
    world.say("notification", {"id": "n", "user_id": "u00042"})
    expect(told.locator(".stale")).to_contain_text("mongodb does not answer")
    expect(told.locator(".told li").first).to_be_visible()
    expect(panel(page, "Recommendations").locator(".ranked li")).to_have_count(15)
    shot(page, "users-stale")


@pytest.mark.parametrize("name", ROUTES)
def test_an_empty_platform_says_so_on_every_page(open_page: Open, world: World, watch: Watch, name: str) -> None:
    watch.expected = {404}  # of the user that is not there
    world.quiet = True
    page = open_page(ROUTES[name])
    settled(page)
    expect(page.locator(".state").first).to_be_visible()
    expect(page.locator("main")).not_to_contain_text(re.compile(r"NaN|undefined|Infinity|\[object|Invalid Date"))


def test_a_page_that_waits_shows_that_it_does(open_page: Open, world: World, shot: Shot) -> None:
    world.slow_s = 1.0
    page = open_page("services?range=1h")
    expect(page.locator(".skeleton").first).to_be_visible()
    expect(panel(page, "Service health")).to_have_attribute("aria-busy", "true")
    shot(page, "services-loading")
    settled(page)
    expect(page.locator(".skeleton")).to_have_count(0)


def test_an_api_that_is_gone_is_said_in_words(open_page: Open, world: World, watch: Watch) -> None:
    page = open_page("alerts")
    settled(page)
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_role("link", name="Services").click()
    expect(panel(page, "Service health")).to_contain_text("The API cannot be reached")
    watch.wrong = [one for one in watch.wrong if "ERR_FAILED" not in one]


@pytest.mark.parametrize("body", ["<html>proxy</html>", "[]", "", '{"type": 7, "detail": {"a": 1}}'])
def test_an_answer_that_is_no_problem_is_one_all_the_same(
    open_page: Open, world: World, watch: Watch, body: str
) -> None:
    watch.expected = {502}
    page = open_page("alerts")
    page.route("**/v1/services", lambda route: route.fulfill(status=502, body=body))
    page.get_by_role("link", name="Services").click()
    expect(panel(page, "Service health").get_by_role("alert")).to_contain_text("This did not work (502)")


# --- logs ------------------------------------------------------------------------------------------------------------


def test_logs_are_searched_narrowed_and_followed_by_their_trace(open_page: Open, world: World) -> None:
    page = open_page("logs?range=1h")
    settled(page)
    page.get_by_label("Words in the message").fill("slow query")
    page.keyboard.press("Enter")
    expect(page.locator(".line-text").first).to_contain_text("slow query")
    assert "q=slow+query" in page.url
    page.locator(".facet").filter(has_text="Service").get_by_role("button").first.click()
    expect(page.locator(".chip")).to_have_count(2)
    service = page.locator(".facet button[aria-pressed=true] .clip").inner_text()
    for found in page.locator(".line-service").all():
        assert found.inner_text() == service
    line = page.locator(".line").first
    line.locator("summary").click()
    trace = line.locator("dd a.mono")
    expected = trace.inner_text()
    trace.click()
    expect(page.locator(".chip")).to_have_text(re.compile(expected))
    expect(page.locator(".line").first).to_be_visible()
    assert 1 <= page.locator(".line").count() <= 4
    expect(page.get_by_label("Trace id")).to_have_value(expected)
    page.locator(".chip").click()
    expect(page.locator(".chip")).to_have_count(0)


def test_more_logs_follow_those_that_are_there(open_page: Open, world: World) -> None:
    page = open_page("logs?range=1h")
    expect(page.locator(".line")).to_have_count(100)
    page.get_by_role("button", name="Load more").click()
    expect(page.locator(".line")).to_have_count(200)
    times = page.locator(".line time").evaluate_all("all => all.map(one => one.dateTime)")
    assert times == sorted(times, reverse=True) and len(set(times)) == 200


def test_what_a_log_says_is_text_and_nothing_else(open_page: Open, world: World) -> None:
    page = open_page("logs?range=1h")
    page.get_by_label("Words in the message").fill("댓글")
    page.keyboard.press("Enter")
    expect(page.locator(".line-text").first).to_contain_text("<b>&amp;</b>")


# --- the range -------------------------------------------------------------------------------------------------------


def test_a_range_is_in_the_address_and_can_be_shared(open_page: Open, world: World) -> None:
    page = open_page("activity")
    settled(page)
    assert page.url.endswith("#/activity?range=1h")
    page.get_by_role("button", name=re.compile("Time range")).click()
    page.get_by_role("button", name="Last 6 hours").click()
    assert page.url.endswith("#/activity?range=6h")
    page.get_by_role("link", name="Services").click()
    assert page.url.endswith("#/services?range=6h")
    page.go_back()
    page.go_back()
    expect(page.get_by_role("button", name=re.compile("Time range"))).to_contain_text("Last hour")


def test_a_report_is_saved_in_the_readers_language(open_page: Open, world: World) -> None:
    page = open_page("overview?range=1h", language="ko-KR")
    settled(page)
    rows = panel(page, "일일 보고서").get_by_role("row")
    expect(rows).to_have_count(9)  # the heading, today, a week
    with page.expect_download() as saved:
        rows.nth(2).get_by_role("button", name="PDF").click()
    yesterday = world.now.date() - timedelta(days=1)
    assert saved.value.suggested_filename == f"lakehouse-{yesterday}.ko.pdf"
    assert saved.value.path().read_text() == f"{yesterday}.pdf ko"


def test_a_report_that_cannot_be_had_is_said(open_page: Open, world: World, watch: Watch) -> None:
    page = open_page("overview?range=1h")
    settled(page)
    world.away, watch.expected = {"hdfs"}, {503}
    panel(page, "Daily reports").get_by_role("button", name="HTML").first.click()
    expect(panel(page, "Daily reports").get_by_role("alert")).to_be_visible()


@pytest.mark.parametrize("name", ["activity", "services", "hosts"])
def test_a_week_is_asked_for_in_steps_and_drawn(open_page: Open, world: World, name: str) -> None:
    page = open_page(f"{name}?range=7d")
    settled(page)
    paths = ("/v1/activity?", "/health?", "/utilization?")
    asked = [one for one in world.asked if any(path in one for path in paths)]
    assert asked and all("step=30m" in one for one in asked)
    for canvas in page.locator("canvas").all():
        assert canvas.evaluate(DRAWN) > 100


def test_a_range_between_two_times_is_of_the_readers_zone(open_page: Open, world: World) -> None:
    page = open_page("activity")
    page.get_by_role("button", name=re.compile("Time range")).click()
    page.get_by_label("From").fill("2026-11-26T08:00")
    page.get_by_label("To", exact=True).fill("2026-11-26T07:00")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("alert")).to_contain_text("must lie after")
    page.get_by_label("To", exact=True).fill("2026-11-26T10:00")
    page.get_by_role("button", name="Apply").click()
    assert page.url.endswith("#/activity?from=2026-11-25T23%3A00%3A00Z&to=2026-11-26T01%3A00%3A00Z")
    wanted = "from=2026-11-25T23%3A00%3A00Z&to=2026-11-26T01%3A00%3A00Z"
    _until(page, lambda: any(one.startswith(f"/v1/activity?{wanted}") for one in world.asked))


def test_a_part_of_a_chart_is_chosen_by_dragging_over_it(open_page: Open, world: World) -> None:
    page = open_page("services?range=6h")
    settled(page)
    box = page.locator(".u-over").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("from=2026-11-26T05%3A0.*to=2026-11-26T06%3A3"))


# --- keys, ears, eyes ------------------------------------------------------------------------------------------------


def test_everything_can_be_done_by_keys(open_page: Open, world: World) -> None:
    page = open_page("services?range=1h")
    settled(page)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name=re.compile("Time range"))).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Last hour", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name=re.compile("Time range"))).to_be_focused()
    expect(page.locator(".range-menu")).to_have_count(0)
    link = page.get_by_role("link", name="Hosts")
    link.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1, name="Hosts")).to_be_focused()
    settled(page)
    chart = page.get_by_role("slider").first
    chart.focus()
    before = chart.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    expect(chart).not_to_have_attribute("aria-valuetext", before or "")
    page.keyboard.press("Home")
    expect(chart).to_have_attribute("aria-valuenow", "0")
    metric = page.get_by_role("radio", name="Processor")
    metric.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Memory")).to_be_checked()
    assert "metric=memory" in page.url


def test_the_menu_of_a_phone_opens_and_closes(open_page: Open, world: World) -> None:
    page = open_page("overview", width=375, height=812)
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("link", name="Pipeline")).to_be_hidden()
    menu.click()
    expect(menu).to_have_attribute("aria-expanded", "true")
    page.get_by_role("link", name="Pipeline").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Pipeline")
    expect(menu).to_have_attribute("aria-expanded", "false")


def test_theme_and_language_are_chosen_and_kept(open_page: Open, site: Site) -> None:
    page = open_page("pipeline", theme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("radio", name="Dark").check(force=True)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.get_by_label("Language").select_option("ko")
    expect(page.get_by_role("heading", level=1)).to_have_text("파이프라인")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("파이프라인")
    assert page.evaluate("[document.documentElement.lang, document.documentElement.dataset.theme]") == ["ko", "dark"]
    expect(page).to_have_title(re.compile("파이프라인"))


def test_times_are_of_the_readers_zone_with_utc_beside_them(open_page: Open, world: World) -> None:
    page = open_page("logs?range=1h", zone="America/New_York")
    time = page.locator(".line time").first
    expect(time).to_contain_text("04:30:")
    expect(time).to_have_attribute("title", re.compile(r"2026-11-26 09:30:.* UTC"))


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 1440), ("light", 375)])
def test_axe_finds_nothing_that_bars_anybody(open_page: Open, site: Site, watch: Watch, theme: str, width: int) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: `make dashboard` brings it")
    watch.expected = {404}  # of the user that is nobody
    page = open_page("overview", theme=theme, width=width)
    found = {}
    page.evaluate(AXE.read_text())
    for name, route in {
        **ROUTES,
        "hosts of one": "hosts?host=web-2&range=1h",
        "nobody": "users?user=nobody",
        "node": "lineage?node=gold.trending_posts",
    }.items():
        page.evaluate("route => { location.hash = '#/' + route }", reaching(site, route))
        settled(page)
        if name == "services":
            page.locator(".numbers summary").first.click()
        if name == "logs":
            page.locator(".line summary").first.click()
        answer = page.evaluate(
            "axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']})"
        )
        for one in answer["violations"]:
            found[f"{name}: {one['id']} ({one['impact']})"] = [node["html"][:160] for node in one["nodes"][:3]]
    assert found == {}, json.dumps(found, indent=1, ensure_ascii=False)


def test_axe_finds_nothing_on_the_way_in(open_page: Open) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: `make dashboard` brings it")
    page = open_page(token=None)
    expect(page.get_by_label("Access token")).to_be_visible()
    page.evaluate(AXE.read_text())
    answer = page.evaluate("axe.run(document)")
    assert [one["id"] for one in answer["violations"]] == []


def test_the_policy_stops_what_is_not_of_the_page(open_page: Open, watch: Watch) -> None:
    page = open_page("alerts")
    settled(page)
    page.evaluate(
        """() => {
          const put = (name, set) => document.body.append(Object.assign(document.createElement(name), set));
          const tries = [
            () => put("script", {src: "data:text/javascript,globalThis.ran=true"}),
            () => put("script", {text: "globalThis.ran = true"}),
            () => put("style", {textContent: "body { display: none }"}),
            () => put("img", {src: "http://127.0.0.2/x.png"}),
            () => document.body.insertAdjacentHTML("beforeend", "<b id=html>x</b>"),
            () => document.body.setAttribute("style", "display: none"),
          ];
          for (const one of tries) try { one(); } catch {}
        }"""
    )
    assert page.evaluate("[globalThis.ran === true, document.querySelector('#html') !== null]") == [False, False]
    expect(page.locator("main")).to_be_visible()
    assert any("Content Security Policy" in one for one in watch.wrong)
    watch.wrong = []
