"""Rate limits in a real Redis."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import pytest
import redis

from lakehouse.settings import Rate, Settings
from serving.rates import Taken, Turns

pytestmark = pytest.mark.integration


def test_in_redis_turns_are_as_in_a_process_and_are_shared(stack: Settings) -> None:
    key, rate, fast = f"test:{uuid4().hex}", Rate(per_minute=6, burst=3), Rate(per_minute=6_000, burst=1)

    async def run() -> tuple[list[Taken], Taken, list[Taken]]:
        turns, others = Turns(stack), Turns(stack)
        told = [await turns.take(key, rate) for _ in range(5)]
        elsewhere = await others.take(key, rate)
        quick = [await turns.take(key + "f", fast) for _ in range(2)]
        time.sleep(quick[-1].more_in)  # Redis has a clock of its own
        quick.append(await turns.take(key + "f", fast))
        await turns.close()
        await others.close()
        return told, elsewhere, quick

    told, elsewhere, quick = asyncio.run(run())
    assert [(t.allowed, t.left) for t in told] == [(True, 2), (True, 1), (True, 0), (False, 0), (False, 0)]
    assert all(9 < t.more_in <= 10 for t in told) and not elsewhere.allowed
    assert [t.allowed for t in quick] == [True, False, True] and quick[1].more_in <= 0.01
    client = redis.Redis.from_url(stack.redis.url.get_secret_value())
    assert 25_000 < client.pttl(f"rate:{key}") <= 30_000
    assert client.delete(f"rate:{key}", f"rate:{key}f") >= 1
