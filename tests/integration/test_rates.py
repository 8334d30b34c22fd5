"""Rate limits in a real Redis."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest
import redis

from lakehouse.settings import Rate, Settings
from serving.rates import Turns

pytestmark = pytest.mark.integration


def test_processes_learn_of_each_other_within_a_moment(stack: Settings) -> None:
    key, rate = f"test:{uuid4().hex}", Rate(per_minute=6, burst=3)
    client = redis.Redis.from_url(stack.redis.url.get_secret_value())

    async def run() -> None:
        one, other = Turns(stack), Turns(stack)
        told = [one.take(key, rate) for _ in range(4)]
        assert [(t.allowed, t.left) for t in told] == [(True, 2), (True, 1), (True, 0), (False, 0)]
        await one.tell()
        assert 25_000 < client.pttl(f"rate:{key}") <= 30_000
        assert other.take(key, rate).allowed  # it has not heard of the others yet
        await other.tell()
        later = other.take(key, rate)
        assert not later.allowed and 19 < later.more_in <= 20  # four turns are used up of three
        again = Turns(stack)  # a process that begins anew
        assert again.take(key, rate).allowed
        assert again._telling is not None
        await again._telling  # as it does by itself
        assert not again.take(key, rate).allowed
        assert again.take(key + "2", rate).allowed
        for turns in (one, other, again):
            await turns.close()

    asyncio.run(run())
    assert client.delete(f"rate:{key}", f"rate:{key}2") == 2
