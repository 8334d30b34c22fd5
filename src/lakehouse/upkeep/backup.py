"""Backup and restore of tables, consistent at the last cut, without Spark.

A backup is a folder (or ``hdfs://`` URI): ``data/<layer>/<table>/`` holds data files, which never change once they are
written, so each is copied once for all backups there; ``manifests/<time>.json`` names the files, version, columns and
checksums of one backup. A restored table has the version that it had, as the ledger's cuts name it: its log begins
with a checkpoint of that version.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deltalake import DeltaTable

from lakehouse.flows import STREAMED, TABLES
from lakehouse.runtime.holds import held
from lakehouse.runtime.ledger import LEDGER
from lakehouse.runtime.recovery import data_files
from lakehouse.runtime.turns import only_writer
from lakehouse.settings import Settings
from lakehouse.sinks.delta import DataFile
from lakehouse.sinks.files import Copied, Files, at_once
from lakehouse.sources.lake import Lake, NoTableError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""
FORMAT = 1
LASTS = timedelta(days=1)
"""For how long the versions are kept readable, at most, while they are copied."""
FOLLOWERS = ("mongodb", "redis", "elasticsearch", "anomalies")


class BackupError(Exception):
    """A backup or restore can't be done, or what was kept is not what it was; the message says what and what to do."""


def place(where: str) -> Files:
    """A folder or URI of backups."""
    return Files(where.rstrip("/") if "://" in where else Path(where).absolute().as_uri())


def backup(
    settings: Settings, to: str, table: str | None = None, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Copy a table, or all, as of the last cut, and always the ledger; what was copied.

    Raises:
        BackupError: the name is unknown, or a file that the log names is not what it says.
    """
    if table is not None and table not in TABLES:
        raise BackupError(f"{table}: no such table; `lakehouse tables` names them")
    lake, there, here = Lake(settings), place(to), Files(settings.root)
    versions = _versions(lake, table)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "root": settings.root,
        "all": table is None,
        "tables": {},
    }
    with held(settings, "lakehouse backup", versions, LASTS):
        files = [(name, file) for name in versions for file in data_files(lake, name, versions[name]).values()]
        total, done = sum(file.size for _, file in files), 0
        known, present = _known(there), _sizes(there, versions, "data/")
        for name, version in versions.items():
            handle = lake.table(name, version)
            manifest["tables"][name] = {
                "version": version,
                "columns": json.loads(handle.schema().to_json()),
                "id": str(handle.metadata().id),
                "configuration": dict(handle.metadata().configuration),
                "files": [],
            }

        def keep(one: tuple[str, DataFile]) -> tuple[str, bool]:
            """Have a file there: its checksum, and whether it had to be copied."""
            name, file = one
            path = f"{_folder(name)}/{file.path}"
            if present[name].get(file.path) == file.size:
                return known.get((name, file.path)) or there.summed(f"data/{path}").sha256, False
            found = here.copy(path, there, f"data/{path}")
            if found.size != file.size:
                raise BackupError(
                    f"{name}: file {file.path} has {found.size} bytes, its log says {file.size}; "
                    f"`lakehouse doctor` and `lakehouse audit` say what else is wrong"
                )
            return found.sha256, True

        copied = 0
        for (name, file), (sha256, was_copied) in zip(files, at_once(keep, files), strict=True):
            manifest["tables"][name]["files"].append(asdict(file) | {"sha256": sha256})
            copied += was_copied
            done += file.size
            progress(done, total)
    name = f"manifests/{manifest['at'].replace(':', '')}.json"
    there.put(name, json.dumps(manifest).encode())
    return {
        "manifest": name, "tables": len(versions), "bytes": total,
        "files_copied": copied, "files_there_already": len(files) - copied,
    }  # fmt: skip


def _versions(lake: Lake, table: str | None) -> dict[str, int]:
    """The version of each table: that of the last cut, of tables that no topic feeds the newest."""
    # The ledger first: what it says at this version is true of all others, which were written before.
    ledger = lake.table(LEDGER.name).version()
    found = {LEDGER.name: ledger}
    cuts = lake.cuts(ledger)
    for cut in cuts.values():
        for name, version in cut.versions.items():
            found[name] = max(found.get(name, 0), version)
    for name in TABLES:
        if name not in found:
            try:
                found[name] = 0 if name in STREAMED else lake.table(name).version()
            except NoTableError:
                continue
    return {name: found[name] for name in sorted(found) if table in (None, name) or name == LEDGER.name}


def _folder(table: str) -> str:
    return table.replace(".", "/")


def _sizes(files: Files, tables: Iterable[str], under: str = "") -> dict[str, dict[str, int]]:
    """What there is of each table: file -> bytes."""
    return {name: {one.name: one.size for one in files.ls(f"{under}{_folder(name)}")} for name in tables}


def _known(there: Files) -> dict[tuple[str, str], str]:
    """Checksums of files by the newest manifest."""
    found = there.ls("manifests")
    if not found:
        return {}
    newest = json.loads(there.read(f"manifests/{found[-1].name}") or b"{}")
    return {(name, f["path"]): f["sha256"] for name, one in newest["tables"].items() for f in one["files"]}


def manifests(where: str) -> list[str]:
    """The backups of a folder, the oldest first."""
    return [one.name.removesuffix(".json") for one in place(where).ls("manifests")]


def restore(
    settings: Settings,
    source: str,
    table: str | None = None,
    at: str | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Put all tables of a backup in place, or one; what was done and what is to follow.

    One table that the stream writes must be at the version that the lake's last cut names: it is mended, not set back.
    Data files are copied and verified first, logs switched last.

    Raises:
        BackupError: there is no such backup, a file of it is damaged, or something is there and ``force`` is not given.
        TurnError: the stream is running.
    """
    there, here, lake = place(source), Files(settings.root), Lake(settings)
    manifest = _manifest(there, source, at)
    kept = manifest["tables"]
    if table is None and not manifest["all"]:
        raise BackupError(f"the backup holds {', '.join(kept)} alone: name the table")
    if table is not None and table not in kept:
        raise BackupError(f"the backup of {manifest['at']} holds no {table}")
    chosen = kept if table is None else {table: kept[table]}
    with only_writer(settings, "lakehouse restore"):
        taken = [name for name in chosen if here.ls(f"{_folder(name)}/_delta_log")]
        if taken and not force:
            raise BackupError(f"{', '.join(taken)} is there already; --force puts the backup in its place")
        if table is not None:
            _fits(lake, table, kept[table]["version"])
        files = [(name, file) for name, one in chosen.items() for file in one["files"]]
        total, done = sum(file["size"] for _, file in files), 0
        present = _sizes(here, chosen)

        def verify(one: tuple[str, dict[str, Any]]) -> None:
            name, file = one
            if there.summed(f"data/{_folder(name)}/{file['path']}") != _copied(file):
                raise BackupError(f"{name}: {file['path']} in {source} is damaged; nothing was put in place")

        def put_in_place(one: tuple[str, dict[str, Any]]) -> None:
            name, file = one
            path = f"{_folder(name)}/{file['path']}"
            there_already = present[name].get(file["path"]) == file["size"] and here.summed(path) == _copied(file)
            if not there_already and there.copy(f"data/{path}", here, path) != _copied(file):
                raise BackupError(f"{name}: {file['path']} in {source} changed while it was read; no log was replaced")

        list(
            at_once(verify, files)
        )  # all of them first: a damaged one must not take the place of a good one of its name
        for (_, file), _ in zip(files, at_once(put_in_place, files), strict=True):
            done += file["size"]
            progress(done, total)
        list(at_once(lambda name: _put_log(here, name, chosen[name]), chosen))
        if table is None:
            # What followed the tables that were there, or remembers them, begins anew.
            for query in FOLLOWERS:
                for path in here.walk(f"_checkpoints/{query}"):
                    here.delete(path)
            shutil.rmtree(settings.home / "index", ignore_errors=True)
    stores = [f"lakehouse rebuild --store {store}" for store in settings.stream.stores] if table is None else []
    return {
        "of": manifest["at"], "tables": {name: one["version"] for name, one in chosen.items()},
        "files": sum(len(one["files"]) for one in chosen.values()), "bytes": total,
        "then": [*stores, "lakehouse up", "lakehouse audit"],
    }  # fmt: skip


def _copied(file: dict[str, Any]) -> Copied:
    return Copied(file["size"], file["sha256"])


def _manifest(there: Files, source: str, at: str | None) -> dict[str, Any]:
    names = [one.name.removesuffix(".json") for one in there.ls("manifests")]
    if not names:
        raise BackupError(f"{source}: no backup there")
    if at is not None and at.replace(":", "") not in names:
        raise BackupError(f"{source}: no backup of {at}; there are {', '.join(names)}")
    body = there.read(f"manifests/{at.replace(':', '') if at else names[-1]}.json")
    manifest: dict[str, Any] = json.loads(body or b"{}")
    if manifest.get("format") != FORMAT:
        raise BackupError(f"{source}: made by another version of lakehouse (format {manifest.get('format')})")
    return manifest


def _fits(lake: Lake, table: str, version: int) -> None:
    """The last cuts of the lake name just this version of a table that the stream writes."""
    if table not in STREAMED:
        return
    if table == LEDGER.name:
        raise BackupError(f"{table} says what all tables hold: restore --all")
    try:
        named = {cut.versions[table] for cut in lake.cuts().values() if table in cut.versions}
    except NoTableError:
        raise BackupError("there is no ledger: restore --all") from None
    if (last := max(named, default=0)) != version:
        raise BackupError(
            f"{table}: the backup has version {version}, the last cut is at {last}; `lakehouse rebuild {table}` "
            "fills a silver or gold table from what there is, `lakehouse restore --all` sets everything back"
        )


def _put_log(here: Files, name: str, one: dict[str, Any]) -> None:
    """Replace a table's log by one that begins at the backup's version."""
    folder, version = f"{_folder(name)}/_delta_log", one["version"]
    now = int(datetime.now(UTC).timestamp() * 1000)
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": "RESTORE",
                "operationParameters": {},
                "engineInfo": "lakehouse",
            }
        },
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {
            "metaData": {
                "id": one["id"],
                "name": name,
                "format": {"provider": "parquet", "options": {}},
                "schemaString": json.dumps(one["columns"]),
                "partitionColumns": [],
                "configuration": one["configuration"],
                "createdTime": now,
            }
        },
    ]
    fields = ("path", "size", "rows", "stats")
    actions += [DataFile(*(file[field] for field in fields)).add(now) for file in one["files"]]
    body = "\n".join(json.dumps(action) for action in actions).encode()
    # delta-rs makes the checkpoint, of a table of one version; what it holds does not name the version.
    with TemporaryDirectory() as scratch:
        log = Path(scratch) / "_delta_log"
        log.mkdir()
        (log / f"{0:020d}.json").write_bytes(body)
        DeltaTable(scratch).create_checkpoint()
        checkpoint = (log / f"{0:020d}.checkpoint.parquet").read_bytes()
    for old in here.walk(folder):
        here.delete(old)
    here.put(f"{folder}/{version:020d}.json", body)
    here.put(f"{folder}/{version:020d}.checkpoint.parquet", checkpoint)
    here.put(f"{folder}/_last_checkpoint", json.dumps({"version": version, "size": len(actions) - 1}).encode())
