"""Whose trace a request belongs to, and spans where OpenTelemetry is asked for."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lakehouse.logs import JsonLines
from lakehouse.settings import PROJECT
from serving import problems
from serving.tracing import telemetry, trace_id

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def of(*values: str) -> str | None:
    return trace_id([(b"host", b"a"), *((b"traceparent", value.encode("utf-8")) for value in values)])


@pytest.mark.parametrize(
    "value", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-more"]
)
def test_the_trace_of_a_traceparent_is_taken(value: str) -> None:
    assert of(value) == TRACE


@pytest.mark.parametrize(
    "value",
    [
        "", "00", TRACE, f"00-{TRACE}-{PARENT}", f"00-{TRACE.upper()}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-1", f"00-{TRACE}-{PARENT}-01\nX: y", f"00-{TRACE}a-{PARENT}-01",
    ],
)  # fmt: skip
def test_what_is_no_traceparent_is_none(value: str) -> None:
    assert of(value) is None


def test_two_of_them_are_none() -> None:
    assert of(f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-01") is None and of() is None


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example(f"00-{TRACE}-{PARENT}-01")
def test_whatever_the_header_is_the_answer_is_a_trace_id_or_none(text: str) -> None:
    found = of(text)
    assert found is None or (len(found) == 32 and int(found, 16))


@pytest.mark.anyio
async def test_lines_of_a_request_carry_its_id_and_its_trace() -> None:
    app, lines = FastAPI(), []
    problems.install(app)

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines().format(record)))

    @app.get("/x")
    async def x() -> str:
        logging.getLogger("serving.somewhere").warning("in the middle")
        return ""

    handler, log = Kept(), logging.getLogger("serving")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api") as client:
            headers = {"X-Request-Id": "r-1", "traceparent": f"00-{TRACE}-{PARENT}-01"}
            await client.get("/x", headers=headers)
            await client.get("/x", headers={"X-Request-Id": "r-2"})
    finally:
        log.removeHandler(handler)
    seen = [(line["logger"], line["request_id"], line.get("trace_id")) for line in lines]
    assert seen == [
        ("serving.somewhere", "r-1", TRACE),
        ("serving.problems", "r-1", TRACE),
        ("serving.somewhere", "r-2", None),
        ("serving.problems", "r-2", None),
    ]


def test_without_an_endpoint_there_are_no_spans_and_nothing_is_loaded_for_them() -> None:
    assert telemetry({}) == {"tracing": False, "metrics": False, "logs": False}
    assert telemetry({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})["tracing"] is False


# A process of its own, as OpenTelemetry's provider is one for the process. The exporter is a fake one under its name.
TRACED = """
import asyncio, json, sys, types
import httpx2
from fastapi import FastAPI
exported = []
if sys.argv[1] == "installed":
    class Exporter:
        def __init__(self, endpoint=None, **_): self.endpoint = endpoint
        def export(self, spans):
            from opentelemetry.sdk.trace.export import SpanExportResult
            exported.extend((self.endpoint, json.loads(span.to_json())) for span in spans)
            return SpanExportResult.SUCCESS
        def shutdown(self): pass
        def force_flush(self, timeout_millis=0): return True
    base = "opentelemetry.exporter.otlp.proto.http"
    names = {"": None, "._log_exporter": "OTLPLogExporter", ".metric_exporter": "OTLPMetricExporter",
             ".trace_exporter": "OTLPSpanExporter"}
    for parent in ("opentelemetry.exporter", "opentelemetry.exporter.otlp", "opentelemetry.exporter.otlp.proto"):
        sys.modules[parent] = types.ModuleType(parent)
    for tail, name in names.items():
        sys.modules[base + tail] = types.ModuleType(base + tail)
        if name:
            setattr(sys.modules[base + tail], name, Exporter)
from serving import problems
from serving.tracing import telemetry, trace_id
app = FastAPI(telemetry=telemetry())
problems.install(app)
seen = []
@app.get("/v1/users/{id}")
async def user(id: str):
    seen.append(trace_id([]))
    return id
@app.get("/healthz")
async def healthz():
    return "ok"
async def main():
    sent, come = asyncio.Queue(), asyncio.Queue()
    await come.put({"type": "lifespan.startup"})
    life = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, come.get, sent.put))
    await sent.get()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://api") as client:
        parent = {"traceparent": sys.argv[2]}
        answer = await client.get("/v1/users/u1?token=very-secret", headers=parent)
        await client.get("/healthz", headers=parent)
    await come.put({"type": "lifespan.shutdown"})
    await life
    print(json.dumps({"status": answer.status_code, "seen": seen, "exported": exported}))
asyncio.run(main())
"""


def traced(installed: str) -> tuple[dict[str, Any], str]:
    env = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "PYTHONPATH": f"{PROJECT}:{PROJECT}/src",
    }
    ended = subprocess.run(
        [sys.executable, "-c", TRACED, installed, f"00-{TRACE}-{PARENT}-01"],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found, ended.stderr


def test_with_an_endpoint_and_the_exporter_each_request_is_a_span_of_its_callers_trace() -> None:
    found, _ = traced("installed")
    ((endpoint, span),) = found["exported"]
    assert endpoint == "http://127.0.0.1:4318/v1/traces" and span["name"] == "GET /v1/users/{id}"
    assert span["context"]["trace_id"] == f"0x{TRACE}" and span["parent_id"] == f"0x{PARENT}"
    assert span["resource"]["attributes"]["service.name"] == "lakehouse-api"
    assert found["status"] == 200 and found["seen"] == [TRACE]
    assert not any(word in json.dumps(span) for word in ("very-secret", "users/u1"))


def test_without_the_exporter_the_api_serves_and_says_what_is_missing() -> None:
    found, said = traced("missing")
    assert (found["status"], found["exported"]) == (200, []) and "telemetry" in said
