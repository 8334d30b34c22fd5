"""No secret in a log line: whatever is logged, by us or by a library, passes here last."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, SecretStr

from lakehouse.logs import JsonLines
from lakehouse.settings import Settings
from serving.keys import AuthError, local_path, read

HIDDEN = "[hidden]"
SHORTEST = 6
"""Characters of a secret that is looked for as it is; a shorter one would hide words."""
_PATTERNS = (
    # A JWT, wherever it stands; what is left of one that was cut short counts too.
    (re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)([ +]|%20)+[^\s'\",;]+"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)(authorization|cookie|api[_-]?key|access[_-]?token|id[_-]?token|token|secret|password|passwd)"
            r"(['\"]?\s?(?:=|:|,\sb?['\"])\s?(?:b?['\"])?)(?!\[hidden\]|(?:bearer|basic)\b)[^\s&'\",;]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s@'\"]*:[^/\s@'\"]*@"), rf"\1{HIDDEN}@"),
)
_QUIET = ("httpx2", "httpcore2", "httpx", "httpcore")
"""Loggers that tell every address that is asked."""


class Redacting(logging.Formatter):
    """Formats as another formatter does, and takes out what is secret, of traces too.

    Args:
        formatter: the other one.
        secrets: values that never appear.
    """

    def __init__(self, formatter: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._formatter = formatter
        known = sorted({secret for secret in secrets if len(secret) >= SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return self.hide(self._formatter.format(record))

    def hide(self, text: str) -> str:
        """The text without what is secret."""
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def install(settings: Settings) -> None:
    """Let every handler of the root logger redact; the log of the process is theirs."""
    known = [*secrets_of(settings)]
    for handler in logging.getLogger().handlers:
        redacting = Redacting(handler.formatter or logging.Formatter(), known)
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.hide = redacting.hide  # of texts: taken out of JSON, a secret can take a quote along
        else:
            handler.setFormatter(redacting)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def secrets_of(settings: Settings) -> Iterator[str]:
    """Every secret of the settings, the passwords in addresses, and the local keys."""
    addresses = [s.get_secret_value() for s in (settings.redis.url, settings.mongo.uri, settings.elasticsearch.url)]
    for secret in _secrets(settings):
        password = None
        with suppress(ValueError):  # no address
            password = urlsplit(secret).password
        if password:
            yield from {password, unquote(password)}
        if password or secret not in addresses:  # where a store is without a password is no secret
            yield secret
    try:
        yield from read(local_path(settings)).secrets.values()
    except AuthError:
        return


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from _secrets(one)
