"""A page as PDF, printed by Chromium without a window: whatever the page's print style says, on A4."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
WITHIN = timedelta(seconds=60)
"""Time for one page; it takes two seconds on two cores."""
_OPTIONS = (
    "--headless",
    "--no-sandbox",  # it reads one page of ours, in which nothing is run
    "--disable-gpu",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
)


class PdfError(Exception):
    """The page cannot be printed; one line that says what to do."""


def browser(setting: Path | None) -> Path:
    """The Chromium to print with: the one of the settings, else the first that is found.

    Raises:
        PdfError: there is none.
    """
    if setting is not None:
        if not os.access(setting, os.X_OK):
            raise PdfError(f"report.chromium is {setting}, which is no program: set LAKEHOUSE_REPORT__CHROMIUM")
        return setting
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise PdfError(
            "there is no Chromium to print a PDF with: `apt-get install chromium` (or set LAKEHOUSE_REPORT__CHROMIUM)"
        )
    return Path(found)


def pdf(page: str, chromium: Path, within: timedelta = WITHIN) -> bytes:
    """Print a page. It is read from a folder that nothing else is in, by a browser with a profile of its own.

    Raises:
        PdfError: Chromium fails, or takes too long; what it had started is ended.
    """
    with tempfile.TemporaryDirectory(prefix="lakehouse-report-", ignore_cleanup_errors=True) as folder:
        source, target = Path(folder) / "report.html", Path(folder) / "report.pdf"
        source.write_text(page, encoding="utf-8")
        command = [
            str(chromium), *_OPTIONS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={target}", source.as_uri(),
        ]  # fmt: skip
        with tempfile.TemporaryFile() as words:
            try:
                # Chromium is several processes: all of a group of their own, which ends as a whole.
                running = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, start_new_session=True
                )
            except OSError as error:
                raise PdfError(
                    f"{chromium} does not start ({error.strerror}): set LAKEHOUSE_REPORT__CHROMIUM"
                ) from None
            try:
                code = running.wait(within.total_seconds())
            except subprocess.TimeoutExpired:
                raise PdfError(f"{chromium} has not printed the page within {within.total_seconds():.0f} s") from None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(running.pid, signal.SIGKILL)
                running.wait()
            words.seek(0)
            said = words.read().decode(errors="replace").strip().splitlines()
        if not target.exists() or not (printed := target.read_bytes()).startswith(b"%PDF"):
            last = said[-1][:200] if said else "it says nothing"
            raise PdfError(f"{chromium} ended with {code} and no PDF: {last}")
        return printed
