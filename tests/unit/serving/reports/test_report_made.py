"""Making and keeping reports: a finished day once, today anew, a PDF beside its page."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakehouse.settings import Hdfs, Settings
from lakehouse.sources.lake import LakeError
from serving.report.kept import Kept
from serving.report.made import Reports, one, write, yesterday
from serving.report.pdf import PdfError
from tests.unit.local_lake import local_lake
from tests.unit.serving.reports import week
from tests.unit.serving.reports.week import DATE, DAY, NOW


class Made:
    """Reports of the week's service with a clock that can be set, and how often one was made."""

    def __init__(self, folder: Path, now: datetime = NOW) -> None:
        self.settings = week.week(folder)
        self.at, self.made, self.printed = now, 0, 0
        self.reports = Reports(self.settings, lambda: self.at, self.telling, self.printing)

    def telling(self, day: Any, operators: Any) -> list[Any]:
        self.made += 1
        return week.telling(day, operators)

    def printing(self, html: str) -> bytes:
        self.printed += 1
        return b"%PDF of " + html[:20].encode()

    def file(self, form: str = "html", lang: str = "en") -> Path:
        return Path(self.settings.root.removeprefix("file://"), "reports", DATE.isoformat(), f"report.{lang}.{form}")

    def kept_at(self, at: datetime) -> None:
        """Let all that is kept be of a time."""
        for file in self.file().parent.iterdir():
            os.utime(file, (at.timestamp(), at.timestamp()))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def test_the_report_of_a_finished_day_is_made_once_for_all_languages(made: Made) -> None:
    first = made.reports.get(DATE, "en", "html")
    made.kept_at(NOW)
    made.at = NOW + timedelta(days=400)
    assert made.reports.get(DATE, "en", "html") == first == made.file().read_bytes()
    assert "일일 보고서" in made.reports.get(DATE, "ko", "html").decode()
    assert made.made == 1


def test_what_was_made_before_the_day_was_settled_is_made_anew(made: Made) -> None:
    made.at = DAY + timedelta(days=1, hours=1)  # the texts are analysed at 01:25
    made.reports.get(DATE, "en", "html")
    made.kept_at(made.at)
    made.at += timedelta(hours=5)
    made.reports.get(DATE, "en", "html")
    assert made.made == 2


def test_the_report_of_today_serves_for_some_minutes(made: Made) -> None:
    made.at = DAY + timedelta(hours=10)
    made.reports.get(DATE, "en", "html")
    made.kept_at(made.at)
    made.at += timedelta(minutes=9)
    made.reports.get(DATE, "en", "html")
    assert made.made == 1
    made.at += timedelta(minutes=2)
    made.reports.get(DATE, "en", "html")
    assert made.made == 2


def test_many_who_ask_at_once_wait_for_one(made: Made) -> None:
    made.at = DAY + timedelta(hours=10)
    gate = threading.Barrier(6)

    def ask(_: int) -> bytes:
        gate.wait()
        return made.reports.get(DATE, "en", "html")

    # Kept with the time of the disk's clock, which is not that of the day: as if it were fresh.
    lasting = made.settings.report.model_copy(update={"made_anew": timedelta(days=9999)})
    made.reports = Reports(made.settings.model_copy(update={"report": lasting}), lambda: made.at, made.telling)
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(ask, range(6)))) == 1
    assert made.made == 1


def test_a_day_without_anything_is_told_but_not_kept(made: Made) -> None:
    assert b"Nothing was recorded" in made.reports.get(DATE.replace(year=2001), "en", "html")
    assert made.reports.kept.all() == []
    assert write(made.reports, DATE.replace(year=2001))["kept"] == []


def test_a_pdf_is_printed_once_and_again_for_a_newer_page(made: Made) -> None:
    assert made.reports.get(DATE, "en", "pdf").startswith(b"%PDF")
    made.kept_at(NOW)
    made.reports.get(DATE, "en", "pdf")
    assert (made.made, made.printed) == (1, 1)
    os.utime(made.file(), (NOW.timestamp() + 60, NOW.timestamp() + 60))
    made.reports.get(DATE, "en", "pdf")
    assert (made.made, made.printed) == (1, 2)


def test_the_command_makes_a_report_anew(made: Made) -> None:
    made.reports.get(DATE, "en", "html")
    made.kept_at(NOW)
    made.file().write_text("older")
    found = write(made.reports, DATE)
    assert "older" not in made.file().read_text()
    assert found["kept"] == [f"file://{made.file(form, lang)}" for form in ("html", "pdf") for lang in ("en", "ko")]


def test_without_a_chromium_pages_are_kept_and_the_pdf_is_said_to_be_missing(made: Made) -> None:
    def printing(html: str) -> bytes:
        raise PdfError("there is no Chromium: install it")

    reports = Reports(made.settings, lambda: NOW, made.telling, printing)
    assert write(reports, DATE)["note"] == "no PDF: there is no Chromium: install it"
    assert [one.form for one in reports.kept.all()] == ["html", "html"]
    with pytest.raises(PdfError):
        write(reports, DATE, must_print=True)


def test_a_report_to_a_file_is_kept_nowhere(made: Made) -> None:
    assert one(made.reports, DATE, "ko", "html").startswith(b"<!doctype html>")
    assert one(made.reports, DATE, "ko", "pdf").startswith(b"%PDF")
    assert made.reports.kept.all() == []


def test_a_report_that_cannot_be_kept_is_answered_all_the_same(made: Made) -> None:
    made.file().parent.parent.write_text("a file where the folder should be")
    with pytest.raises(LakeError, match="reports"):
        made.reports.get(DATE, "en", "html")


def test_what_is_kept_is_replaced_whole_and_other_files_are_passed_over(tmp_path: Path) -> None:
    kept = Kept(local_lake(tmp_path))
    for content in (b"first, and longer", b"second"):
        kept.write(DATE, "en", "html", content)
    folder = tmp_path / "lake" / "reports" / DATE.isoformat()
    (folder / ".report.en.html.tmp.1").write_bytes(b"of a process that was killed")
    (folder / "notes.txt").write_bytes(b"")
    (found,) = kept.all()
    assert (found.date, found.lang, found.form, found.bytes) == (DATE, "en", "html", 6)
    assert kept.read(found) == b"second"
    assert kept.find(DATE, "ko", "html") is None


def test_a_lake_that_is_away_is_an_error_that_says_what_to_do() -> None:
    kept = Kept(Settings(hdfs=Hdfs(uri="hdfs://127.0.0.1:1")))
    for call in (kept.all, lambda: kept.find(DATE, "en", "html"), lambda: kept.write(DATE, "en", "html", b"")):
        with pytest.raises(LakeError, match="lakehouse status"):
            call()


def test_yesterday_is_the_last_day_that_is_over_in_utc() -> None:
    assert yesterday(datetime(2026, 11, 26, 0, 1, tzinfo=UTC)) == DATE
