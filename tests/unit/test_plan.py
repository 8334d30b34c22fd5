"""A written set of changes of the code, each as a changed declaration, with the verdict and commands expected."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lakehouse.contracts import Contract, contracts
from lakehouse.flows import FLOWS, STORES, TABLES, Flow, StoreKey
from lakehouse.gold.aggregate import Aggregate, Distinct, Sum
from lakehouse.realtime.state import Store
from lakehouse.settings import Settings, Stream
from lakehouse.tables import Table, columns
from lakehouse.upkeep import deployed
from lakehouse.upkeep.deployed import fingerprint
from lakehouse.upkeep.plan import Difference, PlanError, differences, outstanding, plan
from tests.unit.local_lake import local_lake

SETTINGS = Settings()
NOW = json.loads(json.dumps(fingerprint(SETTINGS)))
HOME = Path("/home-of-it")
EVENTS, LOGS, METRICS = FLOWS
ACTIVITY, ENGAGEMENT = EVENTS.gold[0], EVENTS.gold[1]
INDEX = "rm -r /home-of-it/index/user-events"


def aggregates(changed: Aggregate, of: Aggregate | None = None) -> dict[str, Any]:
    gold = tuple(changed if one is of else one for one in EVENTS.gold) if of else (*EVENTS.gold, changed)
    return declared(flows=(replace(EVENTS, gold=gold), LOGS, METRICS), tables=TABLES | {changed.name: changed.table})


def contract(**changes: Any) -> dict[str, Any]:
    one = contracts()["user-events"]
    return declared(declared=contracts() | {"user-events": replace(one, **changes)})


def field(name: str, **changes: Any) -> dict[str, Any]:
    one: Contract = contracts()["user-events"]
    return contract(fields=tuple(replace(f, **changes) if f.name == name else f for f in one.fields))


def table(name: str, ddl: str, gone: str | None = None) -> dict[str, Any]:
    one = TABLES[name]
    new = columns(ddl).fields if ddl else []
    kept = [f for f in one.schema if f.name not in {gone, *(f.name for f in new)}]
    changed = replace(one, schema=type(one.schema)([*kept, *new]))
    return declared(tables=TABLES | {name: changed})


def declared(settings: Settings = SETTINGS, **changes: Any) -> dict[str, Any]:
    return json.loads(json.dumps(fingerprint(settings, **changes)))


def stream(**changes: Any) -> dict[str, Any]:
    return declared(SETTINGS.model_copy(update={"stream": Stream(**changes)}))


def facts(path: str, value: Any) -> dict[str, Any]:
    """The fingerprint with a fact changed that no argument stands for."""
    found = json.loads(json.dumps(NOW))
    *way, last = path.split("/")
    place = found
    for step in way:
        place = place[step]
    place[last] = value
    return found


def users_struct(*extra: list[Any], at: int | None = None) -> dict[str, Any]:
    old = NOW["realtime"]["structs"]["User"]
    at = len(old) if at is None else at
    return facts("realtime/structs/User", [*old[:at], *extra, *old[at:]])


NEW_GOLD = Aggregate(
    "gold.devices_daily", "silver.user_events", "occurred_at", timedelta(days=1),
    {"date": ("date", "cast(occurred_at as date)"), "device": ("string", "device")},
    (Sum("events"), Distinct("users", "user_id")), ("occurred_at", "device", "user_id"),
)  # fmt: skip
NEW_FLOW: Flow = replace(LOGS, topic="audit-logs")
RATING = next(f for f in contracts()["user-events"].fields if f.name == "rating")

CHANGES: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "a field that is new and optional": (
        contract(fields=(*contracts()["user-events"].fields, replace(RATING, name="mood", column="mood"))),
        "compatible",
        (),
    ),
    "a field that is gone": (
        contract(fields=tuple(f for f in contracts()["user-events"].fields if f.name != "device")),
        "compatible",
        (),
    ),
    "a field of another type": (field("rating", kind="string"), "refused", ()),
    "a bound that is tighter": (field("rating", maximum=4.0), "compatible", ()),
    "a value that is let in": (
        field("event_type", values=frozenset({*(contracts()["user-events"].fields[1].values or ()), "read"})),
        "compatible",
        (),
    ),
    "another identity": (contract(identity=("session_id",)), "refused", ()),
    "duplicates recognised for a month": (contract(duplicate_horizon=timedelta(days=30)), "migration", (INDEX,)),
    "duplicates recognised for a day": (contract(duplicate_horizon=timedelta(days=1)), "compatible", ()),
    "another retention": (contract(retention=timedelta(days=30)), "compatible", ()),
    "a column that is new": (table("silver.user_events", "mood string"), "compatible", ()),
    "a column that is gone": (table("silver.user_events", "", gone="device"), "compatible", ()),
    "a column of another type": (table("silver.user_events", "rating string"), "refused", ()),
    "a measure that is new": (
        aggregates(replace(ACTIVITY, measures=(*ACTIVITY.measures, Sum("posts"))), ACTIVITY),
        "migration",
        ("lakehouse rebuild gold.activity_minute",),
    ),
    "a distinct measure that is new": (
        aggregates(replace(ACTIVITY, measures=(*ACTIVITY.measures, Distinct("posts", "post_id"))), ACTIVITY),
        "migration",
        (INDEX, "lakehouse rebuild gold.activity_minute"),
    ),
    "a measure that means something else": (
        aggregates(replace(ENGAGEMENT, measures=(Sum("views", "2"), *ENGAGEMENT.measures[1:])), ENGAGEMENT),
        "migration",
        ("lakehouse rebuild gold.post_engagement_daily",),
    ),
    "other keys of a table that MongoDB mirrors": (
        aggregates(
            replace(ENGAGEMENT, keys={"date": ENGAGEMENT.keys["date"], "post_id": ("string", "page")}), ENGAGEMENT
        ),
        "migration",
        (INDEX, "lakehouse rebuild gold.post_engagement_daily", "lakehouse rebuild --store mongodb"),
    ),
    "other rows that count": (
        aggregates(replace(ACTIVITY, where="event_type <> 'visit'"), ACTIVITY),
        "migration",
        (INDEX, "lakehouse rebuild gold.activity_minute"),
    ),
    "a gold table that is new": (aggregates(NEW_GOLD), "migration", (INDEX, "lakehouse rebuild gold.devices_daily")),
    "a table that is new": (
        declared(tables=TABLES | {"ops.notes": Table("ops.notes", columns("id string"), ("id",))}),
        "compatible",
        (),
    ),
    "a topic that is new": (declared(flows=(*FLOWS, NEW_FLOW)), "compatible", ()),
    "a topic that is gone": (declared(flows=FLOWS[:2]), "refused", ()),
    "silver under another name": (
        declared(flows=(replace(EVENTS, silver=replace(EVENTS.silver, name="silver.events")), LOGS, METRICS)),
        "refused",
        (),
    ),
    "the other engine": (stream(engine="separate"), "compatible", ()),
    "a store less": (stream(stores=("mongodb", "redis")), "compatible", ()),
    "a collection that is new": (
        declared(stores=(*STORES, StoreKey("mongodb", "activity", "gold.activity_minute"))),
        "migration",
        ("lakehouse rebuild --store mongodb",),
    ),
    "another mapping": (
        facts("indices/logs-service/message", {"type": "keyword"}),
        "migration",
        ("lakehouse rebuild --store elasticsearch",),
    ),
    "a query with another source": (
        facts("followed/elasticsearch", ["_internal.gold_changes"]),
        "migration",
        ("lakehouse rebuild --store elasticsearch",),
    ),
    "real-time state with one more field": (users_struct(["mood", "str", True]), "compatible", ()),
    "real-time state with a field in between": (
        users_struct(["mood", "str", True], at=2),
        "migration",
        ("lakehouse reset realtime",),
    ),
    "real-time state with one more field that it needs": (
        users_struct(["mood", "str", False]),
        "migration",
        ("lakehouse reset realtime",),
    ),
    "a real-time stage that reads another topic": (
        facts("realtime/stages/users/topic", "realtime-people-repartition"),
        "migration",
        ("lakehouse reset realtime",),
    ),
    "the detector's state of another class": (
        facts("detector/state/Watched", {"measures": "str"}),
        "migration",
        ("lakehouse reset detector",),
    ),
    "an older Spark": (
        facts("versions/pyspark", "3.4.0"),
        "migration",
        tuple(f"lakehouse rebuild --store {name}" for name in ("mongodb", "redis", "elasticsearch")),
    ),
    "a newer Spark": (facts("versions/pyspark", "3.5.99"), "compatible", ()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_gets_its_verdict_and_commands(change: str) -> None:
    new, verdict, commands = CHANGES[change]
    found = differences(NOW, new, HOME)
    assert found, "the change is seen"
    assert found[0].verdict == verdict, found
    assert tuple(command for one in found for command in one.commands) == commands


def test_a_store_that_comes_is_filled() -> None:
    (found,) = differences(stream(stores=("mongodb",)), stream(stores=("mongodb", "redis")), HOME)
    assert found.commands == ("lakehouse rebuild --store redis",)


def test_the_same_code_differs_in_nothing() -> None:
    assert differences(NOW, declared(), HOME) == []


def test_a_fingerprint_is_json_and_the_same_in_every_process() -> None:
    assert fingerprint(SETTINGS) == NOW and deployed.digest(NOW) == deployed.digest(declared())


def test_what_was_done_is_no_longer_asked_for() -> None:
    new = CHANGES["a distinct measure that is new"][0]
    command = "lakehouse rebuild gold.activity_minute"
    kept: dict[str, Any] = {"fingerprint": NOW, "pending": [], "settled": {deployed.digest(new): [command]}}
    assert outstanding(kept, new, HOME) == []  # the folder of the index is not there either
    kept["settled"] = {deployed.digest(NOW): [command]}
    (left,) = outstanding(kept, new, HOME)
    assert left.commands == (command,), "run by the old code it does not count"


def test_what_was_not_done_stays_asked_for_after_the_start(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    with pytest.raises(PlanError, match="nothing to compare with"):
        plan(settings)
    deployed.record(settings)
    assert plan(settings) == []
    kept = deployed.read(settings)
    assert kept is not None
    kept["fingerprint"]["aggregates"]["gold.activity_minute"]["where"] = "false"
    deployed._write(settings, kept)
    wanted = ("lakehouse rebuild gold.activity_minute",)
    assert [one.commands for one in plan(settings)] == [wanted]
    deployed.record(settings)  # the new code starts all the same
    assert [one.commands for one in plan(settings)] == [wanted]
    deployed.record(settings)
    assert [one.commands for one in plan(settings)] == [wanted]
    deployed.settle(settings, wanted[0])
    assert plan(settings) == []
    deployed.record(settings)
    assert plan(settings) == []


def test_a_difference_goes_through_json() -> None:
    one = Difference("a", "migration", "b", ("c",))
    said = {"what": "a", "verdict": "migration", "why": "b", "commands": ["c"]}
    assert json.loads(json.dumps(one.document())) == said


@pytest.mark.parametrize(
    "fields, verdict",
    [
        ([("first", int), ("last", int, 0), ("mood", str, "")], "compatible"),
        ([("first", int), ("mood", str), ("last", int, 0)], "migration"),
        ([("first", int), ("last", str, "")], "migration"),
        ([("first", int), ("last", int, 0), ("mood", int)], "migration"),
    ],
)
def test_kept_state_is_read_just_where_the_plan_says_so(fields: list[Any], verdict: str) -> None:
    def kind(fields: list[Any]) -> Any:
        return msgspec.defstruct("User", fields, array_like=True, kw_only=True)

    def described(kind: Any) -> dict[str, Any]:
        structs: dict[str, Any] = {}
        deployed._struct(kind, structs)
        return facts("realtime/structs/User", structs["User"])

    before, after = kind([("first", int), ("last", int, 0)]), kind(fields)
    (found,) = differences(described(before), described(after), HOME)
    assert found.verdict == verdict
    kept = Store("user:", before)
    kept.put("u1", before(first=1, last=2))
    read = Store("user:", after)
    for key, value in kept.changes():
        read.load(key.removeprefix("user:"), value or b"")
    if verdict == "compatible":
        assert read.get("u1") == after(first=1, last=2)
    else:
        with pytest.raises(msgspec.ValidationError):
            read.get("u1")
