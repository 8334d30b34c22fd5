"""What answers are written in: JSON, NDJSON, CSV (RFC 4180) or an Arrow stream, as the request's ``Accept`` asks."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa

from serving.problems import Problem

JSON, NDJSON, CSV, ARROW = (
    "application/json", "application/x-ndjson", "text/csv", "application/vnd.apache.arrow.stream",
)  # fmt: skip
FORMATS = (JSON, NDJSON, CSV, ARROW)
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


def wanted(accept: str | None, offers: Sequence[str] = FORMATS) -> str:
    """The format that ``Accept`` (RFC 9110, 12.5.1) likes best, the first offered where it likes several alike.

    Raises:
        Problem: 406 where it takes none.
    """
    best, liked = "", 0.0
    for part in (accept or "*/*").split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    weight = float(value)
                except ValueError:
                    weight = 0.0
        for offered in offers:
            taken = kind in (offered, "*/*", f"{offered.partition('/')[0]}/*")
            if taken and (weight > liked or (weight == liked and best and offers.index(offered) < offers.index(best))):
                best, liked = offered, weight
    if not best:
        raise Problem(406, "not-acceptable", f"Accept takes none of {', '.join(offers)}.")
    return best


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
        return dumps({"data": objects(rows), "next": next_cursor, "version": version})
    return b"".join(parts(rows.to_reader(), kind))


def parts(rows: pa.RecordBatchReader, kind: str) -> Iterator[bytes]:
    """Rows of any number, batch by batch; ``kind`` is not JSON."""
    if kind == NDJSON:
        for batch in rows:
            yield b"".join(dumps(row) + b"\n" for row in objects(batch))
    elif kind == CSV:
        out = io.StringIO(newline="")
        writer = csv.writer(out)
        writer.writerow(rows.schema.names)
        for batch in rows:
            writer.writerows([_cell(value) for value in row.values()] for row in objects(batch))
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


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    written = dumps(value).decode()
    return written[1:-1] if isinstance(value, datetime | date | bytes) else written


def _other(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
