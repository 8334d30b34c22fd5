"""``/v1/logs/search``: logs by words, service, level, trace and time, with a histogram and facets (Elasticsearch)."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from serving import auth
from serving.ask import moment, wrong
from serving.auth import Caller
from serving.catalog import PII
from serving.problems import Problem, documented
from serving.rest.answers import Logs, said
from serving.rest.common import RFC3339, collection
from serving.service import Service, now

FACETS = {"service": "service.name", "level": "log.level", "host": "host.name"}
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
BARS = 60
"""Of the histogram, about."""
STEPS_S = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 10800, 43200, 86400)
INDICES = {"history": "logs-service", "live": "logs-live"}


def _word(words: str, example: str, **more: Any) -> Any:
    return Query(max_length=200, description=words, examples=[example], **more)


def _time(name: str, words: str) -> Any:
    return Query(alias=name, max_length=40, description=f"{words} {RFC3339}", examples=["2026-01-31T12:00:00Z"])


def router(service: Service, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1/logs", tags=["logs"])

    @made.get("/search", responses=said(Logs) | documented(401, 403, 422, 429, 503))
    async def search(
        caller: Annotated[Caller, Depends(auth.caller(keys, "read:logs"))],
        q: Annotated[
            str | None,
            Query(
                max_length=1000,
                description='Words of the message: all, "a phrase", a | b, -not, pre*.',
                examples=["timeout -upstream"],
            ),
        ] = None,
        service_name: Annotated[str | None, _word("Of a service alone.", "gateway", alias="service")] = None,
        level: Annotated[str | None, _word("Of a level alone.", "error")] = None,
        host: Annotated[str | None, _word("Of a host alone.", "db-1")] = None,
        trace_id: Annotated[str | None, _word("Of a trace alone.", "4b3f4dec1e21b0efc9af1058f89d0459")] = None,
        since: Annotated[str | None, _time("from", "The first time; a day before `to` by default.")] = None,
        until: Annotated[str | None, _time("to", "The first time no longer wanted; now by default.")] = None,
        source: Annotated[
            Literal["history", "live"], Query(description="`history` is checked and once; `live` is a day, as it came.")
        ] = "history",
        limit: Annotated[int, Query(ge=1, le=500, description="Logs.")] = 100,
        cursor: Annotated[str | None, Query(max_length=4096, description="`next` of the page before.")] = None,
    ) -> Response:
        """Logs, the newest first. Messages are free text: null, and not to be searched, without ``read:pii``."""
        readable = PII in caller.scopes
        if q and not readable:
            raise Problem(403, "insufficient-scope", "To search messages needs the scope read:pii.", scope=PII)
        if caller.user_id is not None:
            raise Problem(403, "not-yours", "Logs are of everybody: a user's token cannot read them.")
        begin, end = _times(since, until)
        terms = {"service.name": service_name, "log.level": level, "host.name": host, "trace.id": trace_id}
        conditions: list[dict[str, Any]] = [{"term": {name: value}} for name, value in terms.items() if value]
        conditions.append({"range": {"@timestamp": {"gte": begin.isoformat(), "lt": end.isoformat()}}})
        query: dict[str, Any] = {"bool": {"filter": conditions}}
        if q:
            words = {"query": q, "fields": ["message", "error.message"], "default_operator": "and"}
            query["bool"]["must"] = [{"simple_query_string": words}]
        about = f"logs {source} {q} {sorted(terms.items(), key=str)} {since} {until}"
        more: dict[str, Any] = {}
        if cursor:
            (begin_us, end_us, *after), _ = service.cursors.open(caller, about, cursor)
            begin, end = datetime.fromisoformat(begin_us), datetime.fromisoformat(end_us)
            conditions[-1] = {"range": {"@timestamp": {"gte": begin_us, "lt": end_us}}}
            more["search_after"] = after
        else:
            step = next((s for s in STEPS_S if (end - begin).total_seconds() / s <= BARS * 1.5), STEPS_S[-1])
            more["aggs"] = _aggregations(step)
            more["track_total_hits"] = True
        found = await service.reads.search(
            INDICES[source], query=query, size=limit, sort=[{"@timestamp": "desc"}, {"event.id": "desc"}], **more
        )
        hits = found["hits"]["hits"]
        following = None
        if len(hits) == limit:
            place = [begin.isoformat(), end.isoformat(), *hits[-1]["sort"]]
            following = service.cursors.seal(caller, about, place, None)
        if readable and hits:
            service.record(caller, INDICES[source], ("message",), len(hits), None)
        rows = [_row(hit, readable) for hit in hits]
        if cursor:
            return collection(rows, following)
        aggregated = found["aggregations"]
        histogram = [
            {"time": bar["key_as_string"], "count": bar["doc_count"], "errors": bar["errors"]["doc_count"]}
            for bar in aggregated["histogram"]["buckets"]
        ]
        facets = {
            name: [{"value": b["key"], "count": b["doc_count"]} for b in aggregated[name]["buckets"]] for name in FACETS
        }
        total = found["hits"]["total"]["value"]
        bounds = {"from": begin, "to": end, "step_s": step}
        return collection(rows, following, total=total, histogram=histogram, facets=facets, **bounds)

    return made


def _times(since: str | None, until: str | None) -> tuple[datetime, datetime]:
    """The span: up to now, and a day long, where it is not said otherwise."""
    times: dict[str, datetime] = {}
    for name, text in (("from", since), ("to", until)):
        try:
            if text is not None:
                times[name] = moment(text)
        except (ValueError, OverflowError):
            raise wrong(name, f"{text!r} is not a time such as 2026-01-31T12:00:00Z") from None
    end = times.get("to", now() + timedelta(seconds=1))
    begin = times.get("from", end - timedelta(days=1) if end > EARLIEST else EARLIEST)
    if begin >= end:
        raise wrong("from", "it must lie before to")
    return begin, end


def _aggregations(step_s: int) -> dict[str, Any]:
    bar = {"field": "@timestamp", "fixed_interval": f"{step_s}s", "min_doc_count": 0}
    failed = {"bool": {"should": [
        {"terms": {"log.level": ["error", "ERROR", "critical", "fatal"]}},
        {"range": {"http.response.status_code": {"gte": 500}}},
    ]}}  # fmt: skip
    return {
        "histogram": {"date_histogram": bar, "aggs": {"errors": {"filter": failed}}},
        **{name: {"terms": {"field": field, "size": 20}} for name, field in FACETS.items()},
    }


def _row(hit: dict[str, Any], readable: bool) -> dict[str, Any]:
    """A log as the API shows it."""
    source = hit["_source"]

    def at(*path: str) -> Any:
        value: Any = source
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        return value

    duration = at("event", "duration")
    return {
        "id": hit["_id"],
        "time": at("@timestamp"),
        "level": at("log", "level"),
        "service": at("service", "name"),
        "host": at("host", "name"),
        "message": at("message") if readable else None,
        "error": at("error", "message") if readable else None,
        "trace_id": at("trace", "id"),
        "path": at("url", "path"),
        "status": at("http", "response", "status_code"),
        "duration_ms": None if duration is None else duration / 1e6,
    }
