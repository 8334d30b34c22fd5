"""The page of a report: what it claims, and that nothing in it is anything but text."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from string import Formatter
from typing import Any

import pytest

from lakehouse.settings import Settings
from serving.report import data, page
from serving.report.catalogue import EN, KO, Message
from serving.report.charts import band, bars, scale
from serving.report.facts import Report
from serving.report.findings import findings
from serving.report.words import LANGS, Lang, Words, short
from tests.unit.local_lake import local_lake
from tests.unit.serving.reports import week

EVIL = "</style></svg><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}{n}\u202e`x`\x00"
HARMLESS = "harmless text"


class Structure(HTMLParser):
    """Elements with the names of their attributes, and the text outside of <style>."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.values: list[tuple[str, str | None]] = []
        self.text = ""
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.values += attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside != "style":
            self.text += data


def everywhere(value: Any, text: str) -> Any:
    """The same facts with a text in the place of every text."""
    if isinstance(value, str):
        return text
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: everywhere(getattr(value, f.name), text) for f in dataclasses.fields(value)}
        return type(value)(**fields)
    if isinstance(value, tuple):
        return tuple(everywhere(one, text) for one in value)
    if isinstance(value, Mapping):
        return {
            (k if k in ("posts", "comments", "searches", "errors") else text): everywhere(v, text)
            for k, v in value.items()
        }
    return value


def shown(report: Report, lang: Lang = "en") -> str:
    return page.render(report, lang, week.NOW)


def told(report: Report, lang: Lang = "en") -> str:
    return " ".join(Structure(shown(report, lang)).text.split())


@pytest.mark.parametrize("lang", LANGS)
def test_no_text_of_others_changes_the_page(report: Report, lang: Lang) -> None:
    harmless, evil = (Structure(shown(everywhere(report, text), lang)) for text in (HARMLESS, EVIL))
    assert evil.elements == harmless.elements
    assert not [name for name, _ in evil.values if name.startswith("on") or name in ("style", "src", "srcdoc")]
    assert "alert(1)" in evil.text and "49" not in re.findall(r"\{\{.*?\}\}", evil.text)
    assert "\x00" not in evil.text and "\u202e" not in evil.text


def test_a_post_named_as_a_script_is_text(report: Report) -> None:
    post = dataclasses.replace(report.engagement.top[0], post_id="<script>alert(1)</script>")
    evil = dataclasses.replace(report, engagement=dataclasses.replace(report.engagement, top=(post,)))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown(evil)
    assert "<script" not in shown(evil)


def test_the_page_asks_nobody_and_runs_nothing(report: Report) -> None:
    found = Structure(shown(report))
    tags = {tag for tag, _ in found.elements}
    assert not tags & {
        "script",
        "img",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "video",
        "audio",
        "use",
        "image",
    }
    assert all(value and value.startswith("#") for name, value in found.values if name in ("href", "xlink:href"))
    assert not re.search(r"url\(|@import|https?://", shown(report))


def test_the_policy_allows_the_one_style_of_the_page_and_nothing_else(report: Report) -> None:
    html = shown(report)
    rules = dict(rule.split(" ", 1) for rule in page.policy(html.encode()).split("; "))
    assert rules["default-src"] == "'none'" and "script-src" not in rules
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules["style-src"])
    assert html.count("<style>") == 1
    written = dict(Structure(html).values)["content"]
    policies = [value for name, value in Structure(html).values if name == "content" and value and "style-src" in value]
    assert policies and policies[0].split("; ")[1] == f"style-src {rules['style-src']}", written


def test_the_policy_of_a_page_whose_style_was_changed_is_that_of_its_style(report: Report) -> None:
    html = shown(report).replace("<style>", "<style>/* older */")
    assert page.policy(html.encode()) != page.policy(shown(report).encode())


def test_every_chart_has_a_title_a_description_and_an_id_of_its_own(report: Report) -> None:
    html = shown(report)
    for labelled in re.findall(r'role="img" aria-labelledby="([^"]+)"', html):
        for name in labelled.split():
            assert len(re.findall(rf'id="{name}">[^<]+<', html)) == 1
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {target for target in re.findall(r'href="#([^"]+)"', html)} <= set(ids)


def test_headlines_come_with_their_change(report: Report) -> None:
    said = told(report)
    assert re.search(r"Events 31,106 ▲ \+20% day before \(25,920\) ▲ \+33% week before", said)
    assert "Response time, p95" in said and "Incidents 4" in said


def test_the_day_in_brief_begins_with_the_worst(report: Report) -> None:
    found = findings(report)
    assert [one.level for one in found] == sorted((one.level for one in found), key=["bad", "notice", "good"].index)
    assert [one.name for one in found[:4]] == ["critical", "over", "full", "jobs"]
    assert "A critical alert: web-1 (host cpu out of range)." in told(report)
    assert "gateway: 0.68% of requests failed (the day before: 0.03%), most at 14:00." in told(report)


def test_a_quiet_day_is_said_to_be_one(tmp_path: Path) -> None:
    empty = data.report(local_lake(tmp_path), week.DATE, week.NOW, lambda day, rules: [])
    assert [one.name for one in findings(empty)] == ["empty"]
    assert "Nothing was recorded on this day." in told(empty)


@pytest.mark.parametrize("lang", LANGS)
def test_an_empty_section_says_so_and_what_to_do(tmp_path: Path, lang: Lang) -> None:
    empty = data.report(local_lake(tmp_path), week.DATE, week.NOW, lambda day, rules: [])
    html = shown(empty, lang)
    assert html.count('class="empty"') == len(page.SECTIONS)
    assert "<code>lakehouse insights --date 2026-11-25</code>" in html
    assert "gold.activity_minute" in html  # is not there yet


def test_mongodb_that_is_away_is_told(lake: Settings) -> None:
    away = data.report(lake, week.DATE, week.NOW, lambda day, rules: None)
    assert "MongoDB does not answer" in told(away)
    assert "feed" in told(away)  # what does not come from there is there


def test_a_day_that_goes_on_says_until_when_it_is_told(lake: Settings) -> None:
    going = data.report(lake, week.DATE, week.DAY + timedelta(hours=10, minutes=5), week.telling)
    assert "The day is not over: this is it until 10:05" in told(going)


def test_nobody_is_named(report: Report) -> None:
    assert not re.search(r"user-\d|alice|operator", shown(report))


# --- languages -----------------------------------------------------------------------------------------------------

SAME = {"product", "p50", "p95", "p99", "batch_p95", "delay_p95"} | {
    "measure.inverse_mase", "measure.f1", "measure.ndcg@10", "measure.map@10",
}  # fmt: skip
"""What is called the same in Korean."""


def fields(message: Message) -> list[set[str]]:
    forms = message if isinstance(message, tuple) else (message,)
    return [{name for _, name, _, _ in Formatter().parse(form) if name} for form in forms]


def test_korean_is_complete() -> None:
    assert KO.keys() == EN.keys()
    for key, message in KO.items():
        for form in message if isinstance(message, tuple) else (message,):
            assert key in SAME or re.search("[가-힣]", form), key


def test_messages_take_the_same_values_in_every_language() -> None:
    for key in EN:
        english, korean = fields(EN[key]), fields(KO[key])
        assert set().union(*english) - {"n"} == set().union(*korean) - {"n"}, key
        assert isinstance(EN[key], tuple) == isinstance(KO[key], tuple), key


def test_every_message_is_used() -> None:
    folder = Path(page.__file__).parent
    files = [*folder.glob("templates/*.j2"), *(f for f in folder.glob("*.py") if f.name != "catalogue.py")]
    code = "".join(file.read_text() for file in files)
    made = (
        "finding.", "type.", "measure.", "head.", "source.", "kind.", "severity.", "action.", "outcome.", "status.",
        "models.rival.", "forecasts.expected", "forecasts.mean",
    )  # fmt: skip
    assert [
        key for key in EN if f'"{key}"' not in code and not key.startswith(made) and not key.endswith(".empty")
    ] == []


def test_the_korean_page_is_korean(report: Report) -> None:
    said = told(report, "ko")
    assert "2026년 11월 25일 수요일" in said and "활성 사용자" in said
    whole = [text for text in EN.values() if isinstance(text, str) and text.count(" ") > 1 and "{" not in text]
    assert len(whole) > 30
    assert [text for text in whole if text.replace("`", "") in said and text not in KO.values()] == []


# --- numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "english", "korean"),
    [
        (0, "0", "0"), (7, "7", "7"), (1234, "1,234", "1,234"), (999_999, "999,999", "999,999"),
        (1_234_567, "1.23 M", "123.5만"), (4_200_000_000, "4.2 bn", "42억"), (0.00123, "0.00123", "0.00123"),
        (-5, "−5", "−5"), (None, "–", "–"), (float("nan"), "–", "–"), (float("inf"), "–", "–"),
    ],
)  # fmt: skip
def test_numbers_are_written_for_people(value: float | None, english: str, korean: str) -> None:
    assert (Words("en").number(value), Words("ko").number(value)) == (english, korean)


def test_shares_changes_and_times_are_written_with_what_matters() -> None:
    t = Words("en")
    assert [t.share(v) for v in (0, 0.00001, 0.0042, 0.123, 1, 1.5, None)] == [
        "0%",
        "<0.01%",
        "0.42%",
        "12.3%",
        "100%",
        "150%",
        "–",
    ]
    assert [t.change(v) for v in (0.0, 0.0004, 0.031, -0.25, 8.0, 19.0, None)] == [
        "±0%",
        "±0%",
        "+3.1%",
        "−25%",
        "+800%",
        "×20",
        "–",
    ]
    assert [t.ms(v) for v in (0.4, 12.34, 999, 1500, None)] == ["0.4 ms", "12.3 ms", "999 ms", "1.5 s", "–"]
    assert [t.seconds(v) for v in (0.45, 59, 90, 7200, 200_000)] == ["0.45 s", "59 s", "1.5 min", "2 h", "2.3 d"]
    assert t.time(week.DAY, week.DATE) == "00:00"
    assert t.time(week.NOW, week.DATE) == "11-26 02:10"


def test_one_and_many_are_told_apart() -> None:
    t = Words("en")
    assert t("finding.jobs", n=1, subjects="a") == "A planned job fails: a."
    assert t("finding.jobs", n=1234, subjects="a") == "1,234 planned jobs fail: a."
    assert t.names([f"n{i}" for i in range(7)]) == "n0, n1, n2, n3, n4 and 2 more"


def test_a_long_name_is_cut_and_one_line() -> None:
    assert short("a" * 1000, 10) == "a" * 9 + "…"
    assert short("a\nb\x1b[31m") == "a b [31m"
    assert len(short("가" * 10**6)) == 80


# --- charts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (0.7, 0.8), (1, 1), (1.01, 1.2), (95, 100), (31106, 40000), (float("nan"), 1)]
)
def test_an_axis_ends_at_a_round_number_above_all_values(highest: float, top: float) -> None:
    assert scale(highest).top == pytest.approx(top)


def test_an_axis_of_shares_ends_at_one() -> None:
    assert scale(0.99, 1.0).top == 1.0 and scale(0.0, 1.0).top == 1.0


def test_stacked_bars_touch_and_add_up() -> None:
    drawn = bars([[1, 0, None], [2, 3, None]], [[4.0, None, 1.0]])
    first = [one for one in drawn.rects if one.index == 0]
    assert drawn.scale.top == 4 and [one.height for one in first] == [60, 120]
    assert first[0].y == 180 and first[1].y + first[1].height == first[0].y
    assert not [one for one in drawn.rects if one.index == 2]
    assert drawn.lines[0].count("M") == 2  # a gap


def test_a_band_has_whole_hours_and_gaps_where_nothing_was_foretold() -> None:
    def at(minutes: int) -> datetime:
        return week.DAY + timedelta(minutes=minutes)

    said = [(at(m), 2.0, 1.0, 3.0) for m in (5, 10, 200, 205)]
    drawn = band([(at(m), 1.0) for m in (5, 10, 15)], said, at(100), timedelta(minutes=5))
    assert drawn.times[0] == week.DAY and drawn.times[-1] == at(240)
    assert drawn.area.count("Z") == 2 and drawn.middle.count("M") == 2 and drawn.now is not None


def test_charts_of_nothing_are_empty() -> None:
    assert bars([[None] * 24]).rects == () and bars([]).rects == ()
