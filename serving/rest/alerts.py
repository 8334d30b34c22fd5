"""``/v1/alerts``: what is pending, firing, or has recovered of late."""

import asyncio
import time
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from lakehouse import alerts
from lakehouse.alerting.database import StandingsError, database
from lakehouse.alerting.now import alerts_now
from lakehouse.settings import Settings
from serving import auth
from serving.auth import Caller
from serving.problems import Problem, documented
from serving.reads import ANSWERS_S, FOUND_S
from serving.rest.answers import Alert, Collection, said
from serving.rest.common import collection
from serving.service import Service

FRESH_S = 2.0


class Standing:
    """The alerts, asked of MongoDB for everybody and kept for two seconds."""

    def __init__(self, service: Service, settings: Settings) -> None:
        self._service, self._rules = service, alerts.read()
        self._database = database(settings, timedelta(seconds=ANSWERS_S), timedelta(seconds=FOUND_S))
        self._lock = asyncio.Lock()
        self._made = float("-inf")
        self._kept: list[dict[str, Any]] | Problem = []

    async def now(self) -> list[dict[str, Any]]:
        """Rows of ``alerts_now``.

        Raises:
            Problem: 503 MongoDB does not answer.
        """
        async with self._lock:
            if time.monotonic() - self._made > FRESH_S:
                try:
                    self._kept = await self._service.thread(lambda: alerts_now(self._database, self._rules))
                except StandingsError as error:  # is everybody's who waits, too
                    self._kept = Problem(503, "store-away", f"{error}.", {"Retry-After": "5"}, store="mongodb")
                self._made = time.monotonic()
        if isinstance(self._kept, Problem):
            raise self._kept
        return self._kept


def router(standing: Standing, keys: auth.Keys) -> APIRouter:
    """The routes."""
    made = APIRouter(prefix="/v1", tags=["platform"])

    @made.get("/alerts", responses=said(Collection[Alert]) | documented(401, 403, 429, 503))
    async def alerts_of_now(caller: Annotated[Caller, Depends(auth.caller(keys, "read:metrics"))]) -> Response:
        """What the rules of `conf/alerts.yaml` over tables, services and hosts say: pending, firing, recovered."""
        return collection(await standing.now())

    return made
