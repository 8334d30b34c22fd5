"""The reference: command line, settings, contracts, tables, API, each as a page of Markdown made from the code."""

from __future__ import annotations

import ast
import json
import re
import types
import typing
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SecretStr

from docs.made.text import ROOT, attribute_docs, cell, code, parsed, prose, table

MADE = "This page is made from the code when the docs are built."


def pages() -> dict[str, str]:
    """Every page, by its path under ``docs/``."""
    return {
        "reference/cli.md": cli(),
        "reference/settings.md": settings(),
        "reference/contracts.md": contracts(),
        "reference/tables.md": tables(),
        "reference/api.md": api(),
        "reference/graphql.md": graphql(),
    }


# --- command line --------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every verb, ``quarantine ls`` for those of a group, with its command; groups come before their verbs."""
    import typer

    from lakehouse.cli import app

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        if name:
            yield name, command
        for child, one in getattr(command, "commands", {}).items():
            yield from walk(one, f"{name} {child}".strip())

    return walk(typer.main.get_command(app), "")


def cli() -> str:
    """Every verb with its arguments and options."""
    found = [(name, one) for name, one in commands() if one.params or not getattr(one, "commands", None)]
    parts = [
        f"# Command line\n\n{MADE}\n",
        "`lakehouse` is at `.venv/bin/lakehouse` after `make setup`. Before the verb, `--debug` (or "
        "`LAKEHOUSE_DEBUG=1`) shows the trace of an error. Exit codes: 0 ok, 1 failed, 2 usage, 3 a check found "
        "problems.\n",
        table(
            ("verb", "what it does"),
            ((f"[`{name}`](#lakehouse-{name.replace(' ', '-')})", _first(command.help)) for name, command in found),
        ),
    ]
    for name, command in found:
        context = command.make_context(f"lakehouse {name}", [], resilient_parsing=True)
        usage = " ".join([f"lakehouse {name}", *command.collect_usage_pieces(context)])
        parts.append(f"## lakehouse {name}\n\n{prose(command.help)}\n\n```\n{usage}\n```\n")
        records = [param.get_help_record(context) for param in command.params if param.name != "help"]
        rows = [(code(_option(record[0])), record[1]) for record in records if record is not None]
        if rows:
            parts.append(table(("argument or option", "meaning"), rows))
    return "\n".join(parts)


def _option(name: str) -> str:
    """An argument or option with the kind of its value in a word; what may be chosen from stays."""
    kinds = {"str": "TEXT", "list[str]": "TEXT", "int": "NUMBER", "float": "NUMBER", "Path": "PATH", "path": "PATH"}
    name = re.sub(r"<(%Y[^>]*)>", lambda m: "TIME" if "%H" in m[1] else "DATE", name)
    return re.sub(r"<([^>]*)>", lambda m: kinds.get(m[1], m[1]), name)


def _first(text: str | None) -> str:
    """The first sentence, or clause where that is all there is."""
    return prose(text).split("\n\n")[0].replace("\n", " ")


# --- settings ------------------------------------------------------------------------------------------------------


def setting_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Every setting: path, type, default, variable, meaning."""
    from lakehouse.settings import Settings

    classes = {
        node.name: attribute_docs(node.body)
        for node in parsed(ROOT / "src/lakehouse/settings.py").body
        if isinstance(node, ast.ClassDef)
    }

    def walk(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[str, str, str, str, str]]:
        for name, field in model.model_fields.items():
            path = (*prefix, name)
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(field.annotation, path)
                continue
            default = field.get_default(call_default_factory=True)
            variable = "LAKEHOUSE_" + "__".join(path).upper()
            yield (
                ".".join(path),
                kind(field.annotation),
                shown(default),
                variable,
                classes[model.__name__].get(name, ""),
            )

    return walk(Settings, ())


def kind(annotation: Any) -> str:
    """A type in words."""
    names = {
        timedelta: "duration", SecretStr: "secret", Path: "path", str: "text", int: "whole number", float: "number",
        bool: "true or false",
    }  # fmt: skip
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in names:
        return names[annotation]
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else kind(a) for a in arguments)
    if origin is typing.Literal:
        return ", ".join(code(a) for a in arguments)
    if origin is tuple:
        return f"list of {kind(arguments[0])}"
    if origin is dict:
        return f"map of {kind(arguments[1])}"
    return str(annotation)


def shown(value: Any) -> str:
    """A default as it would be written; durations as in ISO 8601."""
    match value:
        case None:
            return "none"
        case SecretStr():
            return code(value.get_secret_value())
        case timedelta():
            from pydantic import TypeAdapter

            return code(TypeAdapter(timedelta).dump_python(value, mode="json"))
        case Path():
            return code(value.relative_to(ROOT) if value.is_relative_to(ROOT) else value)
        case bool():
            return code(str(value).lower())
        case tuple() | dict():
            return code(json.dumps(value, default=list))
    return code(value) if value != "" else "empty"


def settings() -> str:
    """Every setting, by part."""
    profile = yaml.safe_load((ROOT / "conf/cluster.yaml").read_text())
    cluster = {
        f"{part}.{name}": value
        for part, values in profile.items()
        if isinstance(values, dict)
        for name, value in values.items()
    } | {name: value for name, value in profile.items() if not isinstance(value, dict)}
    doc = prose(ast.get_docstring(parsed(ROOT / "src/lakehouse/settings.py")))
    parts = [
        f"# Settings\n\n{MADE}\n\n{doc}\n",
        "Durations are ISO 8601 (`PT30S`, `PT10M`, `P1D`); lists and maps in a variable are JSON. `LAKEHOUSE_PROFILE` "
        "chooses `conf/<profile>.yaml`, `LAKEHOUSE_HOME` the home. A setting that does not exist is an error.\n",
    ]
    rows: dict[str, list[tuple[str, ...]]] = {}
    for path, what, default, variable, meaning in setting_rows():
        part = path.rpartition(".")[0]
        if path in cluster:
            default += f"; cluster: {code(cluster[path])}"
        rows.setdefault(part, []).append((f"{code(path)}<br>{code(variable)}", what, default, meaning))
    for part, listed in rows.items():
        parts.append(f"## {part or 'The whole'}\n")
        parts.append(table(("setting, variable", "type", "default", "meaning"), listed))
    return "\n".join(parts)


# --- contracts -----------------------------------------------------------------------------------------------------


def contracts() -> str:
    """Every contract: fields, rules, what is promised of time."""
    parts = [
        f"# Contracts\n\n{MADE} The files are `conf/contracts/*.yaml`, in the Open Data Contract Standard 3.1; "
        "parsing, checks, schemas and erasure follow from them. [How to add a field](../how-to/add-a-field.md).\n",
        'JSON types are strict: `"5"` is no number. Required texts are not blank. Times lie between 1970-01-01 and '
        "24 h after the arrival. A field that is not listed is kept in `_rescued` and reported as drift.\n",
    ]
    for path in sorted((ROOT / "conf/contracts").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        [schema] = document["schema"]
        about = {one["property"]: one["value"] for one in schema["customProperties"]}
        custom = {one["property"]: one["value"] for one in document["customProperties"]}
        promised = {one["property"]: f"{one['value']} {one['unit']}" for one in document["slaProperties"]}
        fields = list(_fields(schema["properties"]))
        identity = about.get("identity") or "hash of " + ", ".join(map(str, about.get("identityHash", ())))
        rules = [*schema.get("quality", []), *(rule for _, field in fields for rule in field.get("quality", []))]
        parts += [
            f"## {document['id']}\n\n{document['description']['purpose']} {document['description']['usage']}\n",
            table(
                ("", ""),
                (
                    ("version", f"{document['version']}, {document['status']}, evolution {custom['evolution']}"),
                    ("table", f"[`{schema['physicalName']}`](tables.md#{anchor(schema['physicalName'])})"),
                    ("Kafka key", code(about["kafkaKey"])),
                    ("identity", code(identity)),
                    ("retention", promised["retention"]),
                    ("freshness objective", promised["freshness"]),
                    ("a repeat is known for", promised["duplicateHorizon"]),
                ),
            ),
            table(
                ("field", "type", "required", "bounds", "personal", "meaning"),
                (
                    (
                        code(name),
                        field["logicalType"],
                        "yes" if field.get("required") else "",
                        _bounds(field),
                        "yes" if "pii" in field.get("tags", []) else "",
                        field.get("description", ""),
                    )
                    for name, field in fields
                    if field["logicalType"] != "object"
                ),
            ),
            table(
                ("rule", "severity", "what it asks", "meaning"),
                ((code(r["name"]), r["severity"], code(_asked(r)), r.get("description", "")) for r in rules),
            ),
            "A rule of severity `error` quarantines a record, a `warning` counts it.\n",
        ]
    return "\n".join(parts)


def _fields(properties: list[dict[str, Any]], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for field in properties:
        name = prefix + field["name"]
        yield name, field
        yield from _fields(field.get("properties", []), f"{name}.")


def _bounds(field: dict[str, Any]) -> str:
    options = field.get("logicalTypeOptions", {})
    if "enum" in field:
        return "one of " + ", ".join(code(one["value"]) for one in field["enum"])
    low, high = options.get("minimum"), options.get("maximum")
    return f"{low} to {high}" if None not in (low, high) else f"at least {low}" if low is not None else ""


def _asked(rule: dict[str, Any]) -> str:
    body = rule["implementation"]
    if "required" in body:
        return f"{body['required']} is there"
    [(field, values)] = body["requiredWhen"].items()
    return f"is there when {field} is {', '.join(values)}"


# --- tables --------------------------------------------------------------------------------------------------------


def anchor(name: str) -> str:
    """The anchor that a heading gets."""
    from markdown.extensions.toc import slugify  # type: ignore[import-untyped]

    return str(slugify(name.replace("`", ""), "-"))


def meaning(name: str) -> str:
    """What a table's module, and the string below its declaration, say about it."""
    layer, _, short = name.partition(".")
    own = ROOT / "src/lakehouse" / layer / f"{short}.py"
    path = own if own.exists() else ROOT / "src/lakehouse/runtime/ledger.py"
    tree = parsed(path)
    text = prose(ast.get_docstring(tree)).partition(": ")[2]
    declared = attribute_docs(tree.body)
    if path != own:
        below = declared.get("LEDGER" if name == "ops.ledger" else "CHANGES", "")
        text = text if name == "ops.ledger" else ""
    else:
        below = declared.get("TABLE", "")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == short and layer == "gold":
                below = "\n\n".join([below, *prose(ast.get_docstring(node)).split("\n\n")[1:]]).strip()
    text = text[:1].upper() + text[1:]
    return "\n\n".join(part for part in (text, below) if part)


def writers() -> dict[str, str]:
    """Who writes each table."""
    from lakehouse.flows import ANALYSES, FLOWS, SHARED, TABLES

    found = {name: "" for name in TABLES}
    for flow in FLOWS:
        for one in flow.tables:
            found[one.name] = f"the stream, from topic `{flow.topic}`"
    for shared in SHARED:
        found[shared.name] = "the stream, from every topic"
    for analysis in ANALYSES:
        found[analysis.table.name] = "an analysis of " + ", ".join(f"`{source}`" for source in analysis.sources)
    return found | {name: "see its meaning" for name, who in found.items() if not who}


def tables() -> str:
    """Every table and every key in the stores."""
    from lakehouse.flows import ANALYSES, STORES, TABLES

    who = writers()
    stores = [*STORES, *(key for analysis in ANALYSES for key in analysis.stores)]
    parts = [
        f"# Tables\n\n{MADE} `src/lakehouse/flows.py` is the map that it follows. Tables are Delta, at "
        "`<root>/<layer>/<name>`; every version holds each key once. Times are UTC.\n",
        table(
            ("table", "key", "written by"),
            (
                (f"[`{name}`](#{anchor(name)})", ", ".join(map(code, one.key)), who[name])
                for name, one in TABLES.items()
            ),
        ),
        "## In the stores\n\nEach key, collection and index has one writer. What the real-time processor shows is told "
        "in the [README](../../README.md).\n",
        table(("store", "name", "from"), ((key.store, code(key.name), code(key.table)) for key in stores)),
    ]
    for name, one in TABLES.items():
        columns = (
            (code(f.name), code(f.dataType.simpleString()), "yes" if f.name in one.key else "") for f in one.schema
        )
        held = ", ".join(f"{key.store} `{key.name}`" for key in stores if key.table == name)
        parts.append(f"## {name}\n\n{meaning(name)}\n\nWritten by {who[name]}." + (f" Also in {held}." if held else ""))
        parts.append("\n" + table(("column", "type", "key"), columns))
    return "\n".join(parts)


# --- API -----------------------------------------------------------------------------------------------------------


def api() -> str:
    """Every operation of ``docs/openapi.json``, by tag, then the schemas."""
    document = json.loads((ROOT / "docs/openapi.json").read_text())
    operations = [
        (method, path, one)
        for path, methods in document["paths"].items()
        for method, one in methods.items()
        if method in ("get", "post", "put", "delete")
    ]
    parts = [
        f"# REST\n\n{MADE} [openapi.json](../openapi.json) is the same for programs; [the API](../api.md) tells how to "
        f"use it, [the error catalogue](../errors.md#problems-of-the-api) what its problems mean.\n\n"
        f"{document['info']['description']}"
    ]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description']}\n")
        for method, path, one in operations:
            if tag["name"] not in one["tags"]:
                continue
            parts.append(f"### {method.upper()} {path}\n\n{one.get('description') or one['summary'] + '.'}\n")
            if rows := [_parameter(document, given) for given in one.get("parameters", [])]:
                parts.append(table(("parameter", "in", "type", "meaning"), rows))
            if "requestBody" in one:
                parts.append("Body: " + _contents(one["requestBody"]["content"]) + "\n")
            parts.append(
                "Answers: "
                + "; ".join(
                    f"**{status}** {_contents(said.get('content', {})) or cell(said['description'])}"
                    if status.startswith("2")
                    else f"{status}"
                    for status, said in one["responses"].items()
                )
                + "\n"
            )
    parts.append("## Schemas\n")
    for name, schema in document["components"]["schemas"].items():
        parts.append(f"### {name}\n\n{schema.get('description', '')}\n")
        required = schema.get("required", [])
        if rows := [
            (code(field) + ("" if field in required else " ?"), _type(one), one.get("description", ""))
            for field, one in schema.get("properties", {}).items()
        ]:
            parts.append(table(("member", "type", "meaning"), rows))
        else:
            parts.append(_type(schema) + "\n")
    return "\n".join(parts)


def _parameter(document: dict[str, Any], given: dict[str, Any]) -> tuple[str, ...]:
    if "$ref" in given:
        given = document["components"]["parameters"][given["$ref"].rpartition("/")[2]]
    schema = given.get("schema", {})
    default = f" Default: {code(json.dumps(schema['default']))}." if schema.get("default") not in (None, []) else ""
    name = code(given["name"]) + ("" if given.get("required") else " ?")
    return name, given["in"], _type(schema), given.get("description", "") + default


def _contents(contents: dict[str, Any]) -> str:
    return ", ".join(
        f"{code(kind)} {_type(one['schema'])}".strip() if one.get("schema") else code(kind)
        for kind, one in contents.items()
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(_type(one) for one in schema[several])
    if "enum" in schema:
        return ", ".join(code(json.dumps(one)) for one in schema["enum"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    if schema.get("type") == "array":
        return "array of " + (_type(schema.get("items", {})) or "anything")
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return "map of " + (_type(schema["additionalProperties"]) or "anything")
    kind = schema.get("type", "")
    kind = " or ".join(kind) if isinstance(kind, list) else str(kind)
    low = schema.get("minimum", schema.get("minLength"))
    high = schema.get("maximum", schema.get("maxLength"))
    bounds = (
        f", {low if low is not None else ''}..{high if high is not None else ''}" if (low, high) != (None, None) else ""
    )
    return kind + (f" ({schema['format']})" if "format" in schema else "") + bounds


def graphql() -> str:
    """The schema of GraphQL as it is committed."""
    schema = (ROOT / "docs/schema.graphql").read_text()
    return (
        "# GraphQL schema\n\n[schema.graphql](../schema.graphql), as it is served at `/graphql`; "
        f"[GraphQL](../graphql.md) tells how to ask it.\n\n```graphql\n{schema}```\n"
    )
