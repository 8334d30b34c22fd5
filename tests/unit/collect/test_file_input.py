"""Files: each line once, through rotation, truncation and restarts."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from lakehouse.collect.inputs.file import File, FileOptions
from tests.unit.collect.fakes import Intake, plugin


class Reader:
    """A file input driven by hand; ``marks`` outlive it, as the queue's do."""

    def __init__(self, pattern: Path, marks: dict[str, Any] | None = None, **options: Any) -> None:
        self.options = {"path": [str(pattern)], "start_position": "beginning", **options}
        self.marks = {} if marks is None else marks
        self.source = File(FileOptions(**self.options), plugin("file", **self.options))
        self.events: list[dict[str, Any]] = []

    def poll(self) -> list[str]:
        """The messages that are new since the last time."""

        async def once() -> list[dict[str, Any]]:
            intake = Intake()
            intake.marks = self.marks
            await self.source.discover(intake, self.options["start_position"] == "beginning")
            while await self.source.read(intake):
                pass
            return intake.events

        self.events = asyncio.run(once())
        return [event["message"] for event in self.events]

    def again(self, **options: Any) -> Reader:
        return Reader(
            Path(self.options["path"][0]), self.marks, **{**self.options, "path": self.options["path"], **options}
        )


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_appended_lines_come_once_and_a_partial_last_line_waits(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\none\ntw")
    reader = Reader(log)
    assert reader.poll() == ["one", "one"]
    assert reader.events[0]["log"]["file"]["path"] == str(log)
    add(log, b"o\n")
    assert reader.poll() == ["two"] and reader.poll() == []


def test_a_restart_goes_on_where_the_queue_has_it(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\ntwo\nthr")
    reader = Reader(log)
    assert reader.poll() == ["one", "two"]
    add(log, b"ee\nfour\n")
    assert reader.again().poll() == ["three", "four"]


def test_a_renamed_file_is_read_on_and_its_successor_from_the_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\n")
    reader = Reader(log)
    assert reader.poll() == ["one"]
    log.rename(tmp_path / "a.log.1")
    add(tmp_path / "a.log.1", b"late\n")
    add(log, b"new\n")
    assert sorted(reader.poll()) == ["late", "new"]
    assert reader.again().poll() == []


def test_a_renamed_file_that_still_matches_is_not_read_twice(tmp_path: Path) -> None:
    add(tmp_path / "a.log", b"one\n")
    reader = Reader(tmp_path / "a.log*")
    assert reader.poll() == ["one"]
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    assert reader.poll() == [] and reader.again().poll() == []


def test_a_truncated_file_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\ntwo\nhalf")
    reader = Reader(log)
    assert reader.poll() == ["one", "two"]
    log.write_bytes(b"x\n")
    assert reader.poll() == ["half", "x"]
    log.write_bytes(b"longer than it ever was\nand more of it\n")
    assert reader.poll() == ["longer than it ever was", "and more of it"]
    assert reader.again().poll() == []


def test_a_file_that_was_truncated_while_nobody_read_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\n")
    reader = Reader(log)
    assert reader.poll() == ["one"]
    log.write_bytes(b"two\nthree\n")
    assert reader.again().poll() == ["two", "three"]


def test_a_deleted_file_leaves_its_unfinished_line_and_no_position(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"one\nlast")
    reader = Reader(log)
    assert reader.poll() == ["one"]
    os.unlink(log)
    assert reader.poll() == ["last"]
    assert list(reader.marks.values()) == [None]


def test_files_start_at_their_end_unless_told_otherwise_and_new_ones_at_their_start(tmp_path: Path) -> None:
    add(tmp_path / "a.log", b"old\n")
    (tmp_path / "empty.log").touch()
    reader = Reader(tmp_path / "*.log", start_position="end")
    assert reader.poll() == []
    add(tmp_path / "a.log", b"new\n")
    add(tmp_path / "empty.log", b"while nobody read\n")
    assert sorted(reader.again().poll()) == ["new", "while nobody read"]


def test_excluded_files_are_not_read(tmp_path: Path) -> None:
    add(tmp_path / "a.log", b"a\n")
    add(tmp_path / "b.log", b"b\n")
    assert Reader(tmp_path / "*.log", exclude="b*").poll() == ["a"]


def test_a_file_is_not_read_for_good_past_lines_that_wait_to_be_joined(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    add(log, b"Error\n at a\n")
    codec = plugin("multiline", "codec", pattern=r"^\s", what="previous")
    reader = Reader(log, codec=codec)
    assert reader.poll() == []
    add(log, b" at b\nnext\n")
    again = reader.again()
    assert again.poll() == ["Error\n at a\n at b"]
    add(log, b"more\n")
    assert again.again().poll() == ["next"]


def test_small_chunks_give_the_same_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    lines = [f"line {n} \xe9" for n in range(50)]
    add(log, "\r\n".join([*lines, ""]).encode())
    assert Reader(log, file_chunk_size=3, delimiter=r"\r\n").poll() == lines


def test_without_a_memory_nothing_is_marked(tmp_path: Path) -> None:
    add(tmp_path / "a.log", b"a\n")
    reader = Reader(tmp_path / "a.log", sincedb_path="/dev/null")
    assert reader.poll() == ["a"] and reader.marks == {} and reader.again().poll() == ["a"]
