"""`lakehouse up --cluster`: a worker, a DataNode and a broker die while records come in; all of it is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyspark
import pytest
from deltalake import DeltaTable

from lakehouse import running
from lakehouse import stack as servers
from lakehouse.doctor import examine
from lakehouse.query import query, to_json
from lakehouse.runtime.ledger import LEDGER
from lakehouse.session import jars
from lakehouse.settings import CLUSTER, PROJECT, Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake
from tests.integration.lake import StreamProcess, environment, problems, settled, until

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(2400)]
KILLED = ("spark-worker-1", "datanode-2", "kafka-1")
BACK_WITHIN, FIRST_CUT_WITHIN = 180.0, 900.0
"""Seconds, with patience for a machine that is busy with other things."""
GOLD = {
    "activity_minute": "window_start, event_type, events, users",
    "post_engagement_daily": "date, post_id, views, likes, comments, shares, bookmarks, users",
    "user_activity_daily": "date, user_id, events, sessions, posts, first_at, last_at",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a cluster on this machine, in a home of its own."""
    own = os.environ.get("LAKEHOUSE_JARS", str(PROJECT / ".lakehouse" / "jars"))
    with pytest.MonkeyPatch.context() as env:
        env.setenv("LAKEHOUSE_HOME", str(tmp_path_factory.mktemp("home")))
        env.setenv("LAKEHOUSE_JARS", own)
        settings = load(profile=CLUSTER)
        try:
            yield running.up(settings, servers_only=True)
        finally:
            servers.down(settings)


def test_a_killed_worker_datanode_and_broker_lose_nothing_and_repeat_nothing(cluster: Settings, tmp_path: Path) -> None:
    with StreamProcess(cluster, LAKEHOUSE_STREAM__FANOUT_TRIGGER="PT20S") as stream:
        with ThreadPoolExecutor(1) as beside:
            killing = beside.submit(kill_each, cluster)
            simulate(cluster, 11, 60, 300, 0.5, tmp_path / "truth.json", history_records=10_000)
            killing.result()
        result = settled(cluster, 900)
        assert stream.process.poll() is None, f"the stream ended\n{stream.tail()}"
        assert spark_sql(cluster, "select sum(records) as records from ops.ledger") == [
            {"records": sum(counts["records"] for counts in result["topics"].values())}
        ]
    assert result["balanced"], problems(result)
    truth = json.loads((tmp_path / "truth.json").read_text())
    for topic, sent in truth["topics"].items():
        found = result["topics"][topic]
        assert [found[n] for n in ("records", "valid", "quarantined", "duplicates")] == [
            sent[n] for n in ("sent", "valid", "broken", "duplicates")
        ]
    for table, columns in GOLD.items():
        rows = json.loads(to_json(query(cluster, f"select {columns} from gold.{table}")))
        assert sorted([*row.values()] for row in rows) == sorted(truth[table]), table
    levels = {finding.check: finding.level for finding in examine(cluster) if finding.check in ("servers", "topics")}
    assert levels == {"servers": "ok", "topics": "ok"}


def kill_each(settings: Settings) -> None:
    """Kill -9 one after the other, from the first cut on, each once the one before is back."""
    ledger = settings.table_uri(LEDGER.name)
    until(lambda: DeltaTable.is_deltatable(ledger) and Lake(settings).cuts(), FIRST_CUT_WITHIN)
    for name in KILLED:
        servers.kill_server(settings, name)
        until(lambda name=name: servers.status(settings)[name]["restarts"] > 0, BACK_WITHIN)
        until(lambda name=name: servers.status(settings)[name]["ready"], BACK_WITHIN)


def spark_sql(settings: Settings, sql: str) -> Any:
    """What `spark-submit jobs/analyze.py` answers, as an application of its own beside the stream."""
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    command = [
        *(str(submit), "--master", settings.spark.master, "--conf", "spark.driver.host=127.0.0.1"),
        *("--jars", ",".join(map(str, jars(settings))), str(PROJECT / "jobs" / "analyze.py"), "--json", sql),
    ]
    env = environment(settings, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
