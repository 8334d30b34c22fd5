"""Reports, made and kept: that of a finished day once, that of a day that goes on anew after a while."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from datetime import date as Date

from lakehouse.settings import Settings
from lakehouse.sources.lake import LakeError
from serving.report import data, page
from serving.report.facts import DAY, Day
from serving.report.kept import Copy, Form, Kept
from serving.report.pdf import PdfError, browser, pdf
from serving.report.told import Telling
from serving.report.words import LANGS, Lang

_log = logging.getLogger(__name__)


def clock() -> datetime:
    """Now."""
    return datetime.now(UTC)


class Reports:
    """The reports of a lake; what is asked for is made where it is not there, by one thread at a time.

    Args:
        settings: where the lake is, and how long a report of today serves.
        now: the clock.
        telling: see :func:`serving.report.data.report`.
        printing: makes a PDF of a page [Chromium].
    """

    def __init__(
        self, settings: Settings, now: Callable[[], datetime] = clock, telling: Telling | None = None,
        printing: Callable[[str], bytes] | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.now, self.kept = settings, now, Kept(settings)
        self._telling, self._printing = telling, printing
        self._making = threading.Lock()

    def make(self, date: Date) -> tuple[dict[Lang, str], bool]:
        """The pages of a day by language, as of now, and whether they tell of anything."""
        now = self.now()
        report = data.report(self.settings, date, now, self._telling)
        return {lang: page.render(report, lang, now) for lang in LANGS}, not report.empty

    def get(self, date: Date, lang: Lang, form: Form) -> bytes:
        """A report, kept or made.

        Raises:
            LakeError: the lake does not answer.
            PdfError: it cannot be printed.
        """
        if form == "pdf" and self._printing is None:
            browser(self.settings.report.chromium)  # before anything is made in vain
        if (found := self._known(date, lang, form)) is not None:
            return self.kept.read(found)
        with self._making:  # who waited finds what the one before has made
            if (found := self._known(date, lang, form)) is not None:
                return self.kept.read(found)
            html = self._html(date, lang)
            if form == "html":
                return html.encode()
            printed = self.print(html)
            if self.kept.find(date, lang, "html") is not None:
                self._keep(date, lang, "pdf", printed)
            return printed

    def _html(self, date: Date, lang: Lang) -> str:
        if (found := self._known(date, lang, "html")) is not None:
            return self.kept.read(found).decode()
        pages, telling = self.make(date)
        if telling:  # days without anything are many, and quickly made
            for each, html in pages.items():
                self._keep(date, each, "html", html.encode())
        return pages[lang]

    def _known(self, date: Date, lang: Lang, form: Form) -> Copy | None:
        """What is kept, if it still is what is wanted; a PDF is not older than its page."""
        found = self.kept.find(date, lang, form)
        if found is None:
            return None
        if form == "pdf":
            of = self.kept.find(date, lang, "html")
            if of is None or found.made_at < of.made_at:
                return None
        final = found.made_at >= Day(date, self.now()).begin + DAY + self.settings.report.final_after
        return found if final or self.now() - found.made_at < self.settings.report.made_anew else None

    def _keep(self, date: Date, lang: Lang, form: Form, content: bytes) -> None:
        try:
            self.kept.write(date, lang, form, content)
        except LakeError as error:
            _log.warning("the report of %s is made, but not kept: %s", date, error)

    def print(self, html: str) -> bytes:
        """A page as PDF.

        Raises:
            PdfError: it cannot be printed.
        """
        return self._printing(html) if self._printing else pdf(html, browser(self.settings.report.chromium))


def write(reports: Reports, date: Date, printed: Sequence[Lang] = LANGS, must_print: bool = False) -> dict[str, object]:
    """Make the report of a day anew and keep it: pages in all languages, PDFs in those ``printed`` where one can.

    Raises:
        LakeError: the lake does not answer.
        PdfError: ``must_print`` holds and it cannot be printed; the pages are kept.
    """
    pages, telling = reports.make(date)
    found: dict[str, object] = {"date": date.isoformat()}
    if not telling:
        return found | {"kept": [], "note": "nothing was recorded on this day: nothing is kept"}
    where = []
    for lang, html in pages.items():
        reports.kept.write(date, lang, "html", html.encode())
        where.append(reports.kept.where(date, lang, "html"))
    try:
        for lang in printed:
            reports.kept.write(date, lang, "pdf", reports.print(pages[lang]))
            where.append(reports.kept.where(date, lang, "pdf"))
    except PdfError as error:
        if must_print:
            raise
        return found | {"kept": where, "note": f"no PDF: {error}"}
    return found | {"kept": where}


def one(reports: Reports, date: Date, lang: Lang, form: Form) -> bytes:
    """The report of a day as of now, kept nowhere.

    Raises:
        LakeError: the lake does not answer.
        PdfError: it cannot be printed.
    """
    html = reports.make(date)[0][lang]
    return html.encode() if form == "html" else reports.print(html)


def yesterday(now: datetime | None = None) -> Date:
    """The last day that is over, UTC."""
    return ((now or clock()) - timedelta(days=1)).date()
