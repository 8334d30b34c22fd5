import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakehouse.stack import ports
from lakehouse.stack.errors import StackError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as stranger:
        stranger.bind((ports.HOST, 0))
        stranger.listen()
        yield stranger.getsockname()[1]


@pytest.fixture
def free(taken: int) -> int:
    with socket.socket() as probe:
        probe.bind((ports.HOST, 0))
        port = probe.getsockname()[1]
    return port


def test_a_free_port_is_kept(free: int) -> None:
    assert ports.choose({"a": free}) == {"a": free}


def test_a_taken_port_gives_way_to_a_free_one_above(taken: int) -> None:
    chosen = ports.choose({"a": taken})["a"]
    assert taken + 1000 <= chosen < taken + 2000
    assert not ports.is_taken(chosen)


def test_a_listener_on_all_addresses_takes_the_port() -> None:
    with socket.socket() as stranger:
        stranger.bind(("0.0.0.0", 0))
        stranger.listen()
        assert ports.is_taken(stranger.getsockname()[1])


def test_two_names_never_share_a_port(free: int) -> None:
    assert len(set(ports.choose({"a": free, "b": free}).values())) == 2


def test_the_port_of_a_running_server_stays_though_it_is_taken(taken: int) -> None:
    assert ports.choose({"a": taken}, kept={"a": taken}) == {"a": taken}


def test_a_port_that_the_environment_demands_is_not_moved(taken: int) -> None:
    with pytest.raises(StackError, match=f"port {taken} of a is taken"):
        ports.choose({"a": taken}, pinned=["a"])


def test_ports_are_remembered(tmp_path: Path) -> None:
    assert ports.remembered(tmp_path / "ports.json") == {}
    ports.remember(tmp_path / "ports.json", {"a": 1})
    assert ports.remembered(tmp_path / "ports.json") == {"a": 1}
