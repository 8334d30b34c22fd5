"""What answers are written in: JSON, NDJSON, CSV (RFC 4180) or an Arrow stream, as the request's ``Accept`` asks."""

from __future__ import annotations

import base64
import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from serving.problems import Problem

JSON, NDJSON, CSV, ARROW = (
    "application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream",
)  # fmt: skip
FORMATS = (JSON, NDJSON, CSV, ARROW)
_LINE = orjson.OPT_APPEND_NEWLINE
_UTC = pa.timestamp("us", "UTC")
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def wanted(accept: str | None, offers: Sequence[str] = FORMATS) -> str:
    """The format that ``Accept`` (RFC 9110, 12.5.1) likes best, the first offered where it likes several alike.

    Raises:
        Problem: 406 where it takes none.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weights = [word.partition("=")[2].strip() for word in parameters if word.partition("=")[0].strip() == "q"]
        ranges[kind] = _weight(weights[0]) if weights else 1.0

    def liked(kind: str) -> float:
        """By the most specific range that it is in."""
        within = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((ranges[one] for one in within if one in ranges), 0.0)

    best = max(offers, key=liked)
    if liked(best) <= 0:
        raise Problem(406, "not-acceptable", f"Accept takes none of {', '.join(offers)}.")
    return best


def _weight(text: str) -> float:
    return float(text) if re.fullmatch(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?", text) else 0.0


def dumps(value: Any) -> bytes:
    """JSON: times RFC 3339 in UTC, dates ISO, bytes base64, NaN and infinity null."""
    return orjson.dumps(value, default=_other, option=_OPTIONS)


def objects(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """Rows as objects; maps are objects, too."""
    found: list[dict[str, Any]] = rows.to_pylist(maps_as_pydicts="lossy")
    return found


def page(rows: pa.Table, kind: str, next_cursor: str | None, version: int | None) -> bytes:
    """One page of rows, whole. Only JSON has room for the cursor, which the ``Link`` header has, too."""
    if kind == JSON:
        return dumps({"data": objects(_worded(rows)), "next": next_cursor, "version": version})
    return b"".join(parts(rows.to_reader(), kind))


def parts(rows: pa.RecordBatchReader, kind: str) -> Iterator[bytes]:
    """Rows of any number, batch by batch; ``kind`` is not JSON."""
    if kind == NDJSON:
        for batch in rows:
            yield b"".join([orjson.dumps(row, _other, _OPTIONS | _LINE) for row in objects(_worded(batch))])
    elif kind == CSV:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(rows.schema.names)
        for batch in rows:
            writer.writerows(zip(*(_cells(column) for column in _worded(batch).columns), strict=True))
            yield out.getvalue().encode()
            out.seek(0)
            out.truncate()
        if out.tell():
            yield out.getvalue().encode()
    else:
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            for batch in rows:
                writer.write_batch(batch)
                yield sink.getvalue()
                sink.seek(0)
                sink.truncate()
        yield sink.getvalue()


def _worded(rows: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    """Rows whose times and dates are words, which is ten times faster than by way of Python's."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type):
            words = pc.utf8_replace_slice(rows.column(place).cast(_UTC).cast(pa.string()), 10, 11, "T")
            rows = rows.set_column(place, field.name, pc.replace_substring_regex(words, r"\.000000Z$", "Z"))
        elif pa.types.is_date(field.type):
            rows = rows.set_column(place, field.name, rows.column(place).cast(pa.string()))
    return rows


def _cells(column: pa.Array) -> list[Any]:
    """A column's values as cells: as in JSON, null as nothing, lists and objects as JSON."""
    kind = column.type
    values = column.to_pylist(maps_as_pydicts="lossy")
    if pa.types.is_string(kind) or pa.types.is_integer(kind):
        return values  # type: ignore[no-any-return]
    if pa.types.is_floating(kind):
        return [value if value is not None and math.isfinite(value) else None for value in values]
    return [None if value is None else _cell(value) for value in values]


def _cell(value: Any) -> str:
    written = dumps(value).decode()
    return written[1:-1] if isinstance(value, bytes) else written


def _other(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
