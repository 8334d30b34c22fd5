"""``/v1/status``: how the pipeline is."""

import asyncio
import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from lakehouse.inspect import pipeline
from lakehouse.settings import Settings
from serving import auth, formats
from serving.auth import Caller
from serving.catalog import find
from serving.problems import Problem, documented
from serving.rest.common import answer
from serving.service import Service, now

FRESH_S = 3.0
BATCHES = """
select topic, seq, sum(records)::bigint as records, sum(valid)::bigint as valid,
  sum(quarantined)::bigint as quarantined, sum(duplicates)::bigint as duplicates,
  any_value(batch_ms) as batch_ms, max(committed_at) as committed_at
from rows group by topic, seq qualify row_number() over (partition by topic order by seq desc) <= 60
order by topic, seq
"""


def router(service: Service, settings: Settings, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1", tags=["platform"])
    state = State(service, settings)

    @made.get("/status", responses=documented(401, 403, 429))
    async def status(caller: Annotated[Caller, Depends(auth.caller(keys, "read:metrics"))]) -> Response:
        """Lag and cuts of topics, versions of tables, how far stores are, and the newest batches."""
        return answer(await state.now(caller))

    return made


class State:
    """What is expensive to know, asked once for everybody and kept for some seconds."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._settings = service, settings
        self._made = 0.0
        self._kept: dict[str, Any] = {}
        self._lock = asyncio.Lock()

    async def now(self, caller: Caller) -> dict[str, Any]:
        """The state; what cannot be asked holds ``error`` in its place."""
        async with self._lock:
            if time.monotonic() - self._made > FRESH_S:
                at = now()
                found = await self._service.thread(lambda: pipeline(self._settings, at))
                self._kept = {"at": at, **found, "batches": await self._batches(caller)}
                self._made = time.monotonic()
        return self._kept

    async def _batches(self, caller: Caller) -> Any:
        try:
            rows, _ = await self._service.query(caller, find("ops.ledger"), BATCHES, [])
        except Problem as problem:
            return {"error": problem.detail}
        return formats.objects(rows)
