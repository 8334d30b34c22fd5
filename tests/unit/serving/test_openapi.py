"""The API's description: the committed one, complete, and true of every table."""

from __future__ import annotations

import re

import jsonschema_rs
import pytest
from fastapi.routing import APIRoute

from lakehouse.flows import TABLES
from lakehouse.settings import Hdfs, Settings
from serving.catalog import catalog
from serving.openapi import LINKS, described, operations, text
from serving.rest import columns
from serving.rest.columns import component, page, schemas
from serving.schema_files import FILES

DESCRIBED = described()
SECURED = [operation for operation in operations(DESCRIBED) if operation.get("security")]


def test_the_committed_description_is_what_the_api_says_of_itself() -> None:
    assert FILES["openapi"][0].read_text() == text(), "run `lakehouse schema openapi --write`"


def test_every_operation_has_a_name_of_its_own_a_line_and_its_refusals() -> None:
    names = [operation["operationId"] for operation in operations(DESCRIBED)]
    assert len(names) == len(set(names))
    for operation in operations(DESCRIBED):
        assert 10 < len(operation["summary"]) <= 110 and "``" not in operation["description"], operation["operationId"]
        assert len(operation["tags"]) == 1
        for status, answer in operation["responses"].items():
            assert answer["description"], (operation["operationId"], status)
    for operation in SECURED:
        assert {"401", "403"} <= set(operation["responses"]), operation["operationId"]


def test_every_parameter_is_typed_and_described() -> None:
    for operation in operations(DESCRIBED):
        for parameter in operation.get("parameters", []):
            where, schema = (operation["operationId"], parameter["name"]), parameter["schema"]
            assert len(parameter["description"]) > 3, where
            assert "type" in schema and "anyOf" not in schema, where
            assert {"examples", "default", "enum", "maximum"} & set(schema) or parameter["name"] in (
                "select", "order", "cursor", "idempotency-key", "last-event-id"), where  # fmt: skip


def test_every_answer_that_is_json_has_a_shape() -> None:
    for operation in operations(DESCRIBED):
        for status, answer in operation["responses"].items():
            for kind, content in answer.get("content", {}).items():
                if "json" in kind and kind != "application/x-ndjson":
                    known = {"$ref", "anyOf", "properties"}
                    assert set(content["schema"]) & known, (operation["operationId"], status)


def test_every_field_is_typed_and_every_shape_described() -> None:
    for name, schema in DESCRIBED["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, inner in schema.get("properties", {}).items():
            assert {"type", "$ref", "anyOf", "enum", "const"} & set(inner), (name, field)


@pytest.mark.parametrize("name", sorted(catalog()))
def test_rows_of_a_table_are_described_column_by_column(name: str) -> None:
    row = schemas()[component(name)]
    assert list(row["properties"]) == TABLES[name].schema.names
    for column, inner in row["properties"].items():
        assert len(inner["description"]) > 3, f"say in serving/rest/columns.py what {name}.{column} is"
        assert "null" in inner["type"]
        for example in inner.get("examples", []):
            assert jsonschema_rs.is_valid(inner, example), (column, example)
    assert DESCRIBED["components"]["schemas"][page(name)]["properties"]["data"]["items"] == {
        "$ref": f"#/components/schemas/{component(name)}"
    }


def test_every_meaning_is_of_a_column() -> None:
    names = {column for table in catalog().values() for column in table.table.schema.names}
    assert set(columns.COLUMNS) <= names
    assert {tuple(name.rsplit(".", 1)) for name in columns._OF} <= {
        (name, column) for name, table in catalog().items() for column in table.table.schema.names
    }


def test_references_and_links_lead_somewhere() -> None:
    known, names = DESCRIBED["components"]["schemas"], {one["operationId"]: one for one in operations(DESCRIBED)}
    for found in re.findall(r'"#/components/schemas/([^"]+)"', text()):
        assert found in known
    for operation, links in LINKS.items():
        assert set(names[operation]["responses"]["200"]["links"]) == set(links)
        for target, parameters in links.values():
            assert set(parameters) <= {parameter["name"] for parameter in names[target]["parameters"]}


def test_it_is_a_description_by_the_standard() -> None:
    assert DESCRIBED["openapi"] == "3.1.0" and DESCRIBED["info"]["title"] == "lakehouse"
    for name, schema in DESCRIBED["components"]["schemas"].items():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_all_of_the_routes_are_in_it() -> None:
    from serving.app import create_app
    from serving.auth import Keys

    app = create_app(Settings(hdfs=Hdfs(uri="file:///nowhere"), servers="existing"), keys=Keys({"none": "-" * 32}))
    routes = {
        (route.path, method.lower())
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    assert {(path, method) for path, ways in DESCRIBED["paths"].items() for method in ways} >= {
        route for route in routes if route[0].startswith("/v1")
    }
