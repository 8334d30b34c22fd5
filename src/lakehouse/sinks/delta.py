"""Appending to and replacing files of Delta tables from the driver, in milliseconds.

Spark's own writer costs a job and 50-400 ms a commit (docs/decisions/0003); beside a stream of small batches that is
nearly all of the time. This writes the same thing, a Parquet file and one JSON action list (Delta transaction log
protocol, reader version 1, writer version 2), with the Hadoop client of the Spark session. Spark, delta-rs and DuckDB
read the tables as any other; batches that no driver holds go through Spark (``runtime/separate.py``).

Guarantee: a commit is atomic and appears once or not at all (exclusive rename, as in Delta's HDFSLogStore). Writing
the same batch twice appends it twice: ``runtime/recovery.py`` puts tables back to the ledger's cut before a batch is
repeated.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from lakehouse.tables import Table

ENGINE = "lakehouse"


def whole_hours(duration: timedelta) -> int:
    """A duration in the hours in which retention is told, never shorter than it is."""
    return -(-duration // timedelta(hours=1))


def configuration(time_travel: timedelta) -> dict[str, str]:
    """The table properties of a new table."""
    interval = f"interval {whole_hours(time_travel)} hours"
    return {
        "delta.logRetentionDuration": interval,
        "delta.deletedFileRetentionDuration": interval,
        "delta.checkpointInterval": "1000000",  # maintenance checkpoints beside the stream, never a commit in passing
    }


class CommitConflict(Exception):
    """Another writer changed what this commit builds on; read the table again and repeat."""


@dataclass(frozen=True)
class DataFile:
    """A Parquet file that lies in the table's folder, not yet (or already) part of the table."""

    path: str
    size: int
    rows: int
    stats: dict[str, Any]

    def add(self, now_ms: int, data_change: bool = True) -> dict[str, Any]:
        """The action that makes it part of the table; ``data_change`` is False where rows only move between files."""
        return {
            "add": {
                "path": self.path,
                "partitionValues": {},
                "size": self.size,
                "modificationTime": now_ms,
                "dataChange": data_change,
                "stats": json.dumps(self.stats),
            }
        }


def remove(path: str, size: int, now_ms: int, data_change: bool = True) -> dict[str, Any]:
    """The action that takes a file out of the table; the file stays until its time travel ends."""
    return {
        "remove": {
            "path": path,
            "deletionTimestamp": now_ms,
            "dataChange": data_change,
            "extendedFileMetadata": True,
            "partitionValues": {},
            "size": size,
        }
    }


def stat(value: Any, up: bool) -> Any:
    """A bound as the protocol's statistics hold it; ``up`` for an upper bound."""
    if isinstance(value, datetime):
        # The protocol's statistics hold milliseconds; bounds are widened to them.
        whole = value.replace(microsecond=value.microsecond // 1000 * 1000)
        if up and whole != value:
            whole += timedelta(milliseconds=1)
        return whole.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value


def statistics(rows: pa.Table, names: Iterable[str]) -> dict[str, Any]:
    """File statistics of the protocol: row count, and bounds and null counts of the named columns."""
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for name in names:
        column = rows.column(name)
        bounds = pc.min_max(column)
        nulls[name] = column.null_count
        if bounds["min"].is_valid:
            low[name], high[name] = stat(bounds["min"].as_py(), False), stat(bounds["max"].as_py(), True)
    return {"numRecords": rows.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}


_JAVA = """
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.OpenOption;
import java.nio.file.Paths;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.commons.io.IOUtils;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileAlreadyExistsException;
import org.apache.hadoop.fs.FileContext;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Options;
import org.apache.hadoop.fs.Path;

public class LakehouseStorage {
    private static final OpenOption[] WRITE = new OpenOption[0];
    private final Configuration conf;
    private final Map contexts = new ConcurrentHashMap();

    public LakehouseStorage(Configuration conf) { this.conf = conf; }

    private FileSystem files(Path path) throws IOException { return path.getFileSystem(conf); }

    public void put(String local, String uri) throws IOException {
        Path to = new Path(uri);
        InputStream in = new FileInputStream(local);
        try {
            OutputStream out = isHere(to) ? Files.newOutputStream(here(to), WRITE) : files(to).create(to, true);
            try { IOUtils.copyLarge(in, out); } finally { out.close(); }
        } finally { in.close(); }
    }

    public boolean putNew(String text, String uri) throws IOException {
        Path to = new Path(uri);
        if (isHere(to)) return putNewHere(text, here(to));
        Path draft = new Path(to.getParent(), "." + to.getName() + "." + UUID.randomUUID() + ".tmp");
        OutputStream out = files(draft).create(draft, true);
        try { out.write(text.getBytes(StandardCharsets.UTF_8)); } finally { out.close(); }
        boolean moved = false;
        try {
            context(to).rename(draft, to, new Options.Rename[0]);
            moved = true;
        } catch (FileAlreadyExistsException taken) {
            return false;
        } finally {
            if (!moved) files(draft).delete(draft, false);
        }
        return true;
    }

    // Without its native library Hadoop starts processes for a file on a local disk: one to write, five to rename it.
    private static boolean isHere(Path path) { return "file".equals(path.toUri().getScheme()); }

    private static java.nio.file.Path here(Path path) throws IOException {
        java.nio.file.Path to = Paths.get(path.toUri().getPath(), new String[0]);
        Files.createDirectories(to.getParent(), new java.nio.file.attribute.FileAttribute[0]);
        Files.deleteIfExists(to.resolveSibling("." + to.getFileName() + ".crc")); // Hadoop's, of the file before
        return to;
    }

    private static boolean putNewHere(String text, java.nio.file.Path to) throws IOException {
        java.nio.file.Path draft = to.resolveSibling("." + to.getFileName() + "." + UUID.randomUUID() + ".tmp");
        Files.write(draft, text.getBytes(StandardCharsets.UTF_8), WRITE);
        try {
            Files.createLink(to, draft);
        } catch (java.nio.file.FileAlreadyExistsException taken) {
            return false;
        } finally {
            Files.delete(draft);
        }
        return true;
    }

    private FileContext context(Path path) throws IOException {
        String root = path.toUri().getScheme() + "://" + path.toUri().getAuthority();
        FileContext known = (FileContext) contexts.get(root);
        if (known == null) {
            known = FileContext.getFileContext(path.toUri(), conf);
            contexts.put(root, known);
        }
        return known;
    }

    public byte[] read(String uri) throws IOException {
        Path path = new Path(uri);
        try {
            InputStream in = files(path).open(path);
            try { return IOUtils.toByteArray(in); } finally { in.close(); }
        } catch (FileNotFoundException missing) {
            return null;
        }
    }

    public boolean exists(String uri) throws IOException {
        Path path = new Path(uri);
        return files(path).exists(path);
    }

    public String names(String uri) throws IOException {
        Path path = new Path(uri);
        StringBuilder found = new StringBuilder();
        FileStatus[] all = files(path).listStatus(path);
        for (int i = 0; i < all.length; i++) found.append(all[i].getPath().getName()).append('\\n');
        return found.toString();
    }

    public void deleteAll(String uris) throws IOException {
        String[] each = uris.split("\\n");
        for (int i = 0; i < each.length; i++) {
            Path path = new Path(each[i]);
            files(path).delete(path, false);
        }
    }

    public void delete(String uri) throws IOException {
        Path path = new Path(uri);
        files(path).delete(path, true);
    }
}
"""
"""Each method is one round trip. The same calls made one by one from Python are some twenty a commit, each with a
thread switch on both sides. Compiled in the driver by Janino, which Spark itself compiles its queries with."""


@cache
def _constructor(gateway: Any) -> Any:
    """Once a JVM: py4j remembers methods by the name of their class, and would call those of another class so named."""
    compiler = gateway.jvm.org.codehaus.janino.SimpleCompiler()
    compiler.setParentClassLoader(gateway.jvm.java.lang.Thread.currentThread().getContextClassLoader())
    compiler.cook(_JAVA)
    return compiler.getClassLoader().loadClass("LakehouseStorage").getConstructors()[0]


class Storage:
    """The lake's file system, through the Hadoop client inside Spark's JVM; safe to use from several threads."""

    def __init__(self, spark: SparkSession, scratch: Path):
        context: Any = spark.sparkContext
        self.scratch = scratch
        scratch.mkdir(parents=True, exist_ok=True)
        arguments = context._gateway.new_array(context._jvm.java.lang.Object, 1)
        arguments[0] = context._jsc.hadoopConfiguration()
        self._java = _constructor(context._gateway).newInstance(arguments)

    def put(self, local: Path, uri: str) -> None:
        """Move a local file to the lake."""
        self._java.put(str(local), uri)
        local.unlink()

    def put_new(self, text: str, uri: str) -> bool:
        """Write a text under a name that nobody has: False where the name is taken, atomic for readers."""
        return bool(self._java.putNew(text, uri))

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small file, or None where there is none."""
        data = self._java.read(uri)
        return None if data is None else bytes(data)

    def exists(self, uri: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self._java.exists(uri))

    def names(self, uri: str) -> list[str]:
        """The names in a folder."""
        return str(self._java.names(uri)).split()

    def delete(self, uri: str) -> None:
        """Delete a file or a whole folder."""
        self._java.delete(uri)

    def delete_all(self, uris: Iterable[str]) -> None:
        """Delete files; one that is not there is passed over."""
        if text := "\n".join(uris):
            self._java.deleteAll(text)


class DeltaWriter:
    """One table's writer, shared by the threads of a process.

    Others may commit beside it (OPTIMIZE, DELETE by Spark); it finds the next free version.
    """

    def __init__(self, storage: Storage, table: Table, uri: str, version: int):
        self.storage, self.table, self.uri, self.version = storage, table, uri, version
        self._lock = Lock()

    @staticmethod
    def create(storage: Storage, table: Table, uri: str, time_travel: timedelta) -> bool:
        """Create the table if it is not there: True if this call made it."""
        now = int(time.time() * 1000)
        actions: list[dict[str, Any]] = [
            {
                "commitInfo": {
                    "timestamp": now,
                    "operation": "CREATE TABLE",
                    "operationParameters": {},
                    "engineInfo": ENGINE,
                }
            },
            {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
            {
                "metaData": {
                    "id": str(uuid.uuid4()),
                    "name": table.name,
                    "format": {"provider": "parquet", "options": {}},
                    "schemaString": table.schema.json(),
                    "partitionColumns": [],
                    "configuration": configuration(time_travel),
                    "createdTime": now,
                }
            },
        ]
        return storage.put_new(_lines(actions), f"{uri}/_delta_log/{0:020d}.json")

    def stage(self, rows: pa.Table) -> DataFile:
        """Write rows as a Parquet file into the table's folder; readers don't see it before :meth:`commit`."""
        name = f"part-{uuid.uuid4().hex}.snappy.parquet"
        local = self.storage.scratch / name
        rows = rows.select(self.table.schema.names).cast(self.table.arrow)
        pq.write_table(rows, local, compression="snappy", store_schema=False)
        size = local.stat().st_size
        self.storage.put(local, f"{self.uri}/{name}")
        return DataFile(name, size, rows.num_rows, statistics(rows, self.table.order))

    def commit(
        self,
        adds: Iterable[DataFile],
        removes: Iterable[tuple[str, int]] = (),
        operation: str = "WRITE",
        data_change: bool = True,
    ) -> int:
        """Make staged files part of the table and take others out, in one version, which is returned.

        Raises:
            CommitConflict: another writer changed the table's columns, or removed a file that this commit removes.
        """
        now = int(time.time() * 1000)
        gone = dict(removes)
        actions: list[dict[str, Any]] = [
            {
                "commitInfo": {
                    "timestamp": now,
                    "operation": operation,
                    "operationParameters": {"mode": "Overwrite" if gone else "Append"},
                    "isBlindAppend": not gone,
                    "engineInfo": ENGINE,
                }
            }
        ]
        actions += [file.add(now, data_change) for file in adds]
        actions += [remove(path, size, now, data_change) for path, size in gone.items()]
        body = _lines(actions)
        with self._lock:
            while True:
                target = self.version + 1
                if self.storage.put_new(body, self._log(target)):
                    self.version = target
                    return target
                for winner in self.actions(target):
                    if "metaData" in winner or "protocol" in winner or winner.get("remove", {}).get("path") in gone:
                        raise CommitConflict(f"{self.table.name}: version {target} was written by another writer")
                self.version = target

    def append(self, rows: pa.Table) -> int:
        """Append rows in one file and one version."""
        return self.commit([self.stage(rows)])

    def actions(self, version: int) -> list[dict[str, Any]]:
        """The actions of one version."""
        body = self.storage.read(self._log(version)) or b""
        return [json.loads(line) for line in body.splitlines() if line.strip()]

    def checkpointed(self) -> int:
        """The version of the newest checkpoint; -1 without one."""
        body = self.storage.read(f"{self.uri}/_delta_log/_last_checkpoint")
        return int(json.loads(body)["version"]) if body else -1

    def _log(self, version: int) -> str:
        return f"{self.uri}/_delta_log/{version:020d}.json"


def _lines(actions: list[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(action, separators=(",", ":")) for action in actions)
