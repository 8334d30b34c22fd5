"""`lakehouse up --cluster`: a worker, a DataNode and a broker die while records come in; all of it is accounted for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
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
from lakehouse.settings import CLUSTER, PROJECT, Settings, load
from lakehouse.simulate import simulate
from lakehouse.sources.lake import Lake
from tests.integration.lake import StreamProcess, environment, problems, settled, until

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(3600)]
KILLED = ("spark-worker-1", "datanode-2", "kafka-1")
BACK_WITHIN, STARTS_WITHIN = 300.0, 900.0
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
    with StreamProcess(cluster, LAKEHOUSE_STREAM__FANOUT_TRIGGER="PT20S") as stream, ThreadPoolExecutor(1) as beside:
        truths = []
        for number, name in enumerate((None, *KILLED)):
            # Days apart, so that what gold has of one service is none of another's.
            start = datetime.now(UTC).replace(hour=12) - timedelta(days=3 * (len(KILLED) + 1 - number))
            file = tmp_path / f"{number}.json"
            sending = beside.submit(
                simulate, cluster, 11 + number, 150, 30, 0.5, file, history_records=5_000, start=start
            )
            if name is None:  # the others die while batches are written
                until(lambda: working(cluster), STARTS_WITHIN)
            else:
                kill(cluster, name)
            sending.result()
            truths.append(json.loads(file.read_text()))
        result = settled(cluster, 1200)
        assert stream.process.poll() is None, f"the stream ended\n{stream.tail()}"
        assert spark_sql(cluster, "select sum(records) as records from ops.ledger") == [
            {"records": sum(counts["records"] for counts in result["topics"].values())}
        ]
    assert result["balanced"], problems(result)
    for topic, found in result["topics"].items():
        sent = [truth["topics"][topic] for truth in truths]
        assert [found[name] for name in ("records", "valid", "quarantined", "duplicates")] == [
            sum(counts[name] for counts in sent) for name in ("sent", "valid", "broken", "duplicates")
        ]
    for table, columns in GOLD.items():
        rows = json.loads(to_json(query(cluster, f"select {columns} from gold.{table}")))
        assert sorted([*row.values()] for row in rows) == sorted(row for truth in truths for row in truth[table]), table
    found = [finding for finding in examine(cluster) if finding.check in ("servers", "hdfs", "topics")]
    assert found and not [finding for finding in found if finding.level == "problem"]


def kill(settings: Settings, name: str) -> None:
    """Kill -9, and see it back at work."""
    servers.kill_server(settings, name)
    until(lambda: servers.status(settings)[name]["restarts"] > 0, BACK_WITHIN)
    until(lambda: servers.status(settings)[name]["ready"], BACK_WITHIN)


def working(settings: Settings) -> bool:
    """Whether the stream has both executors and has made its first cut."""
    web = f"http://127.0.0.1:{servers.port(settings, 'spark-master-http')}/json/"
    with urllib.request.urlopen(web, timeout=10) as answer:
        executors = json.load(answer)["coresused"]
    ledger = settings.table_uri(LEDGER.name)
    return executors == 2 and DeltaTable.is_deltatable(ledger) and bool(Lake(settings).cuts())


def spark_sql(settings: Settings, sql: str) -> Any:
    """What `spark-submit jobs/analyze.py` answers, as an application of its own beside the stream."""
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    jars = ",".join(map(str, servers.jar_paths(settings, "spark")))
    command = [
        *(str(submit), "--master", settings.spark.master, "--conf", "spark.driver.host=127.0.0.1"),
        *("--jars", jars, str(PROJECT / "jobs" / "analyze.py"), "--json", sql),
    ]
    env = environment(settings, PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP="127.0.0.1")
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
