"""The lines that a process logs: text for people, or one JSON object a line for programs.

``about`` says what the work at hand is for, a request or a batch of a topic: every line that is logged meanwhile in the
same thread or task carries it, and so does the error that ends it, wherever that is logged (:func:`of`).
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

import orjson

Format = Literal["text", "json"]
_NOISY = ("py4j", "elastic_transport", "pymongo", "apscheduler")
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=_NOTHING)


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Let what is logged meanwhile carry these fields, such as ``request_id``, or ``topic`` and ``seq``."""
    known = {**_about.get(), **fields}
    token = _about.set(known)
    try:
        yield
    except BaseException as error:
        if not hasattr(error, "about"):
            error.about = known  # type: ignore[attr-defined]  # the innermost is the most exact
        raise
    finally:
        _about.reset(token)


def of(error: BaseException) -> dict[str, Any]:
    """``extra`` for a line about an error: what the work was for that it ended."""
    return {"about": getattr(error, "about", {})}


class Lines(logging.Formatter):
    """Text, in UTC: time, level, logger, message, and the trace's id where there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a trace of an error."""
        line = super().formatMessage(record)
        trace = _about.get().get("trace_id")
        return f"{line} trace {trace}" if trace else line


class JsonLines(logging.Formatter):
    """JSON objects: ``time``, ``level``, ``logger``, ``message``, what the line is about, and ``error``, a trace.

    Args:
        hide: takes secrets out of a text; of the text itself, as taking them out of JSON could break it.
    """

    def __init__(self, hide: Callable[[str], str] = lambda text: text) -> None:
        super().__init__()
        self.hide = hide

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._text(record.getMessage()),
        }
        for name, value in {**_about.get(), **getattr(record, "about", {})}.items():
            found.setdefault(name, self._plain(value))
        if record.exc_info:
            found["error"] = self._text(self.formatException(record.exc_info))
        if record.stack_info:
            found["stack"] = self._text(record.stack_info)
        return orjson.dumps(found).decode()

    def _plain(self, value: Any) -> Any:
        return value if value is None or isinstance(value, bool | float) or _fits(value) else self._text(str(value))

    def _text(self, text: str) -> str:
        """Without secrets, and without the half characters that no encoding knows."""
        return self.hide(text).encode("utf-8", "replace").decode()


def _fits(value: Any) -> bool:
    return isinstance(value, int) and -(2**63) <= value < 2**63


def configure(form: Format) -> None:
    """Log to stderr, from INFO on; to be called once, by a process that is ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    if form == "json":
        logging.captureWarnings(True)
        sys.excepthook = _uncaught


def in_json() -> bool:
    """Whether this process logs JSON: then nothing else may go to stderr."""
    return any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)


def _uncaught(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    logging.getLogger("lakehouse").critical("%s", error, exc_info=(kind, error, trace), extra=of(error))
