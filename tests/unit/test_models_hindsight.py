"""What was said, as it was said then, against what happened since."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from models import hindsight
from models.registry import Registry
from models.trained import ModelError
from tests.unit.local_lake import local_lake, write
from tests.unit.small_model import made, promote

AT = datetime(2026, 11, 25, 10, tzinfo=UTC)


def recommend(settings: Settings, posts: str) -> None:
    schema = TABLES["gold.recommendations"].arrow
    rows = [
        {"user_id": user, "rank": rank, "post_id": post, "score": 1.0, "model_version": "1", "at": AT}
        for user in ("ann", "bob", "eve")
        for rank, post in enumerate(posts, 1)
    ]
    folder = settings.table_uri("gold.recommendations").removeprefix("file://")
    write_deltalake(folder, pa.Table.from_pylist(rows, schema=schema), mode="overwrite")


def event(user: str, post: str, at: datetime, kind: str = "view") -> dict[str, Any]:
    return {"user_id": user, "post_id": post, "event_type": kind, "occurred_at": at}


def test_recommendations_are_judged_as_they_were_said_by_what_is_new_to_the_user(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    write(settings, "gold.recommendations", [])  # as tables are made
    recommend(settings, "xyab")
    said = datetime.now(UTC)
    time.sleep(0.01)
    write(settings, "silver.user_events", [
        event("ann", "x", said + timedelta(milliseconds=1)),  # the first of her list: 1
        event("bob", "y", said - timedelta(days=9)),  # known to him, so no hit
        event("bob", "y", said + timedelta(milliseconds=1)),
        event("bob", "q", said + timedelta(milliseconds=1)),  # was not recommended: 0
        event("eve", "x", said + timedelta(milliseconds=1), "impression"),  # no interaction
        event("joe", "x", said + timedelta(milliseconds=1)),  # was recommended nothing
    ])  # fmt: skip
    time.sleep(0.01)
    recommend(settings, "xq")  # a later snapshot, which knows
    days = hindsight.recommender(settings, None, datetime.now(UTC))
    assert sum(day["users"] for day in days) == 2
    assert (days[0]["hit_rate"], days[0]["ndcg@10"], days[0]["versions"]) == (0.5, 0.5, ["1"])


def test_where_nothing_was_said_yet_there_is_nothing_to_judge(tmp_path: Path) -> None:
    settings = local_lake(tmp_path)
    write(settings, "gold.recommendations", [])
    write(settings, "silver.user_events", [event("ann", "x", AT)])
    assert hindsight.recommender(settings, None, datetime.now(UTC)) == []


def test_alarms_of_a_subject_are_one_incident_until_it_is_calm_and_rules_nearby_confirm_it() -> None:
    def alarm(series: str, minute: int) -> tuple[str, datetime, str]:
        return series, AT + timedelta(minutes=minute), "1"

    rows = [
        alarm("service/feed/p95_ms", 0), alarm("service/feed/error_rate", 2), alarm("service/feed/p95_ms", 14),
        alarm("host/web-1/system.cpu.total.norm.pct", 20), alarm("logs/feed/a/b", 21), alarm("service/feed/p95_ms", 29),
    ]  # fmt: skip
    fired = {("service", "feed"): [AT + timedelta(minutes=19)], ("host", "feed"): [AT + timedelta(minutes=29)]}
    found = hindsight.incidents(rows, {("2026-11-25", "service"): 4, ("2026-11-25", "host"): 2}, fired)
    assert [(one["kind"], one["incidents"], one["a_subject"], one["confirmed"]) for one in found] == [
        ("host", 1, 0.5, 0.0), ("logs", 1, 0.25, None), ("service", 2, 0.5, 0.5),
    ]  # fmt: skip
    assert {one["confirmed"] for one in hindsight.incidents(rows, {}, None)} == {None}


def test_alarms_are_counted_by_the_day_without_a_database_of_notifications(tmp_path: Path) -> None:
    settings = Settings.model_validate(local_lake(tmp_path).model_dump() | {"mongo": {"uri": "mongodb://127.0.0.1:1/"}})
    write(settings, "gold.anomalies", [
        {"series": f"host/web-{number}/system.cpu.total.norm.pct", "time": AT + timedelta(hours=hours),
         "model_version": "1"}
        for number, hours in ((1, 0), (2, 1), (1, 20), (1, -200))
    ])  # fmt: skip
    write(settings, "gold.service_health_minute", [])
    write(settings, "gold.host_utilization_minute", [{"window_start": AT, "host": f"web-{n}"} for n in range(4)])
    found = hindsight.anomaly(settings, None, AT + timedelta(days=1))
    assert [(one["day"][-2:], one["incidents"], one["a_subject"], one["confirmed"]) for one in found] == [
        ("25", 2, 0.5, None), ("26", 1, 1.0, None),
    ]  # fmt: skip


def test_what_was_found_is_kept_with_the_champion(small_model: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    with pytest.raises(ModelError, match="lakehouse promote means"):
        hindsight.hindsight(small_model, "means")
    made(small_model, [0.2, 0.2])
    promote(small_model)
    monkeypatch.setitem(hindsight.DAILY, "means", lambda *_: [{"day": "2026-11-25", "hit_rate": 0.5}])
    found = hindsight.hindsight(small_model, "means")
    run = Registry(small_model)._client.get_model_version("means", "1").run_id
    assert mlflow.artifacts.load_dict(f"runs:/{run}/{hindsight.REPORT}") == found and found["champion"] == "1"
