"""Who is named in a text, and how somebody is known who must not come back: by a keyed hash alone.

An identifier is matched as a whole: ``u1`` is not in ``u12``. It may be a whole string, a part of a composed key
(``2026-11-01:u1``, ``/v1/users/u1/activity``) or a word of a free text; an identifier of digits alone is no word, since
most numbers in a text are something else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

PARTS = 12
"""A composed key of more parts is looked at part by part only."""
LONGEST = 512
"""Characters of the longest string that is taken for a composed key."""
PATTERN = 200
"""Identifiers in one regular expression."""
_WORD = re.compile(r"[^\s\"'`,;:/\\|<>()\[\]{}=&?#!*]+")
_SEPARATOR = re.compile(r"[:/,;|?&=#]")
_SPACE = re.compile(r"\s")


def names(text: str) -> Iterator[str]:
    """Everything in a text that may be an identifier."""
    yield text
    free = _SPACE.search(text) is not None
    for word in _WORD.findall(text):
        bare = word.strip(".-@")
        for one in (word, bare) if bare != word else (word,):
            if one and not (free and one.isdecimal()):
                yield one
    if free or len(text) > LONGEST:
        return
    cuts = [match.span() for match in _SEPARATOR.finditer(text)]
    if not cuts or len(cuts) >= PARTS:
        return
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    for i, start in enumerate(starts):
        for end in ends[i:]:
            yield text[start:end]


def strings(document: Any) -> Iterator[str]:
    """Every string of a parsed document, member names too; bytes as text, where they are."""
    if isinstance(document, str):
        yield document
    elif isinstance(document, bytes):
        yield document.decode(errors="replace")
    elif isinstance(document, dict):
        for name, value in document.items():
            yield from strings(name)
            yield from strings(value)
    elif isinstance(document, list | tuple | set | frozenset):
        for value in document:
            yield from strings(value)


def texts(data: bytes) -> Iterator[str]:
    """The strings in a record's or a file's bytes: of JSON its members, else the whole as text."""
    try:
        document = orjson.loads(data)
    except ValueError:
        yield data.decode(errors="replace")
        return
    yield from strings(document)


def digest(key: bytes, identifier: str) -> str:
    """What is left of an identifier: BLAKE2b (RFC 7693), keyed, 128 bits, as hex."""
    return hashlib.blake2b(identifier.encode(), digest_size=16, key=key[:64]).hexdigest()


class Erased:
    """Those who were erased, known by their digests; travels to Spark's workers."""

    def __init__(self, key: bytes, digests: Iterable[str]):
        self.key, self.digests = key, frozenset(digests)
        self._known: dict[str, bool] = {}

    def __bool__(self) -> bool:
        return bool(self.digests)

    def __contains__(self, identifier: str) -> bool:
        found = self._known.get(identifier)
        if found is None:
            found = digest(self.key, identifier) in self.digests
            if len(self._known) > 200_000:
                self._known.clear()
            self._known[identifier] = found
        return found

    def in_text(self, text: str) -> bool:
        """Whether a text names one of them."""
        return any(name in self for name in names(text))

    def in_record(self, key: bytes | None, value: bytes | None, headers: Any) -> bool:
        """Whether a Kafka record names one of them anywhere."""
        if not self.digests:
            return False
        parts = [part for part in (key, value) if part]
        for header in headers or ():
            parts += [header["key"].encode(), header["value"] or b""]
        return any(self.in_text(text) for part in parts for text in texts(part))

    def __getstate__(self) -> tuple[bytes, frozenset[str]]:
        return self.key, self.digests

    def __setstate__(self, state: tuple[bytes, frozenset[str]]) -> None:
        self.key, self.digests = state
        self._known = {}


class Wanted:
    """Identifiers to be found, in plain, while an erasure runs."""

    def __init__(self, identifiers: Iterable[str]):
        self.identifiers = frozenset(identifiers)

    @cached_property
    def _patterns(self) -> list[str]:
        """Regular expressions (RE2) that find every text that might name one, cheaply."""
        forms: set[str] = set()
        for one in self.identifiers:
            # In JSON a writer may have escaped what is not ASCII, a slash or a quote.
            forms |= {one, orjson.dumps(one).decode()[1:-1], one.replace("/", "\\/")}
            if not one.isascii():
                forms.add("\\u")  # any of its characters may be escaped, in either case
        ordered = sorted(forms)
        return ["|".join(map(re.escape, ordered[at : at + PATTERN])) for at in range(0, len(ordered), PATTERN)]

    def in_text(self, text: str) -> bool:
        """Whether a text names one of them."""
        return any(name in self.identifiers for name in names(text))

    def in_strings(self, document: Any) -> bool:
        """Whether a parsed document does."""
        return any(map(self.in_text, strings(document)))

    def in_bytes(self, data: bytes) -> bool:
        """Whether bytes do: JSON is parsed, all else read as text."""
        return any(map(self.in_text, texts(data)))

    def _maybe(self, values: pa.Array) -> NDArray[np.bool_]:
        found = np.zeros(len(values), dtype=bool)
        for pattern in self._patterns:
            match = pc.match_substring_regex(values, pattern)
            found |= pc.fill_null(match, False).to_numpy(zero_copy_only=False)
        return found

    def in_array(self, values: pa.Array | pa.ChunkedArray) -> NDArray[np.bool_]:
        """Which elements of an array of any type name one of them, however deep."""
        if isinstance(values, pa.ChunkedArray):
            if not values.num_chunks:
                return np.zeros(0, dtype=bool)
            return np.concatenate([self.in_array(chunk) for chunk in values.chunks])
        kind = values.type
        found = np.zeros(len(values), dtype=bool)
        if pa.types.is_dictionary(kind):
            return self.in_array(values.cast(kind.value_type))
        if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
            values, kind = values.cast(pa.string()), pa.string()
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            for at in np.flatnonzero(self._maybe(values)).tolist():
                value = values[at].as_py()
                found[at] = self.in_bytes(value if isinstance(value, bytes) else value.encode())
        elif pa.types.is_struct(kind):
            for n in range(kind.num_fields):
                found |= self.in_array(pc.struct_field(values, n))
        elif pa.types.is_map(kind):
            pairs = values.cast(pa.list_(pa.struct([("key", kind.key_type), ("value", kind.item_type)])))
            found |= self.in_array(pairs)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            inner = self.in_array(values.flatten())
            found[pc.list_parent_indices(values).to_numpy()[inner]] = True
        return found

    def in_rows(self, rows: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a table name one of them, in any column."""
        found = np.zeros(rows.num_rows, dtype=bool)
        for column in rows.columns:
            if rows.num_rows:
                found |= self.in_array(column)
        return found
