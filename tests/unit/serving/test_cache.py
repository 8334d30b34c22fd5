"""The cache: an answer is made once, an error never kept, and a Redis that is away costs nothing but itself."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest
from pydantic import SecretStr
from redis.exceptions import ConnectionError as Refused
from redis.exceptions import TimeoutError as Silent

from lakehouse.settings import Redis, Settings
from serving.cache import AT_HAND, KEPT_S, LARGEST, REST_S, Cache, Kept, client

pytestmark = pytest.mark.anyio


class Store:
    """Redis's role in memory, which fails as told."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.error: Exception | None = None
        self.asked = 0

    async def get(self, name: str) -> bytes | None:
        self.asked += 1
        if self.error:
            raise self.error
        return self.held.get(name)

    async def set(self, name: str, value: bytes, ex: int) -> Any:
        assert ex == KEPT_S
        if self.error:
            raise self.error
        self.held[name] = value

    async def aclose(self) -> None:
        pass


class Clock:
    """Seconds that go on when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Making:
    """Makes an answer when let, and counts how often."""

    def __init__(self, kept: Kept | Exception, go: asyncio.Event | None = None) -> None:
        self.kept, self.go, self.made = kept, go, 0

    async def __call__(self) -> Kept:
        self.made += 1
        if self.go:
            await self.go.wait()
        if isinstance(self.kept, Exception):
            raise self.kept
        return self.kept


ONE = Kept(b"\n one \n", 3, "cursor")


async def test_a_hundred_who_ask_at_once_cause_one_answer() -> None:
    go = asyncio.Event()
    make, cache = Making(ONE, go), Cache(Store())
    asking = [asyncio.create_task(cache.get("key", make)) for _ in range(100)]
    await asyncio.sleep(0)
    go.set()
    assert await asyncio.gather(*asking) == [ONE] * 100
    assert make.made == 1 and cache.misses == 1


async def test_an_answer_is_made_to_the_end_though_the_first_who_asked_went_away() -> None:
    go = asyncio.Event()
    make, cache = Making(ONE, go), Cache(Store())
    first, second = (asyncio.create_task(cache.get("key", make)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    go.set()
    assert await second == ONE and make.made == 1
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_an_error_is_everybodys_who_waits_and_nobodys_after() -> None:
    go = asyncio.Event()
    make, store = Making(ValueError("no"), go), Store()
    cache = Cache(store)
    asking = [asyncio.create_task(cache.get("key", make)) for _ in range(5)]
    await asyncio.sleep(0)
    go.set()
    assert all(isinstance(one, ValueError) for one in await asyncio.gather(*asking, return_exceptions=True))
    make.kept = ONE
    assert await cache.get("key", make) == ONE and make.made == 2 and len(store.held) == 1


async def test_another_process_finds_what_one_has_made() -> None:
    store = Store()
    make = Making(Kept(b"", 0, None))
    assert await Cache(store).get("key", make) == await Cache(store).get("key", make) == Kept(b"", 0, None)
    assert await Cache(store).get("other", Making(ONE)) == await Cache(store).get("other", make) == ONE
    assert make.made == 1


async def test_what_is_asked_again_needs_no_redis_for_a_while() -> None:
    clock, store, make = Clock(), Store(), Making(ONE)
    cache = Cache(store, clock)
    for _ in range(10):
        await cache.get("key", make)
    assert store.asked == 1 and cache.hits == 9
    store.held.clear()
    clock.now = KEPT_S + 1
    await cache.get("key", make)
    assert store.asked == 2 and make.made == 2


async def test_memory_has_a_bound_and_what_is_large_is_kept_nowhere() -> None:
    store = Store()
    cache, make = Cache(store), Making(Kept(b"x" * (LARGEST + 1), 1, None))
    for _ in range(2):
        await cache.get("large", make)
    assert make.made == 2 and store.held == {}
    for number in range(2 * AT_HAND // LARGEST):
        await cache.get(str(number), Making(Kept(b"x" * LARGEST, 1, None)))
    assert sum(len(kept.body) for _, kept in cache._at_hand.values()) == cache._held <= AT_HAND
    await cache.get("0", make := Making(ONE))
    assert make.made == 0  # as Redis still has it


@pytest.mark.parametrize(
    "found", [b"", b"rubbish", b"x y\nbody", b"3\nbody", b"-1 \nbody", b"1 \xff\nbody", "1 \nbody"]
)
async def test_what_somebody_else_has_written_there_is_passed_over(found: Any) -> None:
    store, make = Store(), Making(ONE)
    await Cache(store).get("key", make)
    store.held = dict.fromkeys(store.held, found)
    assert await Cache(store).get("key", make) == ONE and make.made == 2


@pytest.mark.parametrize("error", [Refused("refused"), Silent("silent"), OSError("gone")])
async def test_a_redis_that_is_away_costs_nothing_but_its_use(error: Exception) -> None:
    clock, store = Clock(), Store()
    store.error = error
    cache = Cache(store, clock)
    for number in range(20):
        assert await cache.get(str(number), Making(ONE)) == ONE
    assert store.asked == 1  # then it is left alone
    store.error, clock.now = None, REST_S
    assert await cache.get("later", Making(ONE)) == ONE and len(store.held) == 1


async def test_a_redis_that_says_nothing_holds_an_answer_up_for_half_a_second_at_most() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings(redis=Redis(url=SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")))
        cache, make = Cache(client(settings)), Making(ONE)
        began = time.monotonic()
        assert await asyncio.gather(*(cache.get(str(number), make) for number in range(200))) == [ONE] * 200
        assert await cache.get("more", make) == ONE
        assert time.monotonic() - began < 2
        await cache.close()
