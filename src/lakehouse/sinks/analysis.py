"""What models find, in its table and in the store that has its rows.

Guarantee: the table first, in one commit, then the documents, each under the key of its row: writing the same rows
twice changes nothing, and a store that was away is filled by the next write of the same rows.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa

from lakehouse.gold import anomalies, forecasts
from lakehouse.settings import Settings
from lakehouse.sinks import batch
from lakehouse.sinks import elasticsearch as es
from lakehouse.tables import Table

INDICES = {anomalies.TABLE.name: es.ANOMALIES, forecasts.TABLE.name: es.FORECASTS}


def put(settings: Settings, table: Table, rows: pa.Table) -> None:
    """Let rows of gold.anomalies or gold.forecasts be those of their keys, in Elasticsearch too."""
    batch.upsert(settings, table, rows)
    if "elasticsearch" in settings.off:
        return
    sink = es.ElasticsearchSink(settings)
    sink.prepare()
    sink.index(INDICES[table.name], [_document(row) for row in rows.to_pylist()])


def _document(row: dict[str, Any]) -> tuple[str, bytes, None]:
    plain = {name: _utc(value) if isinstance(value, datetime) else value for name, value in row.items()}
    return f"{row['series']} {plain['time']}", orjson.dumps(plain), None


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
