"""Elasticsearch's ``logs-live``: its template, and its end after a day.

The collector (or Logstash) writes the index; what is here runs beside it. Guarantee: a document is kept for at least
``elasticsearch.logs_live_kept`` after it arrived, whatever time it bears, and goes at the first :func:`expire` after.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
from elasticsearch import Elasticsearch

from lakehouse.settings import Settings
from lakehouse.sinks.elasticsearch import LOGS as SILVER_LOGS
from lakehouse.sinks.elasticsearch import MAPPINGS

LOGS_LIVE = "logs-live"
MARKS = "logs-live-marks"
"""Not the fan-out's index of progress: that one is made by the fan-out, which may not have run yet."""
_AT_ONCE = 5000
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
        deleted = _delete(client, index, gone[-1]) if gone else 0
        left = [mark for mark in marks if mark["at"] > limit] + [{"at": now.timestamp(), "seq_no": newest}]
        client.index(index=MARKS, id=LOGS_LIVE, document={"index": found["uuid"], "marks": left})
        return deleted
    finally:
        client.close()


def _delete(client: Elasticsearch, index: str, last: int) -> int:
    deleted = 0
    client.indices.refresh(index=index)
    while True:
        found = client.search(
            index=index, query={"range": {"_seq_no": {"lte": last}}}, size=_AT_ONCE, source=False, sort=["_doc"],
            seq_no_primary_term=True, filter_path="hits.hits._id,hits.hits._seq_no,hits.hits._primary_term",
        )  # fmt: skip
        hits = found.body.get("hits", {}).get("hits", [])
        if not hits:
            return deleted
        # Only as it was found: one that has arrived again since is new.
        actions = [
            {"_id": hit["_id"], "if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"]} for hit in hits
        ]
        answer = client.bulk(
            index=index, operations=[orjson.dumps({"delete": action}) for action in actions], refresh=True,
            filter_path="items.*.status",
        )  # fmt: skip
        deleted += sum(item["delete"]["status"] == 200 for item in answer["items"])
