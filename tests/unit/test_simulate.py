"""The simulation: what it sends is what it says it sent, by rules it does not share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from lakehouse.contracts import TOPICS, contracts
from lakehouse.quality.checks import checker
from lakehouse.settings import Settings
from lakehouse.simulate import (
    BREAKERS,
    DAY,
    MINUTE,
    SECOND,
    SERVICES,
    Record,
    Simulation,
    SimulationError,
    history_times,
    live_times,
    plan_incidents,
    simulate,
)
from lakehouse.sources.topics import DeliveryError

END = int(datetime(2024, 5, 10, 12, tzinfo=UTC).timestamp()) * SECOND
START = END - 2 * DAY


def _world(seed: int = 7, duplicates: float = 0.05, late: float = 0.05, broken: float = 0.1) -> Simulation:
    return Simulation(seed, "run", share_duplicates=duplicates, share_late=late, share_broken=broken)


def _records(world: Simulation, count: int = 12_000) -> list[Record]:
    world.incidents = plan_incidents(world.rng, START, END, 12)
    return list(chain.from_iterable(map(world.block, history_times(world.rng, START, END, count))))


@pytest.fixture(scope="module")
def sent() -> tuple[list[Record], dict[str, Any]]:
    """Records with many faults, and the truth about them."""
    world = _world()
    return _records(world), world.truth()


def _valid(records: Iterable[Record], topic: str) -> list[dict[str, Any]]:
    return [orjson.loads(v) for t, _, v, kind in records if t == topic and v and kind in ("valid", "late")]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    assert _records(_world(1), 3000) == _records(_world(1), 3000)
    assert _records(_world(1), 3000) != _records(_world(2), 3000)


def test_records_are_split_6_3_1_and_as_many_as_asked(sent: tuple[list[Record], dict[str, Any]]) -> None:
    records, _ = sent
    share = Counter(topic for topic, *_ in records)
    assert len(records) == 12_000
    assert [round(share[topic] / 12_000, 1) for topic in TOPICS] == [0.6, 0.3, 0.1]


@pytest.mark.parametrize("topic", TOPICS)
def test_the_contract_accepts_exactly_what_the_simulation_calls_valid(
    sent: tuple[list[Record], dict[str, Any]], topic: str
) -> None:
    check = checker(contracts()[topic])
    for _, _, value, kind in (record for record in sent[0] if record[0] == topic):
        reasons = check(value, END).reasons
        assert (reasons is not None) == kind.startswith("broken:"), (kind, reasons, value and value[:400])


@pytest.mark.parametrize("topic", TOPICS)
def test_every_way_to_break_a_record_breaks_any_record(topic: str) -> None:
    check = checker(contracts()[topic])
    values = [r[2] for r in _records(_world(broken=0), 1500) if r[0] == topic and r[2]]
    for kind, breaks in BREAKERS[topic].items():
        assert all(check(breaks(v), END).reasons for v in values[: 3 if kind == "large" else None]), kind


def test_an_identity_is_new_or_a_repeat_of_the_same_bytes(sent: tuple[list[Record], dict[str, Any]]) -> None:
    checks = {topic: checker(contract) for topic, contract in contracts().items()}
    seen: dict[tuple[str, str], tuple[bytes | None, bytes]] = {}
    for topic, key, value, kind in sent[0]:
        if value is None or kind.startswith("broken:"):
            continue
        identity = (topic, checks[topic](value, END).identity or "")
        assert identity[1]
        assert (identity in seen) == (kind == "duplicate")
        assert seen.setdefault(identity, (key, value)) == (key, value)


def test_keys_are_the_contracts_and_a_few_are_null(sent: tuple[list[Record], dict[str, Any]]) -> None:
    null = Counter()  # type: Counter[str]
    for topic, key, value, kind in sent[0]:
        if kind in ("valid", "late") and value:
            document = orjson.loads(value)
            for part in contracts()[topic].key:
                document = document[part]
            null[topic] += key is None
            assert key in (None, document.encode())
    assert dict(null) == {topic: counts["null_keys"] for topic, counts in sent[1]["topics"].items()}


def test_the_truths_counts_are_those_of_the_records(sent: tuple[list[Record], dict[str, Any]]) -> None:
    records, truth = sent
    for topic, counts in truth["topics"].items():
        kinds = Counter(kind for t, _, _, kind in records if t == topic)
        assert counts["valid"] == kinds["valid"] + kinds["late"]
        assert counts["duplicates"] == kinds["duplicate"]
        assert counts["sent"] == counts["valid"] + counts["duplicates"] + counts["broken"] == kinds.total()
        assert sum(counts["broken_by_kind"].values()) == counts["broken"]
    for name, least in (("duplicate", 0.03), ("late", 0.03)):
        assert sum(kind == name for *_, kind in records) / len(records) == pytest.approx(0.05, abs=0.05 - least)


def test_the_truths_gold_is_a_recomputation_from_the_events(sent: tuple[list[Record], dict[str, Any]]) -> None:
    events = _valid(sent[0], "user-events")
    for event in events:
        event["at"] = datetime.fromisoformat(event["occurred_at"]).astimezone(UTC)
    activity: dict[tuple[str, str], list[str]] = {}
    engagement: dict[tuple[str, str], list[dict[str, Any]]] = {}
    users: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for e in events:
        activity.setdefault((f"{e['at']:%Y-%m-%dT%H:%M}:00Z", e["event_type"]), []).append(e["user_id"])
        if "post_id" in e:
            engagement.setdefault((f"{e['at']:%Y-%m-%d}", e["post_id"]), []).append(e)
        users.setdefault((f"{e['at']:%Y-%m-%d}", e["user_id"]), []).append(e)
    kinds = {key: Counter(e["event_type"] for e in rows) for key, rows in engagement.items()}
    truth = sent[1]
    assert {(m, t): (n, u) for m, t, n, u in truth["activity_minute"]} == {
        key: (len(who), len(set(who))) for key, who in activity.items()
    }
    assert {(d, p): tuple(rest) for d, p, *rest in truth["post_engagement_daily"]} == {
        key: (
            kinds[key]["view"],
            kinds[key]["like"] - kinds[key]["unlike"],
            kinds[key]["comment"],
            kinds[key]["share"],
            kinds[key]["bookmark"],
            len({e["user_id"] for e in rows}),
        )
        for key, rows in engagement.items()
    }
    assert {(d, u): (n, s, p) for d, u, n, s, p, *_ in truth["user_activity_daily"]} == {
        key: (
            len(rows),
            len({e["session_id"] for e in rows if "session_id" in e}),
            sum(e["event_type"] == "post" for e in rows),
        )
        for key, rows in users.items()
    }
    first_and_last = {
        (d, u): (datetime.fromisoformat(a), datetime.fromisoformat(b))
        for d, u, *_, a, b in truth["user_activity_daily"]
    }
    assert first_and_last == {
        key: (min(e["at"] for e in rows), max(e["at"] for e in rows)) for key, rows in users.items()
    }
    assert set(truth["sentiments"]) == {e["event_id"] for e in events if e["event_type"] == "comment"}


def test_the_truths_requests_and_metrics_are_those_of_the_records(sent: tuple[list[Record], dict[str, Any]]) -> None:
    requests = Counter()  # type: Counter[tuple[str, str]]
    errors = Counter()  # type: Counter[tuple[str, str]]
    for log in _valid(sent[0], "service-logs"):
        if "http" in log:
            key = (log["@timestamp"][:16] + ":00Z", log["service"]["name"])
            requests[key] += 1
            errors[key] += log["http"]["response"]["status_code"] >= 500
    truth = sent[1]
    assert {(m, s): (n, e) for m, s, n, e in truth["service_requests_minute"]} == {
        key: (n, errors[key]) for key, n in requests.items()
    }
    metrics = Counter(
        (m["@timestamp"][:16] + ":00Z", m["host"]["name"], m["event"]["dataset"])
        for m in _valid(sent[0], "system-metrics")
    )
    assert {(m, h, d): n for m, h, d, n in truth["metric_records_minute"]} == metrics


def test_late_records_are_a_minute_to_a_day_behind_their_neighbours() -> None:
    world = _world(duplicates=0, late=0.2, broken=0)
    now = next(live_times(END, 1000, 1))
    times = [
        int(datetime.fromisoformat(orjson.loads(v).get("occurred_at") or orjson.loads(v)["@timestamp"]).timestamp())
        for _, _, v, kind in world.block(now)
        if v and kind == "late"
    ]
    behind = END // SECOND - np.array(times)
    assert len(times) > 50
    assert 58 <= behind.min() <= behind.max() <= DAY // SECOND


def test_an_incident_shows_in_the_error_rate_of_its_service_alone() -> None:
    world = _world(duplicates=0, late=0, broken=0)
    [errors] = [x for x in plan_incidents(np.random.default_rng(3), START, END, 12) if x.kind == "errors"][:1]
    world.incidents = [errors]
    within = errors.start + np.arange(20_000) * (errors.end - errors.start) // 20_000
    rates: dict[str, list[bool]] = {service: [] for service in SERVICES}
    for log in _valid(world.block(within), "service-logs"):
        if "http" in log:
            rates[log["service"]["name"]].append(log["http"]["response"]["status_code"] >= 500)
    rate = {service: float(np.mean(failed)) for service, failed in rates.items()}
    expected = (0.01 + errors.severity) / 2 if errors.ramp else errors.severity
    assert rate.pop(str(errors.service)) == pytest.approx(expected, abs=0.02)
    assert max(rate.values()) < 0.025


def test_users_view_posts_to_their_taste() -> None:
    world = _world(duplicates=0, late=0, broken=0)
    views = [e for e in _valid(_records(world, 8000), "user-events") if e["event_type"] == "view"]
    tastes = world.tastes[[int(e["user_id"][1:]) for e in views]]
    topics = world.post_topics[[world.post_names.index(e["post_id"]) for e in views]]
    shuffled = np.random.default_rng(0).permutation(topics)
    assert (tastes * topics).sum() > 2 * (tastes * shuffled).sum()


def test_history_follows_the_day_and_live_the_rate() -> None:
    history = np.concatenate(list(history_times(np.random.default_rng(0), START, END, 50_000)))
    assert len(history) == 50_000
    assert history[0] >= START and history[-1] < END and (np.diff(history) >= 0).all()
    by_hour = np.bincount(history % DAY // (60 * MINUTE), minlength=24)
    assert by_hour[15] > 2 * by_hour[3]
    live = np.concatenate(list(live_times(END, 250, 2)))
    assert len(live) == 500 and (np.diff(live) == 4000).all()


class Broker:
    """Acknowledges every record when polled, except the one by that number."""

    def __init__(self, fails: int | None = None) -> None:
        self.topics: Counter[str] = Counter()
        self.waiting: list[Callable[[Any, Any], None]] = []
        self.fails = fails

    def produce(
        self, topic: str, *, value: bytes | None, key: bytes | None, on_delivery: Callable[[Any, Any], None]
    ) -> None:
        self.topics[topic] += 1
        self.waiting.append(on_delivery)

    def poll(self, timeout: float) -> int:
        done = len(self.waiting)
        for delivered in self.waiting:
            self.fails = None if self.fails is None else self.fails - 1
            delivered("disk full" if self.fails == 0 else None, None)
        self.waiting.clear()
        return done

    def flush(self) -> int:
        self.poll(0)
        return 0


def _simulated(tmp_path: Path, broker: Broker, **more: Any) -> dict[str, Any]:
    arguments = {"seed": 1, "rate": 2000, "duration": 0.2, "history": 1, "history_records": 5000} | more
    return simulate(
        Settings(),
        truth=tmp_path / "truth.json",
        transport=broker,
        start=datetime(2024, 5, 1, tzinfo=UTC),
        **arguments,
    )


def test_simulate_sends_history_and_live_and_writes_the_truth(tmp_path: Path) -> None:
    broker, seen = Broker(), list[tuple[int, int]]()
    result = _simulated(tmp_path, broker, prefix="trial-", progress=lambda *at: seen.append(at))
    truth = orjson.loads((tmp_path / "truth.json").read_bytes())
    assert result["sent"] == result["acknowledged"] == truth["acknowledged"] == 5400 == broker.topics.total()
    assert broker.topics == {f"trial-{topic}": counts["sent"] for topic, counts in truth["topics"].items()}
    assert seen[-1] == (5400, 5400)
    assert result["valid"] + result["duplicates"] + result["broken"] == 5400


def test_a_record_not_acknowledged_fails_the_run_and_leaves_no_truth(tmp_path: Path) -> None:
    with pytest.raises(DeliveryError, match="record 4000 was not acknowledged by Kafka: disk full"):
        _simulated(tmp_path, Broker(fails=4000))
    assert not (tmp_path / "truth.json").exists()


def test_runs_share_users_but_no_identities() -> None:
    ids = [
        {e["event_id"] for e in _valid(Simulation(1, run, **_NO_FAULTS).block(np.arange(100)), "user-events")}
        for run in ("a", "b")
    ]
    assert not ids[0] & ids[1]


_NO_FAULTS = {"share_duplicates": 0.0, "share_late": 0.0, "share_broken": 0.0}


def test_an_argument_out_of_bounds_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match=r"share_late is 0\.9"):
        _simulated(tmp_path, Broker(), share_late=0.9)
