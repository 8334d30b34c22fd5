"""Contract files: the shipped ones load, and a wrong one is refused by file and place."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyspark.sql import types as T

from lakehouse.contracts import CONTRACTS, TOPICS, ContractError, contracts, read


def shipped(topic: str) -> dict[str, Any]:
    return yaml.safe_load((CONTRACTS / f"{topic}.yaml").read_text())


def prop(document: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [p for p in document["schema"][0]["properties"] if p["name"] == name]
    return found


def test_there_is_one_contract_a_topic() -> None:
    assert set(contracts()) == set(TOPICS) == {"user-events", "service-logs", "system-metrics"}
    assert {c.table for c in contracts().values()} == {
        "silver.user_events",
        "silver.service_logs",
        "silver.system_metrics",
    }


def test_the_event_contract_says_what_the_design_says() -> None:
    contract = contracts()["user-events"]
    assert [f.name for f in contract.fields if f.required] == ["event_id", "event_type", "user_id", "occurred_at"]
    types = frozenset({"visit", "view", "like", "unlike", "comment", "share", "bookmark", "follow", "search", "post"})
    assert next(f for f in contract.fields if f.name == "event_type").values == types
    assert (contract.identity, contract.key, contract.samples) == (("event_id",), ("user_id",), False)
    assert contract.duplicate_horizon == timedelta(days=7)
    (rule,) = [r for r in contract.rules if r.severity == "error"]
    assert rule.path == ("post_id",) and rule.when == ("event_type", types - {"visit", "follow", "search"})


def test_a_log_is_named_by_its_event_id_and_a_metric_record_by_its_hash() -> None:
    assert contracts()["service-logs"].identity == ("event", "id")
    metrics = contracts()["system-metrics"]
    assert metrics.identity is None and metrics.samples


def test_fields_become_columns_by_their_physical_names_and_types() -> None:
    schema = contracts()["service-logs"].schema()
    assert schema["time"].dataType == T.TimestampType()
    assert schema["http"].dataType.simpleString() == "struct<response:struct<status_code:bigint>>"
    assert contracts()["user-events"].schema()["properties"].dataType == T.MapType(T.StringType(), T.StringType())


def test_personal_columns_are_named() -> None:
    assert contracts()["user-events"].pii_columns() == {"user_id", "session_id", "text"}
    assert contracts()["service-logs"].pii_columns() == {"message"}


def rule(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda d: prop(d, "post_id")["quality"][0].update(changes)


def about(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(d: dict[str, Any]) -> None:
        others = [p for p in d["schema"][0]["customProperties"] if p["property"] != name]
        d["schema"][0]["customProperties"] = others + ([{"property": name, "value": value}] if value else [])

    return change


def sla(name: str, **changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda d: next(p for p in d["slaProperties"] if p["property"] == name).update(changes)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "not of the standard": (lambda d: d.update(schema="x"), "schema"),
    "no object": (lambda d: d.update(schema=[]), "schema holds exactly one object"),
    "two objects": (lambda d: d["schema"].append(d["schema"][0]), "schema holds exactly one object"),
    "unknown logicalType": (
        lambda d: prop(d, "device").update(logicalType="date"),
        "user_events.device: logicalType 'date' is not one of string, timestamp",
    ),
    "no logicalType": (lambda d: prop(d, "device").pop("logicalType"), "user_events.device: logicalType None"),
    "unknown option": (
        lambda d: prop(d, "rating").update(logicalTypeOptions={"multipleOf": 0.5}),
        r"user_events.rating: logicalTypeOptions \['multipleOf'\]",
    ),
    "an object without properties": (
        lambda d: prop(d, "device").update(logicalType="object"),
        "user_events.device: an object names its properties",
    ),
    "unknown severity": (rule(severity="fatal"), "quality 'post_id_of_interaction': severity is error or warning"),
    "no severity": (rule(severity=None), "severity is error or warning, not None"),
    "another engine": (rule(engine="soda"), "quality 'post_id_of_interaction': needs a name, type custom"),
    "a rule without a name": (rule(name=None), "quality None: needs a name"),
    "a rule as text": (rule(implementation="post_id > 1"), "needs a name, type custom"),
    "an unknown implementation": (rule(implementation={"unique": "post_id"}), "the implementation is required: PATH"),
    "a rule about an unknown field": (rule(implementation={"required": "a.b"}), "field 'a.b' is not in the contract"),
    "a rule when an unknown field": (
        rule(implementation={"requiredWhen": {"kind": ["view"]}}),
        "field 'kind' is not in the contract",
    ),
    "a rule when two fields": (
        rule(implementation={"requiredWhen": {"page": ["a"], "device": ["b"]}}),
        "the implementation is required: PATH",
    ),
    "missing sla": (lambda d: d.update(slaProperties=d["slaProperties"][1:]), "slaProperties needs retention"),
    "sla without unit": (sla("freshness", unit=None), "slaProperties needs freshness with a number and a unit"),
    "sla in months": (sla("duplicateHorizon", unit="mo"), "slaProperties needs duplicateHorizon"),
    "sla shorter than duplicates": (
        lambda d: d["slaProperties"][0].update(value=8),
        "retention has to exceed duplicateHorizon by 2 days",
    ),
    "sla as text": (sla("freshness", value="soon"), "slaProperties needs freshness"),
    "unknown identity field": (about("identity", "id"), "identity 'id' is not a field of the contract"),
    "unknown key field": (about("kafkaKey", "user"), "kafkaKey 'user' is not a field of the contract"),
    "no key": (about("kafkaKey", None), "needs physicalName, kafkaKey and either identity or identityHash"),
    "no identity": (about("identity", None), "either identity or identityHash"),
    "two identities": (about("identityHash", ["event_id"]), "either identity or identityHash"),
    "no physicalName": (lambda d: d["schema"][0].pop("physicalName"), "needs physicalName"),
    "unknown topic": (
        lambda d: d.update(customProperties=[{"property": "topic", "value": "clicks"}]),
        "customProperties needs topic, one of user-events",
    ),
    "no topic": (lambda d: d.pop("customProperties"), "customProperties needs topic"),
    "no event time": (lambda d: prop(d, "occurred_at").pop("required"), "needs a required timestamp, the event time"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_contract_is_refused_by_file_and_place(tmp_path: Path, name: str) -> None:
    change, place = WRONG[name]
    document = shipped("user-events")
    change(document)
    path = tmp_path / "user-events.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ContractError, match=place) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value).split(place)[0]


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t", "", "text", "[1, 2]", "7", "a: \x01"])
def test_a_file_that_is_no_yaml_mapping_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ContractError, match=f"^{path}: "):
        read(path)


def test_a_file_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ContractError, match=f"^{path}: "):
        read(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"nothing\.yaml: no such contract"):
        read(tmp_path / "nothing.yaml")


def test_a_topic_without_a_contract_is_named(tmp_path: Path) -> None:
    for topic in ("user-events", "service-logs"):
        (tmp_path / f"{topic}.yaml").write_text(yaml.safe_dump(shipped(topic)))
    with pytest.raises(ContractError, match="no contract for topic system-metrics"):
        contracts(tmp_path)
