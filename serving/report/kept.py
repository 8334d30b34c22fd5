"""Reports on the lake: ``<root>/reports/<date>/report.<lang>.html`` and ``.pdf``.

Guarantee: a file is there whole or not at all. delta-rs writes beside it and renames, so a reader sees the one before
until then; writing the same again changes nothing but the time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date as Date
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

from deltalake.exceptions import DeltaError
from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from lakehouse.settings import Settings
from lakehouse.sinks.files import put
from lakehouse.sources.lake import LakeError
from serving.report.words import Lang

Form = Literal["html", "pdf"]
_PATH = re.compile(r"(\d{4}-\d\d-\d\d)/report\.(en|ko)\.(html|pdf)")


@dataclass(frozen=True)
class Copy:
    """A report as it is kept; ``made_at`` by the clock of the lake."""

    date: Date
    lang: Lang
    form: Form
    made_at: datetime
    bytes: int


class Kept:
    """The reports under one root.

    Raises:
        LakeError: by every method, where the lake does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self.uri = f"{settings.root}/reports"

    def where(self, date: Date, lang: Lang, form: Form) -> str:
        """The URI of a report."""
        return f"{self.uri}/{_path(date, lang, form)}"

    def find(self, date: Date, lang: Lang, form: Form) -> Copy | None:
        """What is known of a report; None where it is not there."""
        with self._files() as (files, _):
            info = files.get_file_info(_path(date, lang, form))
            found = info.type == fs.FileType.File
            return Copy(date, lang, form, info.mtime, info.size) if found else None

    def read(self, copy: Copy) -> bytes:
        """A report."""
        with self._files() as (files, _), files.open_input_file(_path(copy.date, copy.lang, copy.form)) as file:
            return bytes(file.read())

    def write(self, date: Date, lang: Lang, form: Form, content: bytes) -> None:
        """Put a report in place of the one before."""
        with self._files() as (_, handler):
            put(handler, _path(date, lang, form), content)

    def all(self) -> list[Copy]:
        """All that are kept, the newest day first."""
        with self._files() as (files, _):
            infos = files.get_file_info(fs.FileSelector("", recursive=True, allow_not_found=True))
        found = []
        for info in infos:
            if info.type == fs.FileType.File and (match := _PATH.fullmatch(info.path)):
                lang, form = cast(Lang, match[2]), cast(Form, match[3])
                found.append(Copy(Date.fromisoformat(match[1]), lang, form, info.mtime, info.size))
        return sorted(found, key=lambda one: (-one.date.toordinal(), one.lang, one.form))

    @contextmanager
    def _files(self) -> Iterator[tuple[fs.FileSystem, DeltaStorageHandler]]:
        try:
            if self.uri.startswith("file://"):
                Path(self.uri.removeprefix("file://")).mkdir(parents=True, exist_ok=True)
            handler = DeltaStorageHandler(self.uri)
            yield fs.PyFileSystem(handler), handler
        except (OSError, DeltaError) as error:
            said = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
            raise LakeError(f"{self.uri}: not to be had ({said[:200]}); see `lakehouse status`") from None


def _path(date: Date, lang: Lang, form: Form) -> str:
    return f"{date.isoformat()}/report.{lang}.{form}"
