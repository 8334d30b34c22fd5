"""``/metrics``: what it says, what it costs, who may read it, and that dashboards and alerts ask for no other."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any

import httpx2
import pytest
import yaml
from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from lakehouse.settings import PROJECT
from serving import facts, problems
from serving.auth import Caller
from serving.metrics import Measured, Metrics, Source, router
from serving.problems import Problem
from tests.unit.serving.platform_facts import everything, metrics, source

pytestmark = pytest.mark.anyio
CONF = PROJECT / "conf"


def samples(body: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and sorted labels; a sample that is there twice is an error."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(body: bytes, name: str, **labels: str) -> float | None:
    return samples(body).get((name, tuple(sorted(labels.items()))))


# --- what it says ----------------------------------------------------------------------------------------------------


async def test_the_facts_of_the_platform_are_there_with_their_values() -> None:
    body, media_type = await metrics().scrape()
    assert media_type.startswith("text/plain")
    for expected, name, labels in (
        (1.5, "lakehouse_topic_lag_seconds", {"topic": "user-events"}),
        (7, "lakehouse_topic_lag_records", {"topic": "user-events"}),
        (40, "lakehouse_pipeline_batches_total", {"topic": "user-events"}),
        (100, "lakehouse_pipeline_records_total", {"topic": "user-events"}),
        (6, "lakehouse_pipeline_outcomes_total", {"topic": "user-events", "outcome": "quarantined"}),
        (0.55, "lakehouse_pipeline_batch_seconds", {"topic": "user-events", "quantile": "0.5"}),
        (1, "lakehouse_store_up", {"store": "mongodb"}),
        (0, "lakehouse_store_up", {"store": "redis"}),
        (2, "lakehouse_store_behind_batches", {"store": "mongodb", "topic": "user-events"}),
        (0, "lakehouse_hdfs_up", {}),
        (3, "lakehouse_stream_restarts_total", {}),
        (2, "lakehouse_program_restarts_total", {"program": "stream"}),
        (3, "lakehouse_realtime_waiting_records", {"processor": "realtime-1", "task": "users"}),
        (5, "lakehouse_realtime_events_total", {"processor": "realtime-1", "task": "users", "outcome": "late"}),
        (1, "lakehouse_model_info", {"model": "trend", "version": "3"}),
        (3, "lakehouse_model_decisions_total", {"model": "trend", "action": "promoted"}),
        (4, "lakehouse_api_table_version", {"table": "gold.activity_minute"}),
        (3, "lakehouse_api_cache_requests_total", {"result": "hit"}),
        (2, "lakehouse_api_streams", {}),
        (1, "lakehouse_api_streams_ended_total", {"reason": "slow"}),
        (0, "lakehouse_api_streams_ended_total", {"reason": "left"}),
        (2048, "lakehouse_api_access_log_waiting_bytes", {}),
        (1, "lakehouse_api_requests_total", {"route": "/v1/services", "method": "GET", "status": "200"}),
        (1, "lakehouse_api_request_duration_seconds_bucket", {"route": "/v1/services", "method": "GET", "le": "0.005"}),
        (
            0,
            "lakehouse_api_request_duration_seconds_bucket",
            {"route": "/v1/services", "method": "GET", "le": "0.0025"},
        ),
        (0, "lakehouse_scrape_errors_total", {"source": "all"}),
    ):
        assert value(body, name, **labels) == pytest.approx(expected), (name, labels)


async def test_what_is_not_known_is_left_out_not_zero() -> None:
    body, _ = await metrics().scrape()
    known = {name: labels for name, labels in samples(body)}
    assert value(body, "lakehouse_topic_lag_records", topic="service-logs") is None
    assert value(body, "lakehouse_realtime_waiting_records", processor="gone", task="users") is None
    assert value(body, "lakehouse_model_published_timestamp_seconds", model="anomaly") is None
    assert "lakehouse_topic_lag_records" in known


def test_a_platform_of_which_nothing_is_known_yet_says_nothing_wrong() -> None:
    empty: dict[str, Any] = {"at": None, "topics": {}, "stores": {}, "batches": [], "totals": []}
    found = [*facts.pipeline(empty), *facts.stream(None), *facts.processors({}, 0), *facts.models([], [])]
    assert not [sample for family in found for sample in family.samples]


RESERVED = {"job", "instance", "le"}


async def test_names_follow_prometheus_conventions() -> None:
    body, _ = await metrics().scrape()
    text = body.decode()
    assert len(re.findall(r"^# TYPE (\S+)", text, re.M)) == len(set(re.findall(r"^# TYPE (\S+)", text, re.M)))
    for family in text_string_to_metric_families(text):
        name = family.name
        assert re.fullmatch(r"(lakehouse|process)_[a-z][a-z0-9_]*", name) and "__" not in name, name
        assert family.documentation.strip(), name
        assert family.type in ("gauge", "counter", "histogram"), name
        assert not re.search(r"_(gauge|counter|histogram|ms|milliseconds|minutes|kb|mb|percent)(_|$)", name), name
        for sample in family.samples:
            assert (family.type == "counter") == sample.name.endswith("_total"), sample.name
            assert all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels), sample
            own = set(sample.labels) - ({"le"} if family.type == "histogram" else set())
            assert not own & RESERVED, sample
            assert not any(sample.name.endswith(f"_{label}") for label in own), sample


async def test_the_openmetrics_format_is_given_to_who_asks_for_it() -> None:
    body, media_type = await metrics().scrape("application/openmetrics-text;version=1.0.0")
    assert media_type.startswith("application/openmetrics-text") and body.endswith(b"# EOF\n")


# --- requests --------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(counted: Metrics) -> AsyncIterator[httpx2.AsyncClient]:
    app, inner = FastAPI(), APIRouter(prefix="/v1")

    @inner.get("/users/{id}/activity")
    async def activity(id: str) -> str:
        if id == "fails":
            raise RuntimeError("of nobody's fault")
        if id == "often":
            raise Problem(429, "too-often", "Slower.")
        return id

    @inner.get("/stream")
    async def stream() -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            yield b":\n\n"
            await asyncio.sleep(0.2)

        from fastapi.responses import StreamingResponse

        return StreamingResponse(chunks(), media_type="text/event-stream")

    app.include_router(inner)
    problems.install(app)
    app.add_middleware(Measured, metrics=counted)
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api") as made:
        yield made


async def test_requests_are_counted_by_the_template_of_their_route_never_by_what_is_in_it(
    client: httpx2.AsyncClient, counted: Metrics
) -> None:
    for n in range(50):
        await client.get(f"/v1/users/u{n}/activity?secret=x{n}")
        await client.get(f"/nowhere/{n}")
    await client.request("BREW", "/v1/users/u1/activity")
    await client.get("/v1/users/fails/activity")
    await client.get("/v1/users/often/activity")
    body, _ = await counted.scrape()
    found = {labels: n for (name, labels), n in samples(body).items() if name == "lakehouse_api_requests_total"}
    activity = "/v1/users/{id}/activity"
    assert found == {
        (("method", "GET"), ("route", activity), ("status", "200")): 50,
        (("method", "GET"), ("route", "none"), ("status", "404")): 50,
        (("method", "other"), ("route", activity), ("status", "405")): 1,
        (("method", "GET"), ("route", activity), ("status", "500")): 1,
        (("method", "GET"), ("route", activity), ("status", "429")): 1,
    }
    assert value(body, "lakehouse_api_rate_limited_total") == 1
    assert value(body, "lakehouse_api_requests_in_progress") == 0
    assert b"secret" not in body and b"u49" not in body


async def test_a_stream_is_timed_to_its_beginning(client: httpx2.AsyncClient, counted: Metrics) -> None:
    await client.get("/v1/stream")
    body, _ = await counted.scrape()
    assert (value(body, "lakehouse_api_request_duration_seconds_sum", route="/v1/stream", method="GET") or 9) < 0.15


async def test_a_client_that_leaves_is_no_longer_under_way(counted: Metrics) -> None:
    async def leaves(scope: Any, receive: Any, send: Any) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Measured(leaves, counted)({"type": "http", "method": "GET", "path": "/"}, None, None)  # type: ignore[arg-type]
    body, _ = await counted.scrape()
    assert value(body, "lakehouse_api_requests_in_progress") == 0
    assert value(body, "lakehouse_api_requests_total", route="none", method="GET", status="gone") == 1


# --- what a scrape costs ---------------------------------------------------------------------------------------------


def up(number: float) -> list[Metric]:
    return [facts.gauge("answer", "Of a test.", [], [([], number)])]


class Slow:
    """A source that answers when told."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: asyncio.Future[Iterable[Metric]] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> Iterable[Metric]:
        self.asked += 1
        return await asyncio.shield(self.answer)


async def test_a_source_that_hangs_holds_no_scrape_up_and_is_asked_once_at_a_time() -> None:
    slow = Slow()
    made = Metrics([Source("slow", slow, 0.0), source("quick", lambda: up(1))], within_s=0.05)
    began = time.monotonic()
    for _ in range(3):
        body, _ = await made.scrape()
        assert value(body, "lakehouse_answer") == 1
    assert time.monotonic() - began < 1 and slow.asked == 1
    slow.answer.set_result([facts.gauge("late", "Of a test.", [], [([], 7)])])
    body, _ = await made.scrape()
    assert value(body, "lakehouse_late") == 7
    await made.close()


async def test_a_source_that_fails_is_counted_and_its_last_facts_stay_with_their_age() -> None:
    answers: Iterator[Any] = iter([up(1), RuntimeError("away"), RuntimeError("away"), up(2)])

    def ask() -> Iterable[Metric]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        found: Iterable[Metric] = answer
        return found

    made = Metrics([source("moody", ask, 0.0)])
    seen = []
    for _ in range(4):
        body, _ = await made.scrape()
        errors = value(body, "lakehouse_scrape_errors_total", source="moody")
        seen.append((value(body, "lakehouse_answer"), errors))
        assert value(body, "lakehouse_scrape_age_seconds", source="moody") is not None
    assert seen == [(1, 0), (1, 1), (1, 2), (2, 2)]


async def test_facts_that_are_too_old_are_not_shown() -> None:
    made = Metrics([source("old", lambda: up(1), fresh_s=1e9)])
    await made.scrape()
    made.sources[0].made -= 1000
    made.sources[0].fresh_s = 1e9
    body, _ = await made.scrape()
    assert value(body, "lakehouse_answer") is None
    assert value(body, "lakehouse_scrape_age_seconds", source="old") is None


async def test_scrapes_at_the_same_time_ask_once() -> None:
    slow = Slow()
    made = Metrics([Source("slow", slow)])
    scrapes = [asyncio.create_task(made.scrape()) for _ in range(10)]
    while not slow.asked:
        await asyncio.sleep(0)
    slow.answer.set_result(up(1))
    for scrape in scrapes:
        assert value((await scrape)[0], "lakehouse_answer") == 1
    assert slow.asked == 1


async def test_a_scrape_of_facts_that_are_known_takes_less_than_50_ms() -> None:
    made = metrics()
    for n in range(60):  # routes
        for status in (200, 304, 401, 403, 404, 422, 429, 503):
            made.begun()
            made.answered(f"/v1/route/{n}", "GET", status, 0.01)
    await made.scrape()
    began = time.process_time()
    await made.scrape()
    assert time.process_time() - began < 0.05


# --- who may read it -------------------------------------------------------------------------------------------------

TOKEN = SecretStr("t" * 32)


async def status_of(
    client: str, headers: Mapping[bytes, bytes], token: SecretStr | None = TOKEN, proxy: bool = False
) -> int:
    app = FastAPI()
    problems.install(app)

    async def caller(request: Request) -> Caller | None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if not given:
            return None
        if given not in ("admin", "read:metrics"):
            raise Problem(401, "unauthorised", "The token is not valid.")
        return Caller("tester", frozenset({given}))

    app.include_router(router(metrics(), caller, token, proxy))
    transport = httpx2.ASGITransport(app, client=(client, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://api") as made:
        return (await made.get("/metrics", headers=headers)).status_code


@pytest.mark.parametrize(
    ("client", "bearer", "status"),
    [
        ("127.0.0.1", None, 200),
        ("::1", None, 200),
        ("10.0.0.9", None, 401),
        ("testclient", None, 401),
        ("10.0.0.9", "t" * 32, 200),
        ("10.0.0.9", "t" * 31, 401),
        ("10.0.0.9", "", 401),
        ("10.0.0.9", "é", 401),
        ("10.0.0.9", "admin", 200),
        ("10.0.0.9", "read:metrics", 403),
    ],
)
async def test_metrics_are_for_this_machine_the_metrics_token_and_admins(
    client: str, bearer: str | None, status: int
) -> None:
    headers = {} if bearer is None else {b"Authorization": f"Bearer {bearer}".encode()}
    assert await status_of(client, headers) == status


async def test_behind_a_proxy_who_comes_from_this_machine_is_nobody_in_particular() -> None:
    assert await status_of("127.0.0.1", {}, proxy=True) == 401
    assert await status_of("127.0.0.1", {b"Authorization": b"Bearer " + b"t" * 32}, proxy=True) == 200


async def test_without_a_metrics_token_no_word_passes_for_it() -> None:
    for word in ("", "None", "null"):
        assert await status_of("10.0.0.9", {b"Authorization": f"Bearer {word}".encode()}, token=None) == 401


# --- dashboards and alerts -------------------------------------------------------------------------------------------

_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_METRIC = re.compile(r"(?<![\w.$])((?:lakehouse|process)_\w+|up)(?=\s*[{\[)]|\s*$|\s+[=!<>+*/-]|\s+and\b|\s*\))")


def named(expression: str) -> set[str]:
    return set(_METRIC.findall(_STRINGS.sub('""', expression)))


def balanced(expression: str) -> bool:
    pairs, open_now = {")": "(", "]": "[", "}": "{"}, []
    for c in _STRINGS.sub('""', expression):
        if c in "([{":
            open_now.append(c)
        elif c in pairs and (not open_now or open_now.pop() != pairs[c]):
            return False
    return not open_now


async def exported() -> set[str]:
    body, _ = await metrics().scrape()
    return {name for name, _ in samples(body)} | {"up"}  # of Prometheus itself


def test_names_are_found_in_queries() -> None:
    query = 'sum(rate(lakehouse_a_total{x="lakehouse_b"}[5m])) / lakehouse_c > 1 and on (t) max(up) == 0'
    assert named(query) == {"lakehouse_a_total", "lakehouse_c", "up"}
    assert balanced(query) and not balanced(query + ")") and not balanced("sum(a]")


def queries(dashboard: dict[str, Any]) -> list[str]:
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [one["expr"] for one in dashboard["annotations"]["list"]]
    return found + [one["definition"] for one in dashboard["templating"]["list"] if one["type"] == "query"]


async def test_every_query_of_the_dashboard_names_metrics_that_are_exported() -> None:
    dashboard = json.loads((CONF / "grafana" / "lakehouse.json").read_text())
    known, asked = await exported(), queries(dashboard)
    assert len(asked) > 40
    for query in asked:
        found = named(query) or set(re.findall(r"label_values\((\w+),", query))
        assert found and found <= known, (query, found - known)
        assert balanced(query), query


async def test_every_metric_of_the_platform_is_on_the_dashboard_or_is_in_an_alert() -> None:
    dashboard = json.loads((CONF / "grafana" / "lakehouse.json").read_text())
    asked = {name for query in [*queries(dashboard), *(rule["expr"] for rule in rules())] for name in named(query)}
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    families = {f.name + ("_total" if f.type == "counter" else "") for f in everything()}
    # One is shown by another, one is for those who look closer.
    assert families - asked == {
        "lakehouse_pipeline_asked_timestamp_seconds",
        "lakehouse_api_table_version",
        "lakehouse_api_streams_opened_total",
    }


def test_the_panels_of_the_dashboard_do_not_lie_on_each_other() -> None:
    dashboard = json.loads((CONF / "grafana" / "lakehouse.json").read_text())
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((CONF / "prometheus" / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


async def test_every_alert_names_metrics_that_are_exported_and_says_what_to_do() -> None:
    known, seen = await exported(), set()
    for rule in rules():
        found = named(rule["expr"])
        assert found and found <= known, (rule["alert"], found - known)
        assert balanced(rule["expr"]) and rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"] and rule["alert"] not in seen
        assert not re.search(r"<no value>|\{\{[^}]*$", rule["annotations"]["summary"])
        seen.add(rule["alert"])
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            grouped = re.search(rf"\b(by|on) \([^)]*\b{label}\b", rule["expr"])
            whole = re.fullmatch(r"\w+\(?lakehouse_\w+.*|lakehouse_\w+ == 0|up\{.*", rule["expr"])
            assert grouped or whole, (rule["alert"], label)
    assert len(seen) >= 15


def test_prometheus_reads_the_rules_and_asks_the_api() -> None:
    config = yaml.safe_load((CONF / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] == "/metrics" and job["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
    assert all((CONF / "prometheus" / name).exists() for name in config["rule_files"])
