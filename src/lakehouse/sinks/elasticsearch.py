"""Elasticsearch, the lake's indices: silver logs and metrics, and service health.

Guarantee: ids come from identity, so a repeated document replaces itself; service health carries its table's version
and is never replaced by an older one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
from elasticsearch import BadRequestError, Elasticsearch

from lakehouse.settings import Settings

LOGS, METRICS, HEALTH, PROGRESS = "logs-service", "metrics-system", "service-health", "lakehouse-progress"
ANOMALIES, FORECASTS = "analysis-anomalies", "analysis-forecasts"
MAX_ID_BYTES = 512
CHUNK_BYTES = 8 << 20
_AT_ONCE = 5000
_KEYWORD: dict[str, Any] = {"type": "keyword", "ignore_above": 1024}
_SOURCE = {
    "properties": {
        "topic": _KEYWORD,
        "partition": {"type": "integer"},
        "offset": {"type": "long"},
        "rescued": {"type": "keyword", "index": False, "doc_values": False},
    }
}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"properties": fields}


MAPPINGS: dict[str, dict[str, Any]] = {
    LOGS: {
        "@timestamp": {"type": "date"},
        "message": {"type": "text"},
        "log": _object(level=_KEYWORD),
        "service": _object(name=_KEYWORD),
        "host": _object(name=_KEYWORD),
        "trace": _object(id=_KEYWORD),
        "http": _object(response=_object(status_code={"type": "long"})),
        "event": _object(id=_KEYWORD, duration={"type": "long"}, dataset=_KEYWORD),
        "url": _object(path=_KEYWORD),
        "error": _object(
            message={"type": "text"}, type=_KEYWORD, code=_KEYWORD, id=_KEYWORD, stack_trace={"type": "text"}
        ),
        "lakehouse": _SOURCE,
    },
    METRICS: {
        "@timestamp": {"type": "date"},
        "host": _object(name=_KEYWORD),
        "metric": _KEYWORD,
        "value": {"type": "double"},
        "dimensions": {"type": "object", "enabled": False},
        "lakehouse": _SOURCE,
    },
    HEALTH: {
        "window_start": {"type": "date"},
        "service": _KEYWORD,
        **{name: {"type": "long"} for name in ("requests", "errors", "version")},
        **{name: {"type": "double"} for name in ("error_rate", "p50_ms", "p95_ms", "p99_ms")},
    },
    ANOMALIES: {
        "series": _KEYWORD,
        "time": {"type": "date"},
        **{name: {"type": "double"} for name in ("value", "expected", "score")},
        "model_version": _KEYWORD,
    },
    FORECASTS: {
        "series": _KEYWORD,
        **{name: {"type": "date"} for name in ("time", "made_at")},
        **{name: {"type": "double"} for name in ("mean", "lo", "hi")},
        "model_version": _KEYWORD,
    },
    PROGRESS: {"fanout": {"type": "object", "enabled": False}},
}


def document_id(identity: str) -> str:
    """An identity as ``_id``: itself, or its SHA-256 where it is longer than Elasticsearch takes."""
    data = identity.encode()
    return identity if len(data) <= MAX_ID_BYTES else hashlib.sha256(data).hexdigest()


def delete_matching(client: Elasticsearch, index: str, query: dict[str, Any]) -> int:
    """Delete the documents that a query finds, as they were found; how many.

    Elasticsearch's own ``_delete_by_query`` is of a module that a minimal server lacks.
    """
    deleted = 0
    client.indices.refresh(index=index)
    while True:
        found = client.search(
            index=index, query=query, size=_AT_ONCE, source=False, sort=["_doc"], seq_no_primary_term=True,
            filter_path="hits.hits._id,hits.hits._index,hits.hits._seq_no,hits.hits._primary_term",
        )  # fmt: skip
        hits = found.body.get("hits", {}).get("hits", [])
        if not hits:
            return deleted
        # Only as it was found: one that has been written again since is new.
        actions = [
            {
                "_id": hit["_id"], "_index": hit["_index"],
                "if_seq_no": hit["_seq_no"], "if_primary_term": hit["_primary_term"],
            }
            for hit in hits
        ]  # fmt: skip
        answer = client.bulk(
            operations=[orjson.dumps({"delete": action}) for action in actions], refresh=True,
            filter_path="items.*.status",
        )  # fmt: skip
        deleted += sum(item["delete"]["status"] == 200 for item in answer["items"])


class ElasticsearchSink:
    """Writes documents by bulk requests."""

    def __init__(self, settings: Settings):
        self.client = Elasticsearch(settings.elasticsearch.url.get_secret_value(), request_timeout=30, max_retries=0)
        self._queued: dict[str, list[tuple[str, bytes, int | None]]] = {}

    def prepare(self) -> None:
        """Create the indices, each behind an alias, where they are missing."""
        for alias, properties in MAPPINGS.items():
            if self.client.indices.exists_alias(name=alias):
                continue
            try:
                self.client.indices.create(
                    index=f"{alias}-000001",
                    settings={"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "1s"},
                    mappings={"dynamic": False, "properties": properties},
                    aliases={alias: {"is_write_index": True}},
                )
            except BadRequestError as error:
                if "resource_already_exists" not in str(error):
                    raise

    def index(self, name: str, documents: Iterable[tuple[str, bytes, int | None]]) -> None:
        """Write (id, JSON body, version or None) to an index; an older version than the stored one is passed over.

        Raises:
            RuntimeError: Elasticsearch refused a document; the message holds its reason.
        """
        for lines in _chunks(name, documents):
            answer = self.client.bulk(operations=lines)
            if answer["errors"]:
                refused = [
                    item["index"]["error"]["reason"]
                    for item in answer["items"]
                    if item["index"]["status"] not in (200, 201, 409)
                ]
                if refused:
                    raise RuntimeError(f"{name}: {len(refused)} documents refused, the first: {refused[0]}")

    def delete(self, name: str, identities: Iterable[str]) -> None:
        """Delete documents; one that is not there is passed over."""
        lines = [orjson.dumps({"delete": {"_index": name, "_id": document_id(one)}}) for one in identities]
        if lines:
            self.client.bulk(operations=lines)

    def expire(self, name: str, starts: Mapping[int, int]) -> int:
        """Delete the documents of records before these offsets, by partition; how many."""
        deleted = 0
        for partition, start in starts.items():
            mine = [{"term": {"lakehouse.partition": partition}}, {"range": {"lakehouse.offset": {"lt": start}}}]
            deleted += delete_matching(self.client, name, {"bool": {"filter": mine}})
        return deleted

    def add(self, name: str, identity: str, body: bytes, version: int | None) -> None:
        """Queue one document; written in bulk when enough are queued, at the latest by :meth:`flush`."""
        queue = self._queued.setdefault(name, [])
        queue.append((identity, body, version))
        if len(queue) >= 5000:
            self.index(name, self._queued.pop(name))

    def flush(self) -> None:
        """Write what :meth:`add` has queued."""
        for name in list(self._queued):
            self.index(name, self._queued.pop(name))

    def clear(self) -> None:
        """Delete the lake's own indices."""
        for alias in (LOGS, METRICS, HEALTH):
            # By their names: deleting by a wildcard is switched off by default.
            for index in self.client.options(ignore_status=404).indices.get_alias(name=alias).body:
                if index.startswith(alias):
                    self.client.indices.delete(index=index)

    def progress(self) -> dict[str, Any]:
        """How far the fan-out to this store is."""
        answer = self.client.options(ignore_status=404).get(index=PROGRESS, id="fanout")
        found: dict[str, Any] = answer.body.get("_source") or {}
        return {"changes": found.get("changes", {}), "silver": found.get("silver", {})}

    def advance(self, progress: dict[str, Any]) -> None:
        """Record progress, after the documents."""
        self.client.index(index=PROGRESS, id="fanout", document=progress)

    def refresh(self) -> None:
        """Make everything written visible to searches."""
        self.client.indices.refresh(index=[LOGS, METRICS, HEALTH])


def _chunks(name: str, documents: Iterable[tuple[str, bytes, int | None]]) -> Iterator[list[bytes]]:
    lines: list[bytes] = []
    size = 0
    for identity, body, version in documents:
        action: dict[str, Any] = {"_index": name, "_id": document_id(identity)}
        if version is not None:
            action |= {"version": version, "version_type": "external_gte"}
        lines += [orjson.dumps({"index": action}), body]
        size += len(body)
        if size >= CHUNK_BYTES or len(lines) >= 10_000:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines
