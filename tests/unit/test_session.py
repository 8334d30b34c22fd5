"""What a session is made with, and what its executors get."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from lakehouse.session import allocation, executor_options, packed, spark_session
from lakehouse.settings import PROJECT, Executors, FlowRun, Settings, Stream
from lakehouse.stack import StackError


def test_a_fixed_number_of_executors_is_said_to_every_cluster_manager() -> None:
    options = executor_options(Executors(least=3, most=3, cores=2, memory="4g"))
    assert (options["spark.executor.instances"], options["spark.cores.max"]) == ("3", "6")
    assert "spark.dynamicAllocation.enabled" not in options


def test_executors_that_come_and_go_need_no_shuffle_service() -> None:
    options = executor_options(Executors(least=1, most=8, cores=2, idle_after=timedelta(minutes=2)))
    assert options["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
    names = ("minExecutors", "maxExecutors", "executorIdleTimeout")
    assert [options[f"spark.dynamicAllocation.{name}"] for name in names] == ["1", "8", "120s"]
    assert "spark.executor.instances" not in options


def test_fewer_executors_at_most_than_at_least_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"least \(4\) is above most \(2\)"):
        Executors(least=4, most=2)


def test_pools_are_as_the_fair_scheduler_reads_them() -> None:
    root = ElementTree.fromstring(allocation({"user-events": (2, 1), "service-logs": (1, 0)}))
    found = {pool.get("name"): (pool.findtext("weight"), pool.findtext("minShare")) for pool in root}
    assert found == {"user-events": ("2", "1"), "service-logs": ("1", "0")}


def test_a_flow_says_what_differs_and_has_the_rest_from_the_stream() -> None:
    stream = Stream(
        trigger=timedelta(seconds=2), flows={"service-logs": FlowRun(trigger=timedelta(seconds=9), weight=3)}
    )
    logs, events = stream.flow("service-logs"), stream.flow("user-events")
    assert (logs.trigger, logs.weight) == (timedelta(seconds=9), 3)
    assert (events.trigger, events.weight) == (timedelta(seconds=2), 1)
    assert logs.max_records_per_batch == events.max_records_per_batch == stream.max_records_per_batch


def test_without_the_connectors_jars_no_session_is_begun(tmp_path: Path) -> None:
    """Spark itself says nothing of them until a query asks for Kafka."""
    with pytest.raises(StackError, match=r"12 spark jars are missing in .* `lakehouse setup`"):
        spark_session(Settings(home=tmp_path, jars=tmp_path), "trial")


def test_executors_can_import_the_flows_from_what_they_are_given_alone(tmp_path: Path) -> None:
    """In a folder as Spark lays it out: the code as a zip, and beside it the contracts."""
    code = packed(tmp_path / "lakehouse.zip", [PROJECT / "src" / "lakehouse"])
    contracts = packed(tmp_path / "contracts.zip", [PROJECT / "conf" / "contracts"])
    zipfile.ZipFile(contracts).extractall(tmp_path / "conf")
    look = (
        f"import sys; sys.path.insert(0, {str(code)!r}); import lakehouse.flows as f; print(f.__file__, len(f.FLOWS))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", look], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.split() == [f"{code}/lakehouse/flows.py", "3"], done.stderr
