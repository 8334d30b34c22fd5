"""``lakehouse drift``: fields that records have and contracts do not, and the contracts that would have them.

How often and since when is the ledger's count by batch (of its most frequent names); what they hold is read from the
newest rows of silver that kept some in ``_rescued``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import yaml

from lakehouse.contracts import CONTRACTS, Contract, contracts
from lakehouse.flows import FLOWS
from lakehouse.query import query
from lakehouse.settings import Settings
from lakehouse.silver.user_events import PROVENANCE

SAMPLED = 10_000
"""Silver rows whose unknown fields are looked at, the newest."""
RESERVED = frozenset({*PROVENANCE.names, "_rescued", "event_id"})
PERSONAL = re.compile(
    r"(^|[._-])(e?mail|phone|mobile|tel|(first|last|full|sur|nick|user|display|real)_?name|address|street|city|zip|postcode"
    r"|ip|ssn|passport|birth\w*|dob|gender|sex|age|lat|lon|latitude|longitude|location|geo|token|password|secret|cookie"
    r"|card|iban|account|device_?id|session_?id|user_?id|user_?agent|contact)($|[._-])",
    re.IGNORECASE,
)
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

Where = tuple[str, ...]


@dataclass(frozen=True)
class Drifted:
    """One unknown field of a topic. ``kind`` is None where no sample was found or no type of contracts holds it all."""

    topic: str
    path: Where
    records: int
    since: datetime | None
    until: datetime | None
    samples: int
    kind: str | None
    personal: bool
    note: str = ""

    @property
    def name(self) -> str:
        """Its dotted path, as the ledger counts it."""
        return ".".join(self.path)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "topic": self.topic, "field": self.name, "records": self.records, "since": _time(self.since),
            "until": _time(self.until), "samples": self.samples, "type": self.kind, "personal": self.personal,
            "note": self.note,
        }  # fmt: skip


def _time(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None


def drift(settings: Settings) -> list[Drifted]:
    """Every unknown field, the most frequent first.

    Raises:
        LakeError: the tables can't be read.
    """
    counted = query(
        settings,
        """select topic, entry.key, sum(entry.value)::bigint, min(first_at), max(last_at)
           from (select topic, first_at, last_at, unnest(map_entries(drift)) as entry from ops.ledger)
           group by all order by 3 desc, 1, 2""",
    ).rows
    seen = {flow.topic: _seen(settings, flow.silver.name) for flow in FLOWS if "_rescued" in flow.silver.schema.names}
    declared = contracts()
    found = []
    for topic, name, records, since, until in counted:
        path, values = seen.get(topic, {}).get(name, (tuple(name.split(".")), []))
        kind, note = inferred(values)
        note = note or _fits(declared[topic], path)
        personal = suspected(path)
        found.append(Drifted(topic, path, records, since, until, len(values), kind, personal, note))
    return found


def _seen(settings: Settings, table: str) -> dict[str, tuple[Where, list[Any]]]:
    rows = query(
        settings, f"select _rescued from {table} where _rescued is not null order by timestamp desc limit {SAMPLED}"
    ).rows
    found: dict[str, tuple[Where, list[Any]]] = {}
    for (text,) in rows:
        for path, value in leaves(orjson.loads(text)):
            found.setdefault(".".join(path), (path, []))[1].append(value)
    return found


def leaves(document: Any, path: Where = ()) -> Iterator[tuple[Where, Any]]:
    """The leaves of a document with their paths; an empty object is one."""
    if isinstance(document, dict) and document:
        for key, value in document.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, document


def inferred(values: Iterable[Any]) -> tuple[str | None, str]:
    """The type of contracts that holds all values but nulls, or None and why not."""
    kinds = {_kind(value) for value in values if value is not None}
    if not kinds:
        return None, "no value of it is among the newest rows"
    if kinds == {"integer", "number"}:
        kinds = {"number"}
    if kinds == {"timestamp", "string"}:
        kinds = {"string"}
    if len(kinds) > 1:
        return None, f"values are of several types: {', '.join(sorted(kinds))}"
    (kind,) = kinds
    if kind in ("boolean", "array", "empty object"):
        return None, f"contracts have no type for {kind} values"
    return kind, ""


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "timestamp" if _RFC3339.fullmatch(value) else "string"
    return "array" if isinstance(value, list) else "empty object"


def suspected(path: Where) -> bool:
    """Whether a field may hold personal data, by its name."""
    return bool(PERSONAL.search("_".join(_WORDS.sub("_", part) for part in path)))


def _fits(contract: Contract, path: Where) -> str:
    """Why a field can't be proposed, or what it needs; empty if nothing."""
    if bad := [part for part in path if not _NAME.fullmatch(part)]:
        return f"{bad[0]!r} is no name of a column"
    known = {field.name: field for field in contract.fields}.get(path[0])
    if known is not None and (known.kind != "object" or len(path) == 1):
        return f"{path[0]} is in the contract, as {known.kind}"
    if contract.samples:
        return "records of this topic are samples: they have no further columns"
    return ""


def proposed(document: dict[str, Any], found: Iterable[Drifted]) -> dict[str, Any] | None:
    """A contract (as YAML has it) with the fields that have a type; None where there is none."""
    fields = [one for one in found if one.kind and not one.note]
    if not fields:
        return None
    changed = deepcopy(document)
    schema = changed["schema"][0]
    for one in sorted(fields, key=lambda one: one.path):
        place = schema
        for depth, part in enumerate(one.path[:-1]):
            place = _child(place, part, "object", top=depth == 0)
        leaf = _child(place, one.path[-1], str(one.kind), top=len(one.path) == 1)
        if one.kind == "map":
            leaf["map"] = {"key": {"logicalType": "string"}, "value": {"logicalType": "string"}}
        leaf["description"] = f"Seen in {one.records} records since {_time(one.since)}"
        if one.personal:
            leaf |= {"tags": ["pii"], "classification": "restricted"}
    major, minor, *_ = str(document["version"]).split(".")
    changed["version"] = f"{major}.{int(minor) + 1}.0"
    return changed


def _child(place: dict[str, Any], name: str, kind: str, top: bool) -> dict[str, Any]:
    properties = place.setdefault("properties", [])
    found: dict[str, Any] | None = next((one for one in properties if one["name"] == name), None)
    if found is None:
        found = {"name": name, "logicalType": kind}
        if top and name in RESERVED:
            found["physicalName"] = f"{name}_"
        properties.append(found)
    return found


def patch(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """What is new in a contract, with the objects that it lies in: the patch of a proposal, itself of the standard."""

    def only(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
        known = {one["name"]: one for one in before}
        fresh = []
        for one in after:
            was = known.get(one["name"])
            if was is None:
                fresh.append(one)
            elif was != one:
                inside = only(was.get("properties", []), one.get("properties", []))
                fresh.append({"name": one["name"], "logicalType": one["logicalType"], "properties": inside})
        return fresh

    head = {name: new[name] for name in ("apiVersion", "kind", "id", "version", "status")}
    properties = only(old["schema"][0]["properties"], new["schema"][0]["properties"])
    return {**head, "schema": [{"name": new["schema"][0]["name"], "properties": properties}]}


def proposals(found: list[Drifted], folder: Path = CONTRACTS) -> dict[str, tuple[Path, dict[str, Any], dict[str, Any]]]:
    """By topic, the contract's file, its patch, and the whole contract as it would be."""
    by_topic: dict[str, list[Drifted]] = defaultdict(list)
    for one in found:
        by_topic[one.topic].append(one)
    out = {}
    for path in sorted(folder.glob("*.yaml")):
        old = yaml.safe_load(path.read_text())
        topic = next(p["value"] for p in old["customProperties"] if p["property"] == "topic")
        if (new := proposed(old, by_topic.get(topic, []))) is not None:
            out[topic] = (path, patch(old, new), new)
    return out


def text(document: dict[str, Any]) -> str:
    """A document as YAML."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
