"""What drifted is found, typed and proposed; what is proposed is a contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from open_data_contract_standard.model import OpenDataContractStandard

from lakehouse.contracts import CONTRACTS, read
from lakehouse.quality.checks import checker
from lakehouse.upkeep.drift import Drifted, drift, inferred, leaves, proposals, suspected, text
from tests.unit.local_lake import local_lake, write

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)


def seen(topic: str, *path: str, kind: str | None = "string", note: str = "") -> Drifted:
    return Drifted(topic, path, 3, AT, AT, 3, kind, suspected(path), note)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "integer"), ([1, 2.5, None], "number"), (["a", "2026-11-24T12:00:00Z"], "string"),
        (["2026-11-24T12:00:00Z", "2026-11-24T12:00:00.5+09:00"], "timestamp"), ([True], None), ([[1]], None),
        ([1, "a"], None), ([{}], None), ([None], None), ([], None),
    ],
)  # fmt: skip
def test_a_type_holds_every_value_or_there_is_none(values: list[Any], kind: str | None) -> None:
    assert inferred(values)[0] == kind and bool(inferred(values)[1]) == (kind is None)


@pytest.mark.parametrize("path", [("email",), ("contact", "x"), ("userName",), ("client", "ip"), ("homeAddress",)])
def test_names_of_personal_data_are_suspected(path: tuple[str, ...]) -> None:
    assert suspected(path)


@pytest.mark.parametrize("path", [("colour",), ("shipped",), ("package",), ("description",), ("page",)])
def test_other_names_are_not(path: tuple[str, ...]) -> None:
    assert not suspected(path)


def test_the_proposal_is_a_contract_that_takes_what_drifted(tmp_path: Path) -> None:
    found = [
        seen("user-events", "mood"), seen("user-events", "age", kind="integer"),
        seen("user-events", "timestamp", kind="timestamp"),
        seen("user-events", "cart", "total", kind="number"), seen("user-events", "cart", "items", kind="integer"),
        seen("user-events", "flag", kind=None, note="no type"), seen("service-logs", "error", "hint"),
    ]  # fmt: skip
    made = proposals(found)
    assert made.keys() == {"user-events", "service-logs"}
    for path, patch, whole in made.values():
        OpenDataContractStandard.from_string(text(patch))
        (tmp_path / path.name).write_text(text(whole))
    contract = read(tmp_path / "user-events.yaml")
    assert contract.version == "1.1.0"
    new = {field.name: field for field in contract.fields}
    assert (new["mood"].kind, new["age"].pii, new["timestamp"].column) == ("string", True, "timestamp_")
    assert {field.name for field in new["cart"].fields} == {"total", "items"} and "flag" not in new
    event = {
        "event_id": "e", "event_type": "visit", "user_id": "u", "occurred_at": "2026-11-24T12:00:00Z", "mood": "well",
        "age": 7, "cart": {"total": 1.5}, "flag": True,
    }  # fmt: skip
    judged = checker(contract)(json.dumps(event).encode(), int(AT.timestamp() * 1e6))
    assert not judged.reasons and json.loads(judged.rescued or "") == {"flag": True}
    logs = read(tmp_path / "service-logs.yaml")
    assert "hint" in {f.name for f in next(f for f in logs.fields if f.name == "error").fields}


def test_a_patch_holds_what_is_new_alone() -> None:
    ((_, patch, _),) = proposals(
        [seen("service-logs", "error", "hint"), seen("service-logs", "labels", "env")]
    ).values()
    (error, labels) = patch["schema"][0]["properties"]
    assert [one["name"] for one in error["properties"]] == ["hint"] and error["name"] == "error"
    assert labels["name"] == "labels" and patch["version"] == "1.1.0"


def test_drift_is_counted_since_when_and_typed_from_samples(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    base = {"topic": "user-events", "partition": 0, "first_at": AT, "last_at": AT, "records": 5}
    write(settings, "ops.ledger", [
        {**base, "seq": 1, "drift": [("mood", 2), ("event_type.x", 1)]},
        {**base, "seq": 2, "drift": [("mood", 1), ("client.ip", 1)], "last_at": AT.replace(hour=13)},
    ])  # fmt: skip
    rows = [{"mood": 1}, {"mood": 2.5, "client": {"ip": "::1"}}]
    write(settings, "silver.user_events", [
        {"topic": "user-events", "partition": 0, "offset": i, "timestamp": AT, "_rescued": json.dumps(row)}
        for i, row in enumerate(rows)
    ])  # fmt: skip
    write(settings, "silver.service_logs", [])
    mood, *others = drift(settings)
    assert (mood.name, mood.records, mood.kind, mood.since, mood.until) == (
        "mood",
        3,
        "number",
        AT,
        AT.replace(hour=13),
    )
    assert {one.name: (one.kind, one.personal) for one in others} == {
        "client.ip": ("string", True), "event_type.x": (None, False),
    }  # fmt: skip


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_leaves_rebuild_the_document(document: Any) -> None:
    made: Any = {}
    for path, value in leaves(document):
        if not path:
            made = value
            continue
        place = made
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    assert made == document


def test_every_contract_is_left_as_it_is_where_nothing_drifted() -> None:
    assert proposals([]) == {} and all(yaml.safe_load(path.read_text()) for path in CONTRACTS.glob("*.yaml"))
