"""State: what is put is there again, encoded and read back too; what is forgotten depends on records' times alone."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from lakehouse.realtime.state import MINUTE, Seen, Store


class Thing(msgspec.Struct, array_like=True):
    count: int = 0


_steps = st.lists(st.tuples(st.sampled_from(["put", "delete", "keep", "cool", "read back"]), st.integers(0, 5)))


@given(_steps)
def test_a_store_holds_what_a_dict_would_through_cooling_and_reading_back(steps: list[tuple[str, int]]) -> None:
    store, kept, wanted = Store("t:", Thing), dict[str, bytes](), dict[str, int]()

    def keep() -> None:
        for key, value in store.changes():
            kept.pop(key, None) if value is None else kept.__setitem__(key, value)

    for what, number in steps:
        key = str(number)
        if what == "put":
            thing = store.get(key) or Thing()
            thing.count += 1
            store.put(key, thing)
            wanted[key] = wanted.get(key, 0) + 1
        elif what == "delete":
            store.delete(key)
            wanted.pop(key, None)
        else:
            keep()
        if what == "cool":
            store.cool()
        if what == "read back":
            store = Store("t:", Thing)
            for name, value in kept.items():
                store.load(name.removeprefix("t:"), value)
        assert {name: thing.count for name, thing in store.items()} == wanted
        assert len(store) == len(wanted)
        assert all((found := store.get(name)) and found.count == count for name, count in wanted.items())
    keep()
    assert {name.removeprefix("t:"): msgspec.msgpack.decode(value)[0] for name, value in kept.items()} == wanted


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), st.booleans())))
def test_an_identity_is_new_once_in_its_horizon_also_after_reading_back(records: list[tuple[int, int, bool]]) -> None:
    seen, kept = Seen(5 * MINUTE), dict[str, bytes]()
    held: dict[str, int] = {}
    newest = 0
    for number, minute, back in records:
        new = held.get(str(number), -99) < max(newest, minute) - 5
        assert seen.first(str(number), minute * MINUTE) == new
        if new:
            held[str(number)], newest = minute, max(newest, minute)
        if back:
            for key, value in seen.changes():
                kept.pop(key, None) if value is None else kept.__setitem__(key, value)
            seen = Seen(5 * MINUTE)
            for key, value in kept.items():
                seen.load(key, value)
