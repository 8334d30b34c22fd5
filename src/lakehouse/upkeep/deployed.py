"""What the running code declares, written down at every start of the stream: ``<root>/_internal/deployed.json``.

A declaration is data: tables, contracts, aggregates, stores, state of the real-time processor. ``plan.py`` holds the
new code's against it. What a change asks for stays on record as pending until its command was run by the code that
asks for it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from lakehouse.contracts import Contract, Field, contracts
from lakehouse.flows import ANALYSES, FLOWS, STORES, TABLES, Analysis, Flow, StoreKey
from lakehouse.gold.aggregate import Aggregate, Distinct
from lakehouse.settings import Settings
from lakehouse.sinks.files import Files
from lakehouse.tables import Table

RECORD = "_internal/deployed.json"
FORMAT = 1
_log = logging.getLogger("lakehouse.deployed")
_UNITS = {"retention", "duplicate_horizon", "freshness"}


def fingerprint(
    settings: Settings,
    flows: Iterable[Flow] = FLOWS,
    declared: Mapping[str, Contract] | None = None,
    tables: Mapping[str, Table] = TABLES,
    stores: Iterable[StoreKey] = STORES,
    analyses: Iterable[Analysis] = ANALYSES,
) -> dict[str, Any]:
    """Everything that data already written depend on, as plain JSON."""
    from lakehouse.runtime.fanout import FANOUT, FOLLOWED
    from lakehouse.sinks.elasticsearch import MAPPINGS

    flows, declared = tuple(flows), contracts() if declared is None else declared
    return {
        "engine": settings.stream.engine,
        "stores": list(settings.stream.stores),
        "detect": settings.stream.detect,
        "time_travel_s": settings.stream.time_travel.total_seconds(),
        "versions": {name: metadata.version(name) for name in ("pyspark", "delta-spark")},
        "flows": {flow.topic: _flow(flow) for flow in flows},
        "contracts": {topic: _contract(one) for topic, one in declared.items()},
        "tables": {name: _table(table) for name, table in sorted(tables.items())},
        "aggregates": {a.name: _aggregate(a) for flow in flows for a in flow.gold},
        "store_keys": {
            f"{key.store}:{key.name}": key.table
            for key in (*stores, *(key for analysis in analyses for key in analysis.stores))
        },
        "indices": {name: dict(mapping) for name, mapping in MAPPINGS.items()},
        "followed": {
            name: sorted(FOLLOWED) if name == "elasticsearch" else ["_internal.gold_changes"] for name in FANOUT
        },
        "detector": _detector(),
        "realtime": _realtime(settings),
    }


def _flow(flow: Flow) -> dict[str, Any]:
    return {
        "bronze": flow.bronze.name,
        "silver": flow.silver.name,
        "gold": [table.name for table in flow.gold_tables],
        "parsing": _digest(inspect.getsource(inspect.getmodule(flow.parse.row) or flow.parse.row)),
    }


def _contract(one: Contract) -> dict[str, Any]:
    found = {
        f.name: getattr(one, f.name).total_seconds() if f.name in _UNITS else getattr(one, f.name)
        for f in fields(one)
        if f.name not in ("fields", "rules")
    }
    rules = {rule.name: plain(asdict(rule)) for rule in one.rules}
    return plain(found) | {"fields": dict(_leaves(one.fields)), "rules": rules}  # type: ignore[no-any-return]


def _leaves(found: tuple[Field, ...], path: str = "") -> Iterable[tuple[str, dict[str, Any]]]:
    for field in found:
        name = f"{path}{field.name}"
        facts = {f.name: getattr(field, f.name) for f in fields(field) if f.name not in ("name", "fields")}
        yield name, plain(facts)
        yield from _leaves(field.fields, f"{name}.")


def _table(table: Table) -> dict[str, Any]:
    columns = {field.name: field.dataType.simpleString() for field in table.schema}
    return {"columns": columns, "key": list(table.key), "order": list(table.order)}


def _aggregate(a: Aggregate) -> dict[str, Any]:
    return {
        "source": a.source,
        "keys": {name: list(kind) for name, kind in a.keys.items()},
        "where": a.where,
        "width_s": a.width.total_seconds(),
        "measures": {m.name: {"of": type(m).__name__, **plain(asdict(m))} for m in a.measures},
        "distinct": sorted(m.name for m in a.measures if isinstance(m, Distinct)),
    }


def _detector() -> dict[str, Any]:
    """The stream's only state in a Spark checkpoint: its columns, and the classes that are pickled into it."""
    from lakehouse.predict.watch import MEASURES, Lines, Watched
    from lakehouse.runtime.detect import FOUND

    kept = {one.__name__: {f.name: str(f.type) for f in fields(one)} for one in (Watched, Lines)}
    return {"columns": FOUND, "state": kept, "measures": plain(dict(MEASURES))}


def _realtime(settings: Settings) -> dict[str, Any]:
    from lakehouse import alerts
    from lakehouse.realtime import messages, task
    from lakehouse.realtime.state import Store
    from lakehouse.realtime.task import Context, Stage
    from lakehouse.realtime.topology import TASKS

    context = Context(settings.realtime, alerts.read(), {t: 1 for one in TASKS for t in (one.name, one.topic)})
    stages, structs = {}, dict[str, Any]()
    _struct(task.Kept, structs)
    for kind in TASKS:
        one = kind(context, 0)
        kept = {part.prefix: _kind(part.kind, structs) for part in one.parts if isinstance(part, Store)}
        entry = _kind(kind.entry, structs) if issubclass(kind, Stage) else None
        stages[kind.name] = {"topic": kind.topic, "feeds": list(kind.feeds), "state": kept, "entry": entry}
    _struct(messages.Batch, structs)
    return {"stages": stages, "structs": structs, "parts": list(settings.realtime.parts)}


def _kind(kind: Any, structs: dict[str, Any]) -> str:
    """A type by name; the structs in it, and in these, are described."""
    for one in (kind, *get_args(kind)):
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            _struct(one, structs)
        elif one is not kind:
            _kind(one, structs)
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def _struct(kind: type[msgspec.Struct], structs: dict[str, Any]) -> None:
    """Fields in order: (name, type, whether an old value without it can be read)."""
    if kind.__name__ in structs:
        return
    structs[kind.__name__] = []
    hints = get_type_hints(kind)
    structs[kind.__name__] = [
        [field.name, _kind(hints[field.name], structs), not field.required] for field in msgspec.structs.fields(kind)
    ]


def plain(value: Any) -> Any:
    """A value as JSON has it; sets in order."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(found: Mapping[str, Any]) -> str:
    """A fingerprint's name."""
    return _digest(json.dumps(found, sort_keys=True))


# --- the record ------------------------------------------------------------------------------------------------------


def read(settings: Settings) -> dict[str, Any] | None:
    """``{"format", "at", "fingerprint", "pending", "settled"}`` of the last start; None where there was none, or where
    another version of this page wrote it."""
    found: dict[str, Any] = json.loads(Files(settings.root).read(RECORD) or b"{}")
    return found if found.get("format") == FORMAT else None


def record(settings: Settings, now: datetime | None = None) -> None:
    """Write down what this code declares, and what is still to be done because of it. Called by the stream's start,
    which goes on if it can't be written."""
    try:
        _record(settings, now or datetime.now(UTC))
    except Exception as error:
        _log.warning("what is deployed could not be written down, so `lakehouse plan` compares with older: %s", error)


def _record(settings: Settings, now: datetime) -> None:
    from lakehouse.upkeep.plan import outstanding

    new = fingerprint(settings)
    kept = read(settings)
    left = (
        [one.document() for one in outstanding(kept, new, settings.home) if one.verdict == "migration"] if kept else []
    )
    at = now.isoformat().replace("+00:00", "Z")
    settled = {digest(new): _settled(kept, new)} if kept else {}
    _write(settings, {"format": FORMAT, "at": at, "fingerprint": new, "pending": left, "settled": settled})


def settle(settings: Settings, command: str) -> None:
    """A command that a change asks for has been run, by this code."""
    if kept := read(settings):
        new = fingerprint(settings)
        kept["settled"] = {digest(new): sorted({*_settled(kept, new), command})}
        _write(settings, kept)


def _settled(kept: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return list(kept["settled"].get(digest(new), []))


def _write(settings: Settings, kept: Mapping[str, Any]) -> None:
    Files(settings.root).put(RECORD, json.dumps(kept).encode())


def done(kept: Mapping[str, Any], new: Mapping[str, Any], home: Path, command: str) -> bool:
    """Whether a command has been run since; of a folder that is to go, whether it is gone."""
    if command.startswith("rm -r "):
        return not Path(command.removeprefix("rm -r ")).exists()
    return command in _settled(kept, new)
