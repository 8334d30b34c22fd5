"""Who is named in a text, a document, a row or a file."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakehouse.erasure.files import in_file
from lakehouse.erasure.identifiers import Erased, Wanted, digest

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("text", "who", "named"),
    [
        ("u1", "u1", True),
        ("u12", "u1", False),
        ("au1", "u1", False),
        ("2026-11-01:u1", "u1", True),
        ("/v1/users/u1/activity?limit=5", "u1", True),
        ("thanks, u1.", "u1", True),
        ("ask u1@example.com", "u1", False),
        ("ask ann@example.com, please", "ann@example.com", True),
        ("recs:team:7:x", "team:7", True),
        ("recs:team:70:x", "team:7", False),
        ("42", "42", True),
        ("2026-11-01:42", "42", True),
        ("42 posts were read", "42", False),
        ("김민준님이 댓글을", "김민준", False),
        ("user 김민준 wrote", "김민준", True),
    ],
)
def test_an_identifier_is_matched_as_a_whole(text: str, who: str, named: bool) -> None:
    assert Wanted([who]).in_text(text) is named
    assert Erased(KEY, [digest(KEY, who)]).in_text(text) is named


def test_json_is_read_however_it_was_escaped() -> None:
    wanted = Wanted(["김/민준"])
    for value in (b'{"user_id":"\\uae40/\\ubbfc\\uc900"}', b'{"user_id":"\\uAE40\\/\\uBBFC\\uC900"}'):
        assert wanted.in_bytes(value)
    values = [b'{"user_id":"\\uAE40/\\ubbfc\xec\xa4\x80"}', b"{}", None]
    assert wanted.in_array(pa.array(values)).tolist() == [True, False, False]


def test_a_number_in_json_is_no_identifier() -> None:
    assert not Wanted(["42"]).in_bytes(b'{"likes":42}')
    assert Wanted(["42"]).in_bytes(b'{"user_id":"42"}')


def test_rows_are_searched_in_every_column_however_deep() -> None:
    rows = pa.table(
        {
            "n": [1, 2, 3, 4, 5, 6],
            "text": ["hi u1", None, "u2", "", "u10", "-"],
            "map": pa.array(
                [None, [("followed", "u1")], [], [("u1", "x")], None, []], pa.map_(pa.string(), pa.string())
            ),
            "deep": pa.array(
                [None, None, None, None, [{"key": "k", "value": b"u10"}], [{"key": "k", "value": b"u1"}]],
                pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())])),
            ),
        }
    )
    assert Wanted(["u1"]).in_rows(rows).tolist() == [True, True, False, True, False, True]
    assert Wanted(["u1"]).in_rows(rows.slice(3)).tolist() == [True, False, True]


def test_bytes_that_are_no_text_are_searched_too() -> None:
    values = pa.array([b"\xff\xfe u1 \x00", b"\xff\xfeu10", b"u1 {broken"])
    assert Wanted(["u1"]).in_array(values).tolist() == [True, False, True]


def test_more_identifiers_than_one_expression_takes() -> None:
    wanted = Wanted([f"user-{n}" for n in range(1000)])
    assert wanted.in_array(pa.array(["user-999", "user-1000", "x user-0"])).tolist() == [True, False, True]


def test_tombstones_travel_and_hold_no_name() -> None:
    gone = pickle.loads(packed := pickle.dumps(Erased(KEY, [digest(KEY, "ann@example.com")])))
    assert b"ann" not in packed
    assert "ann@example.com" in gone and "bob" not in gone
    assert gone.in_record(b"ann@example.com", None, None)
    assert gone.in_record(None, b'{"properties":{"followed":"ann@example.com"}}', None)
    assert gone.in_record(None, b"not json ann@example.com", None)
    assert gone.in_record(None, None, [{"key": "by", "value": b"ann@example.com"}])
    assert not gone.in_record(b"bob", b'{"user_id":"bob"}', [{"key": "x", "value": None}])
    assert digest(KEY, "ann") != digest(b"other", "ann")


def test_files_are_searched_by_what_they_are() -> None:
    wanted = Wanted(["u1"])
    array, table = BytesIO(), BytesIO()
    np.savez_compressed(array, names=np.array(["u2", "u1"]))
    pq.write_table(pa.table({"who": ["u1"]}), table, compression="zstd")
    assert in_file(wanted, "a.npz", array.getvalue())
    assert in_file(wanted, "a.parquet", table.getvalue())
    assert in_file(wanted, "a.json", orjson.dumps({"a": [{"b": "u1"}]}))
    assert in_file(wanted, "a.log", b"one line\nanother of u1\n")
    assert not in_file(wanted, "a.log", b"one line\nanother of u10\n")
    assert not in_file(wanted, "empty", b"")


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_is_searched_however_it_keeps_its_log(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"pragma journal_mode = {mode}")
        connection.execute("create table params (name text, value text)")
        connection.execute("insert into params values ('who', 'u1')")
        connection.commit()
    assert in_file(Wanted(["u1"]), path.name, path.read_bytes())
    assert not in_file(Wanted(["u10"]), path.name, path.read_bytes())
