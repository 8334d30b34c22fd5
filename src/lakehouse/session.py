"""The Spark session of the stream, the jobs and the tests."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from lakehouse.settings import PROJECT, Executors, Settings
from lakehouse.stack import jar_paths

# What was measured on two cores, and why each setting is here: docs/decisions/0003-small-batches.md.
_TUNED = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "ERROR",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # Spark's catalog takes no tables of MongoDB's connector; global views, by this name, may have its collections'.
    "spark.sql.globalTempDatabase": "mongodb",
    "spark.redaction.regex": "(?i)secret|password|token|access[.]key|http[.]auth|connection[.]uri",
    "spark.sql.adaptive.enabled": "false",
    "spark.scheduler.mode": "FAIR",
    "spark.locality.wait": "0s",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "20000",
    "spark.cleaner.periodicGC.interval": "60min",
    "spark.sql.ui.retainedExecutions": "1",
    "spark.databricks.delta.snapshotPartitions": "1",
    "spark.databricks.delta.history.metricsEnabled": "false",
    "spark.databricks.delta.writeChecksumFile.enabled": "false",
    "spark.sql.streaming.minBatchesToRetain": "20",
    "spark.sql.streaming.noDataMicroBatches.enabled": "false",
    "spark.sql.streaming.pollingDelay": "5ms",
    "spark.sql.streaming.metricsEnabled": "false",
    "spark.sql.streaming.kafka.useDeprecatedOffsetFetching": "false",
    "spark.sql.streaming.numRecentProgressUpdates": "100",
    # The NameNode hears of a finished block a moment after the client asks; the stock first wait is 400 ms.
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "2",
    "spark.hadoop.dfs.client.block.write.locateFollowingBlock.retries": "12",
    "spark.hadoop.dfs.client.use.datanode.hostname": "true",
}


_SMALL_EXECUTORS = {
    "spark.executor.extraJavaOptions": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true",
    "spark.executor.logs.rolling.strategy": "size",
    "spark.executor.logs.rolling.maxSize": str(10 << 20),
    "spark.executor.logs.rolling.maxRetainedFiles": "2",
}
"""On a cluster that shares one machine."""

_NAMES = (
    "functions",
    "PythonUtils",
    "SimplePythonFunction",
    "SparkSession",
    "SparkSession$",
    "py4j.reflection.TypeUtil",
    "org.apache.spark.sql.execution.python.UserDefinedPythonFunction",
)


def spark_session(
    settings: Settings,
    app: str,
    more: Sequence[Path] = (),
    executors: Executors | None = None,
    pools: Mapping[str, tuple[int, int]] | None = None,
) -> SparkSession:
    """The session of this process, made if there is none; under spark-submit its own settings win.

    ``more`` are jars beside the connectors'; a session that is there already does not get them. ``executors`` are
    those of ``spark.job_executors`` if not given; ``pools``: name -> (weight, least cores) of the fair scheduler.
    Where the master is not local, executors get ``lakehouse``, ``models`` and the contracts from the driver; Python
    and the libraries they must have.

    Raises:
        StackError: the connectors' jars are not there, where Spark is not started by spark-submit.
    """
    submitted = "SPARK_ENV_LOADED" in os.environ
    builder = SparkSession.builder.appName(app)
    options = dict(_TUNED)
    options["spark.hadoop.fs.defaultFS"] = settings.hdfs.uri
    options["spark.hadoop.dfs.replication"] = str(settings.hdfs.replication)
    options["spark.sql.shuffle.partitions"] = options["spark.default.parallelism"] = str(
        settings.spark.shuffle_partitions
    )
    if pools:
        options["spark.scheduler.allocation.file"] = _allocation(settings, pools).as_uri()
    given: dict[str, str] = {}
    if submitted:
        SparkContext._ensure_initialized()
        given = dict(SparkConf().getAll())
    else:
        options |= {
            "spark.master": settings.spark.master,
            "spark.driver.memory": settings.spark.driver_memory,
            "spark.jars": ",".join(map(str, [*jar_paths(settings, "spark"), *more])),
            # C1 alone: Spark's planner keeps C2 busy for minutes, with a third of a core, for code that then waits.
            "spark.driver.extraJavaOptions": "-XX:+UseSerialGC -Xmn256m -XX:TieredStopAtLevel=1 "
            "-XX:ReservedCodeCacheSize=256m -Djava.net.preferIPv4Stack=true",
            "spark.sql.warehouse.dir": (settings.home / "warehouse").as_uri(),
        }
        if settings.servers == "local" or settings.spark.master.startswith("local"):
            options |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if not given.get("spark.master", settings.spark.master).startswith("local"):
        options |= executor_options(executors or settings.spark.job_executors)
        if settings.servers == "local":
            options |= _SMALL_EXECUTORS
    options = {key: value for key, value in options.items() if key not in given}
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("LAKEHOUSE_PROJECT", str(PROJECT))
    # Spark's workers find what stands beside ``src``, wherever this process was started.
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(PROJECT) not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([*filter(None, known), str(PROJECT)])
    for key, value in options.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    _keep_names(spark)
    if not (spark.sparkContext.master or "").startswith("local"):
        _distribute(spark, settings.home / "tmp")
    return spark


def executor_options(wanted: Executors) -> dict[str, str]:
    """How many executors of which size, in the words of every cluster manager; a local master passes them over."""
    options = {
        "spark.executor.cores": str(wanted.cores),
        "spark.executor.memory": wanted.memory,
        "spark.cores.max": str(wanted.most * wanted.cores),  # standalone's own way to say it
    }
    if wanted.least == wanted.most:
        return options | {"spark.executor.instances": str(wanted.most)}
    idle = f"{wanted.idle_after // timedelta(seconds=1)}s"
    return options | {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",
        "spark.dynamicAllocation.minExecutors": str(wanted.least),
        "spark.dynamicAllocation.maxExecutors": str(wanted.most),
        "spark.dynamicAllocation.executorIdleTimeout": idle,
        # What holds cached rows or shuffles is given back too, if later: both can be computed again.
        "spark.dynamicAllocation.cachedExecutorIdleTimeout": "10min",
        "spark.dynamicAllocation.shuffleTracking.timeout": "10min",
    }


def allocation(pools: Mapping[str, tuple[int, int]]) -> str:
    """Pools of the fair scheduler as its file has them: name -> (weight, least cores)."""
    rows = "".join(
        f'  <pool name="{name}"><schedulingMode>FAIR</schedulingMode>'
        f"<weight>{weight}</weight><minShare>{least}</minShare></pool>\n"
        for name, (weight, least) in pools.items()
    )
    return f'<?xml version="1.0"?>\n<allocations>\n{rows}</allocations>\n'


def _allocation(settings: Settings, pools: Mapping[str, tuple[int, int]]) -> Path:
    path = settings.home / "tmp" / "pools.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(allocation(pools))
    return path


def _distribute(spark: SparkSession, folder: Path) -> None:
    """Give executors what they import, and beside it, in the folder they run in, the contracts that it reads."""
    packages = [Path(__file__).parent, *[path for path in [PROJECT / "models"] if path.exists()]]
    spark.sparkContext.addPyFile(str(packed(folder / "lakehouse.zip", packages)))
    contracts = packed(folder / "contracts.zip", [PROJECT / "conf" / "contracts"])
    spark.sparkContext.addArchive(f"{contracts}#conf")


def packed(path: Path, folders: Sequence[Path]) -> Path:
    """Write a zip of folders, each under its own name; an application at work finds the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            for file in sorted(folder.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(folder.parent))
    os.replace(part, path)
    return path


def _keep_names(spark: SparkSession) -> None:
    """Resolve once the JVM's names that PySpark uses for every batch.

    py4j asks for a name anew at each use, and the JVM then looks for it in every jar, under every imported package:
    a seventh of what a small batch costs the driver.
    """
    for dotted in _NAMES:
        place: Any = spark._jvm
        for part in dotted.split("."):
            found = getattr(place, part)
            setattr(place, part, found)
            place = found
