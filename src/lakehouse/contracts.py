"""Data contracts: one Open Data Contract Standard file a topic, from which parsing, checking and schemas follow.

Source of the format: Open Data Contract Standard 3.1 (Bitol, Linux Foundation). What the standard leaves to
``customProperties`` and to ``quality`` of type ``custom`` is listed at :class:`Contract` and :class:`Rule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from open_data_contract_standard.model import DataQuality, OpenDataContractStandard, SchemaProperty
from pydantic import ValidationError
from pyspark.sql import types as T

from lakehouse.settings import PROJECT

CONTRACTS = PROJECT / "conf" / "contracts"
TOPICS = ("user-events", "service-logs", "system-metrics")
Kind = Literal["string", "timestamp", "number", "integer", "map", "object"]
_SPARK: dict[Kind, T.DataType] = {
    "string": T.StringType(),
    "timestamp": T.TimestampType(),
    "number": T.DoubleType(),
    "integer": T.LongType(),
    "map": T.MapType(T.StringType(), T.StringType()),
}
SETTLED = timedelta(days=2)
"""What is deleted after its retention must have outlived its duplicates by this: an event may be a day ahead."""
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class ContractError(Exception):
    """A contract file is missing, malformed or contradicts itself; the message names file and place."""


@dataclass(frozen=True)
class Field:
    """One field: its JSON name, its column's name, type and bounds; objects hold further fields."""

    name: str
    column: str
    kind: Kind
    required: bool = False
    values: frozenset[str] | None = None
    minimum: float | None = None
    maximum: float | None = None
    pii: bool = False
    fields: tuple[Field, ...] = ()

    def spark(self) -> T.StructField:
        """The column that holds this field."""
        if self.kind == "object":
            return T.StructField(self.column, T.StructType([f.spark() for f in self.fields]))
        return T.StructField(self.column, _SPARK[self.kind])


@dataclass(frozen=True)
class Rule:
    """An expectation beyond a field's own type: ``path`` must be present, always or when another field has a value."""

    name: str
    severity: Literal["error", "warning"]
    path: tuple[str, ...]
    when: tuple[str, frozenset[str]] | None = None


@dataclass(frozen=True)
class Contract:
    """What a topic's records mean.

    ``identity`` is the path of the field that names a record for ever, or None where the record's hash does
    (``identityHash``); ``samples`` says that each record is a set of named numbers (metrics) rather than one row.
    """

    topic: str
    table: str
    version: str
    fields: tuple[Field, ...]
    rules: tuple[Rule, ...]
    key: tuple[str, ...]
    identity: tuple[str, ...] | None
    samples: bool
    retention: timedelta
    duplicate_horizon: timedelta
    freshness: timedelta

    def schema(self) -> T.StructType:
        """The contract's fields as Spark columns, in the contract's order."""
        return T.StructType([field.spark() for field in self.fields])

    def pii_columns(self) -> frozenset[str]:
        """Columns (dotted) that hold personal data."""

        def walk(fields: tuple[Field, ...], prefix: str) -> set[str]:
            found: set[str] = set()
            for field in fields:
                found |= {prefix + field.column} if field.pii else set()
                found |= walk(field.fields, f"{prefix}{field.column}.")
            return found

        return frozenset(walk(self.fields, ""))


def _properties(items: list[Any] | None) -> dict[str, Any]:
    return {item.property: item.value for item in items or []}


def _field(prop: SchemaProperty, where: str) -> Field:
    name = prop.name or ""
    where = f"{where}.{name}"
    if prop.logicalType not in (*_SPARK, "object"):
        raise ContractError(f"{where}: logicalType {prop.logicalType!r} is not one of {', '.join([*_SPARK, 'object'])}")
    options = prop.logicalTypeOptions or {}
    if unknown := set(options) - {"minimum", "maximum"}:
        raise ContractError(
            f"{where}: logicalTypeOptions {sorted(unknown)} are not supported (minimum and maximum are)"
        )
    if prop.logicalType == "object" and not prop.properties:
        raise ContractError(f"{where}: an object names its properties")
    return Field(
        name=name,
        column=prop.physicalName or name,
        kind=prop.logicalType,
        required=bool(prop.required),
        values=frozenset(str(e.value) for e in prop.enum) if prop.enum else None,
        minimum=options.get("minimum"),
        maximum=options.get("maximum"),
        pii="pii" in (prop.tags or []),
        fields=tuple(_field(p, where) for p in prop.properties or []),
    )


def _rule(quality: DataQuality, owner: str | None, known: set[tuple[str, ...]], where: str) -> Rule:
    where = f"{where}: quality {quality.name!r}"
    body = quality.implementation
    if quality.type != "custom" or quality.engine != "lakehouse" or not isinstance(body, dict) or not quality.name:
        raise ContractError(f"{where}: needs a name, type custom, engine lakehouse and an implementation")
    if quality.severity not in ("error", "warning"):
        raise ContractError(f"{where}: severity is error or warning, not {quality.severity!r}")
    when: tuple[str, frozenset[str]] | None = None
    if set(body) == {"required"}:
        path = tuple(str(body["required"]).split("."))
    elif set(body) == {"requiredWhen"} and owner and len(body["requiredWhen"]) == 1:
        path = (owner,)
        [(field, values)] = body["requiredWhen"].items()
        when = (str(field), frozenset(map(str, values)))
        if (when[0],) not in known:
            raise ContractError(f"{where}: field {field!r} is not in the contract")
    else:
        raise ContractError(
            f"{where}: the implementation is required: PATH, or requiredWhen: {{FIELD: [VALUES]}} on a field"
        )
    if path not in known:
        raise ContractError(f"{where}: field {'.'.join(path)!r} is not in the contract")
    return Rule(quality.name, quality.severity, path, when)


def _paths(fields: tuple[Field, ...], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    paths: set[tuple[str, ...]] = set()
    for field in fields:
        paths |= {(*prefix, field.name)} | _paths(field.fields, (*prefix, field.name))
    return paths


def read(path: Path) -> Contract:
    """Read one contract file.

    Raises:
        ContractError: the file is missing, is not of the standard, or says something that cannot be carried out.
    """
    try:
        document = OpenDataContractStandard.from_string(path.read_text())
    except FileNotFoundError:
        raise ContractError(f"{path}: no such contract; conf/contracts/ holds one file a topic") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise ContractError(f"{path}: not a YAML mapping: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise ContractError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not document.schema_ or len(document.schema_) != 1:
        raise ContractError(f"{path}: schema holds exactly one object")
    schema = document.schema_[0]
    custom, about = _properties(document.customProperties), _properties(schema.customProperties)
    sla = {p.property: p for p in document.slaProperties or []}
    where = f"{path}: {schema.name}"
    fields = tuple(_field(p, where) for p in schema.properties or [])
    known = _paths(fields)
    rules = [_rule(q, None, known, where) for q in schema.quality or []]
    rules += [_rule(q, p.name, known, where) for p in schema.properties or [] for q in p.quality or []]

    def duration(name: str) -> timedelta:
        entry = sla.get(name)
        if entry is None or entry.unit not in _UNITS or not isinstance(entry.value, int | float):
            raise ContractError(f"{path}: slaProperties needs {name} with a number and a unit of d, h, m or s")
        return timedelta(**{_UNITS[entry.unit]: float(entry.value)})

    def reference(name: str) -> tuple[str, ...]:
        parts = tuple(str(about[name]).split("."))
        if parts not in known:
            raise ContractError(f"{where}: {name} {about[name]!r} is not a field of the contract")
        return parts

    if custom.get("topic") not in TOPICS:
        raise ContractError(f"{path}: customProperties needs topic, one of {', '.join(TOPICS)}")
    if not schema.physicalName or "kafkaKey" not in about or ("identity" in about) == ("identityHash" in about):
        raise ContractError(f"{where}: needs physicalName, kafkaKey and either identity or identityHash")
    if not any(f.kind == "timestamp" and f.required for f in fields):
        raise ContractError(f"{where}: needs a required timestamp, the event time")
    if duration("retention") < duration("duplicateHorizon") + SETTLED:
        raise ContractError(
            f"{path}: retention has to exceed duplicateHorizon by {SETTLED.days} days: only what is settled may go"
        )
    return Contract(
        topic=custom["topic"],
        table=schema.physicalName,
        version=document.version or "",
        fields=fields,
        rules=tuple(rules),
        key=reference("kafkaKey"),
        identity=reference("identity") if "identity" in about else None,
        samples=bool(about.get("samples")),
        retention=duration("retention"),
        duplicate_horizon=duration("duplicateHorizon"),
        freshness=duration("freshness"),
    )


@cache
def contracts(folder: Path = CONTRACTS) -> dict[str, Contract]:
    """Every topic's contract, by topic.

    Raises:
        ContractError: a file is wrong, or a topic has none.
    """
    found = {contract.topic: contract for contract in map(read, sorted(folder.glob("*.yaml")))}
    if missing := set(TOPICS) - set(found):
        raise ContractError(f"{folder}: no contract for topic {', '.join(sorted(missing))}")
    return found
