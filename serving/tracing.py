"""Traces: whose trace a request belongs to (W3C Trace Context), and spans for OpenTelemetry where it is asked for.

FastAPI makes the spans. They are sent where ``OTEL_EXPORTER_OTLP_ENDPOINT`` says, by the exporter of OpenTelemetry,
which is no dependency: ``pip install opentelemetry-exporter-otlp-proto-http``. Without the variable there are none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVICE = "lakehouse-api"
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics", "/v1/stream"})
"""Paths that are asked all the time, or whose answers never end."""
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


def telemetry(environment: Mapping[str, str] = os.environ) -> TelemetryConfig:
    """What FastAPI is told: spans of requests to an endpoint of the environment, or nothing at all.

    Metrics and logs are ours: ``/metrics``, and the log, in which a line carries its trace's id.
    """
    if not any(environment.get(name) for name in ENDPOINTS):
        return {"tracing": False, "metrics": False, "logs": False}
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
    wanted: TelemetryConfig = {
        "tracing": True, "metrics": False, "logs": False, "operation_spans": False, "auto_configure": True,
        "exclude": _untraced,
    }  # fmt: skip
    try:
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    except ImportError:
        return wanted  # then FastAPI has no exporter either, and says so

    class Hiding(SpanProcessor):
        """Takes out of a span what its route does not say: a path names users, and a query may hold anything."""

        def on_start(self, span: Any, parent_context: Any = None) -> None:
            for name in ("url.path", "url.query"):
                if name in (span.attributes or {}):
                    span.set_attribute(name, "[hidden]")

    provider = TracerProvider()
    provider.add_span_processor(Hiding())
    return {**wanted, "tracer_provider": provider}


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope.get("path") in UNTRACED


def trace_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The id of a request's trace: of its span where there is one, else of its ``traceparent``; None without either.

    A header that is malformed, or there twice, is as good as none (Trace Context, 3.2 and 4.3).
    """
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return trace.format_trace_id(span.trace_id)
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) != 1 or (found := _PARENT.fullmatch(given[0].decode("latin-1").strip())) is None:
        return None
    version, of_trace, of_parent, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(of_trace, 16) or not int(of_parent, 16):
        return None
    return of_trace
