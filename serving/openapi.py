"""The API's description: OpenAPI 3.1, complete enough to make clients from, and written to ``docs/openapi.json``."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from lakehouse.settings import Hdfs, Settings
from lakehouse.sources.delivery import Delivery
from serving.problems import PROBLEM
from serving.rest import columns

DESCRIPTION = """\
Rows of tables, what is measured, users, logs, models and their answers, and the way in for events.

Every request names its caller by a bearer token, and every answer has an `X-Request-Id`. Errors are problems
(RFC 9457). Times are RFC 3339, UTC; `from` and `to` bound a half-open span. Unknown parameters of
collections are errors.
"""
TAGS: Mapping[str, str] = {
    "events": "Events in.",
    "tables": "Every table of the lake: its columns and its rows.",
    "metrics": "What the platform measures: activity, posts, services, hosts, anomalies, forecasts.",
    "users": "A user's activity, recommendations and notifications. A user's token reaches its own alone.",
    "logs": "Logs by words, service, level, trace and time.",
    "models": "The models: which version answers, who decided so, and their answers.",
    "live": "What happens now, as it happens.",
    "graphql": "The same in one request, as its schema describes.",
    "reports": "The report of a day, as a page or a PDF.",
    "platform": "How the platform is.",
}
LINKS: Mapping[str, Mapping[str, tuple[str, dict[str, str]]]] = {
    "tables_tables": {"table": ("tables_table", {"name": "$response.body#/data/0/name"}),
                      "rows": ("tables_rows", {"name": "$response.body#/data/0/name"})},
    "tables_table": {"rows": ("tables_rows", {"name": "$response.body#/name"})},
    "metrics_services": {"health": ("metrics_health", {"name": "$response.body#/data/0/service"}),
                         "paths": ("metrics_paths", {"name": "$response.body#/data/0/service"})},
    "metrics_hosts": {"utilization": ("metrics_utilization", {"name": "$response.body#/data/0/host"})},
    "metrics_trending": {"engagement": ("metrics_engagement", {"post": "$response.body#/data/0/post_id"})},
    "models_models": {"decisions": ("models_decisions", {"name": "$response.body#/data/0/name"})},
    "users_notifications": {"next": ("users_notifications", {
        "user": "$request.path.user", "cursor": "$response.body#/next"})},
    "logs_search": {"next": ("logs_search", {"cursor": "$response.body#/next"})},
    "metrics_activity": {"next": ("metrics_activity", {"cursor": "$response.body#/next"})},
    "metrics_anomalies": {"next": ("metrics_anomalies", {"cursor": "$response.body#/next"})},
    "metrics_forecasts": {"next": ("metrics_forecasts", {"cursor": "$response.body#/next"})},
    "tables_rows": {"next": ("tables_rows", {
        "name": "$request.path.name", "cursor": "$response.body#/next"})},
}  # fmt: skip
"""Where an answer leads: operation -> name -> (operation, its parameters)."""


_COLLECTION = re.compile(r"\bCollection_(\w+?)_\b")
"""What pydantic calls a page of something."""


def operation_id(route: APIRoute) -> str:
    """What clients call an operation: its subject and its function."""
    return f"{route.tags[0]}_{route.name}" if route.tags else route.name


def install(app: FastAPI) -> None:
    """Make an application describe itself so."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]


def describe(app: FastAPI) -> dict[str, Any]:
    """The description of all routes."""
    made: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, openapi_version="3.1.0", description=DESCRIPTION, routes=app.routes,
        tags=[{"name": name, "description": words} for name, words in TAGS.items()],
    )  # fmt: skip
    made["components"]["schemas"] |= columns.schemas() | {"Problem": PROBLEM}
    for operation in operations(made):
        words = str(operation.get("description", ""))
        operation["summary"] = words.partition("\n")[0].partition(". ")[0].rstrip(".").replace("``", "`")
        operation["description"] = words.replace("``", "`")
        for parameter in operation.get("parameters", []):
            schema = _given(parameter["schema"])
            parameter["schema"] = {name: value for name, value in schema.items() if name != "description"}
        links = LINKS.get(operation["operationId"], {})
        if links:
            operation["responses"]["200"]["links"] = {
                name: {"operationId": target, "parameters": parameters} for name, (target, parameters) in links.items()
            }
    _untitled(made)
    for name, schema in made["components"]["schemas"].items():
        if _COLLECTION.fullmatch(name):
            schema["description"] = "A page."
    named: dict[str, Any] = json.loads(_COLLECTION.sub(r"\1Page", json.dumps(made)))
    return named


def operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All operations of a description."""
    for path in described["paths"].values():
        yield from path.values()


def _given(schema: dict[str, Any]) -> dict[str, Any]:
    """What a parameter is if it is there; there is no null in a query."""
    options: list[dict[str, Any]] = [option for option in schema.get("anyOf", []) if option != {"type": "null"}]
    if len(options) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | options[0]


def _untitled(value: Any) -> None:
    """Leave out the titles that pydantic makes of names."""
    if isinstance(value, dict):
        if isinstance(value.get("title"), str) and {"type", "anyOf", "$ref", "enum", "const"} & set(value):
            del value["title"]
        for inner in value.values():
            _untitled(inner)
    elif isinstance(value, list):
        for inner in value:
            _untitled(inner)


class _Nobody:
    """A producer that is never asked for anything."""

    def poll(self, timeout: float) -> int:
        time.sleep(timeout)
        return 0

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


def described() -> dict[str, Any]:
    """The description, without any server."""
    from serving.app import create_app
    from serving.auth import Keys

    settings = Settings(hdfs=Hdfs(uri="file:///nowhere"), servers="existing")
    delivery = Delivery(lambda: _Nobody(), timedelta(seconds=1))
    return create_app(settings, delivery, keys=Keys({"none": "-" * 32})).openapi()


def text() -> str:
    """The description as it is committed."""
    return json.dumps(described(), indent=1, ensure_ascii=False) + "\n"
