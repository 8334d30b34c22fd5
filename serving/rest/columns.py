"""What columns of tables mean, and rows of every table as JSON Schema, for the description of the API.

Types come from the tables; what is said here is their meaning, once for every name, and an example.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pyspark.sql import types as T

from serving.catalog import Readable, catalog

COLUMNS: Mapping[str, tuple[str, Any]] = {
    # of gold
    "window_start": ("The minute's beginning.", "2026-01-31T12:00:00Z"),
    "date": ("The day, UTC.", "2026-01-31"),
    "event_type": ("What was done: visit, view, like, unlike, comment, share, bookmark, follow, search, post.", "view"),
    "events": ("How many events.", 421),
    "users": ("How many different users.", 97),
    "post_id": ("The post.", "p00017"),
    "views": ("Events of type view.", 120),
    "likes": ("Events of type like less those of type unlike; may be negative.", 12),
    "comments": ("Events of type comment.", 3),
    "shares": ("Events of type share.", 2),
    "bookmarks": ("Events of type bookmark.", 1),
    "user_id": ("The user; a pseudonym without `read:pii`.", "u00036"),
    "sessions": ("How many different sessions.", 2),
    "posts": ("Events of type post.", 1),
    "first_at": ("The first of them.", "2026-01-31T12:00:00.5Z"),
    "last_at": ("The last of them.", "2026-01-31T12:00:59.5Z"),
    "service": ("The service.", "gateway"),
    "requests": ("Logs with a response's status.", 421),
    "errors": ("Requests answered with 500 or more.", 6),
    "error_rate": ("Errors by requests, 0 to 1.", 0.014),
    "p50_ms": ("Half of the requests took no longer, ms; null where no duration is known.", 12.1),
    "p95_ms": ("19 of 20 requests took no longer, ms; null where no duration is known.", 27.9),
    "p99_ms": ("99 of 100 requests took no longer, ms; null where no duration is known.", 37.0),
    "host": ("The host.", "db-1"),
    "metric": ("What was measured, by its dotted path.", "system.cpu.total.norm.pct"),
    "avg": ("The mean of the minute's samples.", 0.42),
    "max": ("The largest of the minute's samples.", 0.97),
    "samples": ("How many samples.", 6),
    "as_of": ("When the ranking was made.", "2026-01-31T12:00:00Z"),
    "rank": ("The place, from 1.", 1),
    "score": ("How strong; larger is more.", 0.87),
    "model_version": ("The version of the model that said so.", "3"),
    "at": ("When.", "2026-01-31T12:00:00Z"),
    "series": (
        "What is watched or foretold, such as `service/<name>/<measure>` or `host/<name>/<metric>`.",
        "service/gateway/p95_ms",
    ),
    "time": ("When it was.", "2026-01-31T12:00:00Z"),
    "value": ("What was seen.", 27.9),
    "expected": ("What was to be expected.", 25.0),
    "mean": ("What is expected.", 25.0),
    "lo": ("The interval's lower bound.", 20.0),
    "hi": ("The interval's upper bound.", 31.0),
    "made_at": ("When the forecast was made.", "2026-01-31T12:00:00Z"),
    "source": ("Where the texts are from.", "comments"),
    "kind": ("What the term is.", "keyword"),
    "term": ("A word, a phrase, a template.", "battery life"),
    "count": ("How often.", 17),
    # of events, logs and samples
    "event_id": ("The identity; what makes a repeat a duplicate.", "e-7f3a"),
    "occurred_at": ("When it happened.", "2026-01-31T12:00:00.123456Z"),
    "session_id": ("The session; a pseudonym without `read:pii`.", "s-19"),
    "text": ("Free text of a comment, post or search; null without `read:pii`.", None),
    "rating": ("0.5 to 5.", 4.5),
    "page": ("Where on the site.", "/posts/p00017"),
    "referrer": ("Where the user came from.", "example.com"),
    "duration_ms": ("How long it took, ms.", 1200.0),
    "device": ("The kind of device.", "ios"),
    "properties": ("Anything else that the sender keeps; null without `read:pii`.", None),
    "_rescued": ("Fields that the contract does not know, as JSON; null without `read:pii`.", None),
    "message": ("The log's words; null without `read:pii`.", None),
    "log": ("`level`.", {"level": "error"}),
    "trace": ("`id` of the trace that the log belongs to.", {"id": "4b3f4dec1e21b0ef"}),
    "http": ("`response.status_code`.", {"response": {"status_code": 200}}),
    "event": ("`id`, `duration` in ns, `dataset`.", {"id": "l-1", "duration": 12000000, "dataset": "gateway.access"}),
    "url": ("`path`.", {"path": "/v1/posts"}),
    "error": ("What failed; null without `read:pii`.", None),
    "dimensions": ("Which of several, such as a device or a file system.", {"system.filesystem.mount_point": "/"}),
    "record_id": ("The identity of the record that the sample came in.", "7f3a"),
    # where a record came from
    "topic": ("Of Kafka.", "user-events"),
    "partition": ("Of the topic.", 0),
    "offset": ("In the partition.", 1200),
    "timestamp": ("When Kafka appended it.", "2026-01-31T12:00:01Z"),
    "key": ("The record's key, base64.", "dTAwMDM2"),
    "headers": ("The record's headers; values base64.", []),
    "ingest_date": ("The day of its arrival, UTC.", "2026-01-31"),
    "reasons": ("Everything that is wrong, or why it was refused.", ["/user_id: required"]),
    "status": ("`open`, `replayed` or `discarded`.", "open"),
    "erased_at": (
        "When key, value and headers were taken out, as they named somebody who was erased; else null.",
        "2026-01-31T12:00:01Z",
    ),
    "updated_at": ("When the status changed.", "2026-01-31T12:00:01Z"),
    # of ops
    "seq": ("The number of a topic's batch, from 1.", 875),
    "start_offset": ("The first offset of the batch.", 1200),
    "end_offset": ("The offset after the last of the batch.", 1250),
    "records": ("How many records.", 50),
    "valid": ("Records that are right.", 48),
    "quarantined": ("Records that are wrong.", 1),
    "erased": ("Records that came late from somebody who was erased.", 0),
    "kept_from": ("Records before this offset were deleted, as their retention was over; null: none.", 900),
    "sealed_before": (
        "Gold's windows before it stay as they are, as some of their records were deleted; null: none.",
        "2026-01-02T00:00:00Z",
    ),
    "duplicates": ("Records that were there before.", 1),
    "warnings": ("Records that were flagged, by rule.", {}),
    "drift": ("Fields that the contract does not know, by name.", {}),
    "versions": ("The version of every table after the batch.", {"gold.activity_minute": 17}),
    "engine": ("What made the batch: `fused` or `separate`; or `rebuild`, `erase`, `expire`.", "fused"),
    "batch_ms": ("How long the batch took, ms.", 420),
    "committed_at": ("When it was committed.", "2026-01-31T12:00:02Z"),
    "id": ("The identity.", "8192275b763740fb"),
    "model": ("The model.", "trend"),
    "version": ("The model's version.", "3"),
    "action": ("`promoted`, `rolled back` or `refused`.", "promoted"),
    "previous": ("The version that answered until then.", "2"),
    "who": ("Who decided so.", "ada"),
    "why": ("For what reason.", "better on last week"),
    "measured": ("The gate's figures, as JSON.", "{}"),
    "decided_at": ("When it was decided.", "2026-01-31T12:00:00Z"),
    "data": ("The versions of tables that the model was trained on.", {"gold.activity_minute": 17}),
}
_OF: Mapping[str, tuple[str, Any]] = {
    "gold.anomalies.score": ("How unusual it is, 0 to 1; an alarm from 0.5 on.", 0.87),
    "gold.anomalies.time": ("The minute.", "2026-01-31T12:00:00Z"),
    "gold.forecasts.time": ("The minute that is foretold.", "2026-01-31T13:00:00Z"),
    "gold.recommendations.at": ("When it was recommended.", "2026-01-31T12:00:00Z"),
    "silver.service_logs.service": ("`name`.", {"name": "gateway"}),
    "silver.service_logs.host": ("`name`.", {"name": "db-1"}),
    "silver.system_metrics.value": ("What was measured.", 0.42),
    "ops.ledger.first_at": ("When Kafka appended the batch's first record.", "2026-01-31T12:00:00Z"),
    "ops.ledger.last_at": ("When Kafka appended the batch's last record.", "2026-01-31T12:00:01Z"),
    **{f"bronze.{name}.value": ("The record's bytes, base64.", "e30=") for name in
       ("user_events", "service_logs", "system_metrics")},
    "ops.access_log.id": ("The read's identity.", "8192275b763740fb"),
    "ops.access_log.at": ("When it was read.", "2026-01-31T12:00:00Z"),
    "ops.access_log.request_id": ("The request's id.", "f174f5af07a24755"),
    "ops.access_log.subject": ("Whom the token names.", "operator"),
    "ops.access_log.user_id": ("The user that the token is of; a pseudonym without `read:pii`.", None),
    "ops.access_log.method": ("The request's method.", "GET"),
    "ops.access_log.route": ("The request's route.", "/v1/tables/{name}/rows"),
    "ops.access_log.resource": ("The table, or what was read of a store.", "silver.user_events"),
    "ops.access_log.columns": ("The personal columns that were shown.", ["user_id"]),
    "ops.access_log.rows": ("How many rows; null where they came as a stream.", 100),
    "ops.access_log.filter_digest": ("Names the question without telling it.", "5b1e"),
    "ops.access_log.status": ("The answer's status.", 200),
    "ops.access_log.client": ("Where the request came from.", "127.0.0.1"),
    "silver.quarantine.value": ("The record's bytes, base64.", "e30="),
}  # fmt: skip
"""Where a table means something else by a name."""


def meaning(table: str, column: str) -> str:
    """What a column of a table holds."""
    return (_OF.get(f"{table}.{column}") or COLUMNS.get(column) or ("", None))[0]


def component(table: str) -> str:
    """The name of a table's schema: ``gold.activity_minute`` -> ``GoldActivityMinute``."""
    return "".join(word.capitalize() for word in table.replace(".", "_").split("_"))


def page(table: str) -> str:
    """The name of the schema of a page of a table's rows."""
    return f"{component(table)}Page"


def reference(name: str) -> dict[str, str]:
    """To a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """For every table a row and a page of rows, by their names."""
    found = {}
    for name, table in catalog().items():
        found[component(name)] = _row(table)
        found[page(name)] = {
            "type": "object",
            "description": f"Rows of `{name}`.",
            "properties": {
                "data": {"type": "array", "items": reference(component(name))},
                "next": {"type": ["string", "null"], "description": "`cursor` of the following page; null at the end."},
                "version": {"type": "integer", "description": "The version of the table that answers."},
            },
            "required": ["data", "next", "version"],
            "additionalProperties": False,
        }
    return found


def _row(table: Readable) -> dict[str, Any]:
    properties = {}
    for field in table.table.schema:
        meaning, example = _OF.get(f"{table.name}.{field.name}") or COLUMNS.get(field.name) or ("", None)
        properties[field.name] = {
            **_type(field.dataType),
            "description": meaning,
            **({} if example is None else {"examples": [example]}),
        }
    key = ", ".join(f"`{name}`" for name in table.table.key)
    return {
        "type": "object",
        "description": f"A row of `{table.name}`, whose key is {key}; of it the columns that `select` asks for.",
        "properties": properties,
        "additionalProperties": False,
    }


def _type(kind: T.DataType) -> dict[str, Any]:
    """A column's type in JSON; every column can be null."""
    match kind:
        case T.ArrayType():
            return {"type": ["array", "null"], "items": _type(kind.elementType)}
        case T.MapType():
            return {"type": ["object", "null"], "additionalProperties": _type(kind.valueType)}
        case T.StructType():
            inner = {field.name: _type(field.dataType) for field in kind}
            return {"type": ["object", "null"], "properties": inner, "additionalProperties": False}
        case T.TimestampType():
            return {"type": ["string", "null"], "format": "date-time"}
        case T.DateType():
            return {"type": ["string", "null"], "format": "date"}
        case T.BinaryType():
            return {"type": ["string", "null"], "contentEncoding": "base64"}
        case T.LongType():
            return {"type": ["integer", "null"], "format": "int64"}
        case T.IntegerType():
            return {"type": ["integer", "null"], "format": "int32"}
        case T.DoubleType():
            return {"type": ["number", "null"], "format": "double"}
        case T.BooleanType():
            return {"type": ["boolean", "null"]}
    return {"type": ["string", "null"]}
