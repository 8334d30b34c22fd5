"""One Spark session for the run, tables on the local disk, no server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from lakehouse.session import spark_session
from lakehouse.settings import PROJECT, Hdfs, Settings
from tests.streaming.feed import Run


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    jars = Path(os.environ.get("LAKEHOUSE_JARS", PROJECT / ".lakehouse" / "jars"))
    folder = tmp_path_factory.mktemp("lake")
    return Settings(home=folder / "home", jars=jars, hdfs=Hdfs(uri=f"file://{folder}", root="lake"), servers="existing")


@pytest.fixture(scope="session")
def spark(base: Settings) -> Iterator[SparkSession]:
    session = spark_session(base, "tests")
    yield session
    session.stop()


@pytest.fixture
def run(spark: SparkSession, base: Settings, tmp_path: Path) -> Run:
    """A stream over a lake of its own, not started."""
    return Run(spark, base.model_copy(update={"home": tmp_path / "home", "hdfs": Hdfs(uri=f"file://{tmp_path}")}))
