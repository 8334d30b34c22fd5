"""Elasticsearch's ``logs-live``: its template, and its end after a day.

The collector (or Logstash) writes the index; what is here runs beside it. Guarantee: a document is kept for at least
``elasticsearch.logs_live_kept`` after it arrived, whatever time it bears, and goes at the first :func:`expire` after.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from elasticsearch import Elasticsearch

from lakehouse.settings import Settings
from lakehouse.sinks.elasticsearch import LOGS as SILVER_LOGS
from lakehouse.sinks.elasticsearch import MAPPINGS, delete_matching

LOGS_LIVE = "logs-live"
MARKS = "logs-live-marks"
"""Not the fan-out's index of progress: that one is made by the fan-out, which may not have run yet."""
_KNOWN = {name: field for name, field in MAPPINGS[SILVER_LOGS].items() if name != "lakehouse"}
TEMPLATE: dict[str, Any] = {
    "settings": {
        "number_of_shards": 1,  # numbers that say what came before what count within a shard
        "number_of_replicas": 0,
        "refresh_interval": "5s",
        # Logs hold whatever their writers put in: a field too many, or one of another type, costs no document.
        "mapping.total_fields.limit": 1000,
        "mapping.total_fields.ignore_dynamic_beyond_limit": True,
        "mapping.ignore_malformed": True,
    },
    "mappings": {
        "date_detection": False,
        "dynamic_templates": [
            {"text": {"match_mapping_type": "string", "mapping": {"type": "keyword", "ignore_above": 1024}}}
        ],
        "properties": _KNOWN,
    },
}


def _client(settings: Settings) -> Elasticsearch:
    return Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=60, max_retries=0)


def prepare(settings: Settings) -> None:
    """Put the template that the index is made by when its first document comes."""
    client = _client(settings)
    try:
        client.indices.put_index_template(
            name=f"lakehouse-{LOGS_LIVE}", index_patterns=[LOGS_LIVE], template=TEMPLATE, priority=200
        )
    finally:
        client.close()


def expire(settings: Settings, now: datetime | None = None) -> int:
    """Delete what arrived longer ago than it is kept; how many documents.

    What arrived when is known from the sequence number that the index had at each earlier call: called every hour,
    documents stay an hour longer at most.
    """
    now = now or datetime.now(UTC)
    client = _client(settings)
    try:
        stats = client.options(ignore_status=404).indices.stats(index=LOGS_LIVE, level="shards").body
        if "indices" not in stats:
            return 0
        ((index, found),) = stats["indices"].items()
        newest = max(copy["seq_no"]["max_seq_no"] for copies in found["shards"].values() for copy in copies)
        answer = client.options(ignore_status=404).get(index=MARKS, id=LOGS_LIVE).body.get("_source", {})
        # A new index counts from zero again.
        marks = answer["marks"] if answer.get("index") == found["uuid"] else []
        limit = now.timestamp() - settings.elasticsearch.logs_live_kept.total_seconds()
        gone = [mark["seq_no"] for mark in marks if mark["at"] <= limit]
        deleted = delete_matching(client, index, {"range": {"_seq_no": {"lte": gone[-1]}}}) if gone else 0
        left = [mark for mark in marks if mark["at"] > limit] + [{"at": now.timestamp(), "seq_no": newest}]
        client.index(index=MARKS, id=LOGS_LIVE, document={"index": found["uuid"], "marks": left})
        return deleted
    finally:
        client.close()
