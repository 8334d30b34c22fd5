"""The schema is the committed one, and says of everything what it is."""

from __future__ import annotations

import re

import pytest
from graphql import GraphQLEnumType, GraphQLInputObjectType, GraphQLObjectType, build_schema, validate_schema
from typer.testing import CliRunner

from lakehouse.cli import app
from lakehouse.settings import PROJECT
from serving import schema_files
from serving.graphql.execution import Engine
from serving.graphql.limits import Limits, weights
from serving.graphql.schema import schema, sdl


@pytest.mark.parametrize("name", schema_files.FILES)
def test_the_committed_description_is_the_one_that_is_served(name: str) -> None:
    path, _ = schema_files.FILES[name]
    assert path.read_text(encoding="utf-8") == schema_files.text(name), f"run: lakehouse schema {name} --write"


def test_the_command_prints_it() -> None:
    said = CliRunner().invoke(app, ["schema", "graphql"])
    assert said.exit_code == 0 and said.stdout == sdl()


def test_it_is_valid_and_reads_back_the_same() -> None:
    assert validate_schema(schema()) == []
    assert validate_schema(build_schema(sdl())) == []


def test_everything_in_it_is_described() -> None:
    for kind in schema().type_map.values():
        if kind.name.startswith("__"):
            continue
        assert kind.description, kind.name
        if isinstance(kind, GraphQLObjectType | GraphQLInputObjectType):
            for name, field in kind.fields.items():
                assert field.description, f"{kind.name}.{name}"
                for argument, given in getattr(field, "args", {}).items():
                    assert given.description, f"{kind.name}.{name}({argument})"
        if isinstance(kind, GraphQLEnumType):
            assert all(value.description for value in kind.values.values()), kind.name


def test_every_list_of_objects_says_how_long_it_can_be() -> None:
    found = weights(schema())  # which fails for a list that does not
    assert found["Query", "activity"].sized == "first" and found["Query", "users"].sized == "ids"
    assert found["Table", "columns"].size > 1


def test_every_connection_is_one_of_relay() -> None:
    names = {name.removesuffix("Connection") for name in schema().type_map if name.endswith("Connection")}
    assert len(names) >= 10
    for name in names:
        edge, connection = schema().type_map[f"{name}Edge"], schema().type_map[f"{name}Connection"]
        assert isinstance(edge, GraphQLObjectType) and isinstance(connection, GraphQLObjectType)
        assert {"node", "cursor"} <= set(edge.fields) and str(edge.fields["cursor"].type) == "String!"
        assert str(connection.fields["edges"].type) == f"[{name}Edge!]!"
        assert str(connection.fields["pageInfo"].type) == "PageInfo!"
    info = schema().type_map["PageInfo"]
    assert isinstance(info, GraphQLObjectType)
    assert {name: str(field.type) for name, field in info.fields.items()} == {
        "hasNextPage": "Boolean!", "hasPreviousPage": "Boolean!", "startCursor": "String", "endCursor": "String"
    }  # fmt: skip


def test_the_example_of_the_documentation_is_valid_and_within_the_limits() -> None:
    (example,) = re.findall(r"```graphql\n(.*?)```", (PROJECT / "docs" / "graphql.md").read_text("utf-8"), re.DOTALL)
    assert Engine(schema(), Limits(), 10).prepare(example, None, {"ids": ["u1", "u2"]}, False).cost < 1_000
