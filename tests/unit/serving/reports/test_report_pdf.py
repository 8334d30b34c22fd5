"""Printing: by the Chromium of this machine where there is one, and by programs that misbehave."""

from __future__ import annotations

import shutil
import stat
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest

from serving.report import page
from serving.report.facts import Report
from serving.report.pdf import NAMES, PdfError, browser, pdf
from serving.report.words import LANGS, Lang
from tests.unit.serving.reports import week

CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


def program(folder: Path, script: str) -> Path:
    path = folder / "chromium"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine: `apt-get install chromium`")
@pytest.mark.parametrize("lang", LANGS)
def test_a_report_is_printed_on_pages_of_a4(report: Report, lang: Lang, tmp_path: Path) -> None:
    printed = pdf(page.render(report, lang, week.NOW), browser(None))
    assert printed.startswith(b"%PDF-") and printed.rstrip().endswith(b"%%EOF")
    assert b"/MediaBox [0 0 594.95996 841.91998]" in printed or b"/MediaBox [0 0 595" in printed
    assert 5 <= printed.count(b"/Type /Page\n") <= 20
    assert b"/JavaScript" not in printed and b"/URI" not in printed


def test_a_browser_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    hanging = program(tmp_path, f"sleep 300 & echo $! > {tmp_path}/child\nwait")
    with pytest.raises(PdfError, match="has not printed the page within 1 s"):
        pdf("<p>", hanging, timedelta(seconds=1))
    child = (tmp_path / "child").read_text().strip()
    assert subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout.strip()[:1] in (
        "",
        "Z",
    )


def test_a_browser_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(PdfError, match="ended with 7 and no PDF: no display"):
        pdf("<p>", program(tmp_path, "echo no display >&2; exit 7"))


def test_what_is_no_pdf_is_not_taken_for_one(tmp_path: Path) -> None:
    script = 'for a in "$@"; do case $a in --print-to-pdf=*) echo nonsense > "${a#--print-to-pdf=}";; esac; done'
    with pytest.raises(PdfError, match="no PDF"):
        pdf("<p>", program(tmp_path, script))


def test_a_setting_that_is_no_program_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PdfError, match="LAKEHOUSE_REPORT__CHROMIUM"):
        browser(tmp_path / "nothing")


def test_without_a_chromium_the_command_to_install_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PdfError, match="apt-get install chromium"):
        browser(None)
