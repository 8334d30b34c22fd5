"""The index of seen keys against a dict: what was added is found, across flushes, merges, restarts and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse.runtime.seen import FANOUT, SeenIndex

Key = tuple[int, int]


def keys(*pairs: Key) -> np.ndarray:
    return np.array(pairs, dtype=np.uint64).reshape(-1, 2)


def add(index: SeenIndex, known: dict[Key, int]) -> None:
    index.add(keys(*known), np.array(list(known.values()), dtype=np.int64))


def times(index: SeenIndex, *pairs: Key) -> list[int]:
    return index.times(keys(*pairs)).tolist()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.npy"))


def test_an_empty_index_knows_nothing(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    assert times(index) == [] and times(index, (1, 2)) == [-1] and len(index) == 0
    index.add(keys(), np.array([], dtype=np.int64))
    assert len(index.keys([])) == 0


def test_a_digest_is_two_little_endian_halves() -> None:
    digest = bytes(range(16))
    halves = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
    assert SeenIndex.keys([digest, digest]).tolist() == [[*halves], [*halves]]


def test_what_is_added_is_found_at_once_and_the_newest_time_wins(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    add(index, {(1, 1): 10, (2, 2): 20})
    add(index, {(1, 1): 30})
    add(index, {(1, 1): 5})
    assert times(index, (2, 2), (1, 1), (3, 3), (1, 1)) == [20, 30, -1, 30]


def test_keys_with_equal_high_halves_are_told_apart(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    add(index, {(7, low): low for low in range(50)} | {(8, 0): 99})
    assert times(index, (7, 49), (7, 50), (8, 0), (7, 0), (8, 1)) == [49, -1, 99, 0, -1]


def test_keys_at_both_ends_of_the_range_are_found(tmp_path: Path) -> None:
    top, index = 2**64 - 1, SeenIndex(tmp_path)
    add(index, {(0, 0): 1, (top, top): 2})
    assert times(index, (top, top), (0, 0), (top, 0), (0, top)) == [2, 1, -1, -1]


def test_a_flush_survives_a_restart_and_what_came_after_it_does_not(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    add(index, {(1, 1): 10})
    index.flush({"seq": 3}, 0)
    add(index, {(2, 2): 20})
    assert (index.unflushed(), len(index)) == (1, 2)
    again = SeenIndex(tmp_path)
    assert times(again, (1, 1), (2, 2)) == [10, -1] and again.position == {"seq": 3}


def test_a_flush_of_nothing_moves_the_position(tmp_path: Path) -> None:
    SeenIndex(tmp_path).flush({"seq": 9}, 0)
    assert SeenIndex(tmp_path).position == {"seq": 9} and files(tmp_path) == []


def test_runs_that_ended_before_the_oldest_time_are_deleted_whole(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    for at in (10, 20):
        add(index, {(at, at): at})
        index.flush({}, 0)
    index.flush({}, 11)
    assert times(index, (10, 10), (20, 20)) == [-1, 20] and len(files(tmp_path)) == 1
    assert len(SeenIndex(tmp_path)) == 1


def test_runs_of_like_size_are_merged(tmp_path: Path) -> None:
    index, known = SeenIndex(tmp_path), {}
    for at in range(FANOUT * FANOUT):
        known[(at, 1)] = at
        add(index, {(at, 1): at})
        index.flush({"seq": at}, 0)
    assert len(files(tmp_path)) == 1
    assert times(index, *known) == times(SeenIndex(tmp_path), *known) == [*known.values()]


def test_memory_is_merged_too(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    for at in range(200):
        add(index, {(at, at): at})
    assert len(index._memory) < 3 * FANOUT and times(index, *((at, at) for at in range(200))) == [*range(200)]


def test_files_that_no_manifest_names_are_removed(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    add(index, {(1, 1): 1})
    index.flush({}, 0)
    np.save(tmp_path / "999999999999.npy", np.zeros((3, 1), dtype=np.uint64))
    assert times(SeenIndex(tmp_path), (0, 0), (1, 1)) == [-1, 1] and len(files(tmp_path)) == 1


DAMAGE = {
    "a run is missing": lambda folder: (folder / files(folder)[0]).unlink(),
    "a run is empty": lambda folder: (folder / files(folder)[0]).write_bytes(b""),
    "a run is cut": lambda folder: (folder / files(folder)[0]).write_bytes(
        (folder / files(folder)[0]).read_bytes()[:140]
    ),
    "a run is noise": lambda folder: (folder / files(folder)[0]).write_bytes(b"noise" * 99),
    "the manifest is empty": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "the manifest is cut": lambda folder: (folder / "manifest.json").write_bytes(b'{"runs": [["00000'),
    "the manifest is of another kind": lambda folder: (folder / "manifest.json").write_bytes(b"[]"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_starts_empty_and_works(tmp_path: Path, name: str) -> None:
    index = SeenIndex(tmp_path)
    for at in (1, 2):
        add(index, {(at, at): at})
        index.flush({"seq": at}, 0)
    DAMAGE[name](tmp_path)
    again = SeenIndex(tmp_path)
    assert times(again, (1, 1), (2, 2)) == [-1, -1] and again.position == {} and len(again) == 0
    add(again, {(3, 3): 3})
    again.flush({"seq": 1}, 0)
    assert times(SeenIndex(tmp_path), (1, 1), (3, 3)) == [-1, 3]


def test_a_cleared_index_is_empty_and_stays_so(tmp_path: Path) -> None:
    index = SeenIndex(tmp_path)
    add(index, {(1, 1): 1})
    index.flush({"seq": 1}, 0)
    index.clear()
    assert times(index, (1, 1)) == [-1] and SeenIndex(tmp_path).position == {}


HALF = st.sampled_from([0, 1, 2, 2**63, 2**64 - 1])
STEPS = st.lists(
    st.one_of(
        st.dictionaries(st.tuples(HALF, HALF), st.integers(0, 10**15), max_size=8),
        st.sampled_from(["flush", "reopen"]),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_index_is_a_dict_of_newest_times(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:
    folder = tmp_path_factory.mktemp("index")
    index, known, durable = SeenIndex(folder), dict[Key, int](), dict[Key, int]()
    for step in steps:
        if step == "flush":
            index.flush({}, 0)
            durable = dict(known)
        elif step == "reopen":
            index, known = SeenIndex(folder), dict(durable)
        else:
            add(index, step)
            known |= {key: max(at, known.get(key, -1)) for key, at in step.items()}
        every = [(high, low) for high in (0, 1, 2, 2**63, 2**64 - 1) for low in (0, 1, 2, 2**63, 2**64 - 1)]
        assert times(index, *every) == [known.get(key, -1) for key in every]
