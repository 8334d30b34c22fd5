"""The application, and the process that serves it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from fastapi import FastAPI

from lakehouse.contracts import contracts
from lakehouse.settings import Settings
from lakehouse.sources.delivery import Delivery, bounded_producer
from serving import auth, events, problems
from serving.predictions import Predictions
from serving.problems import Problem, documented
from serving.reads import Reads
from serving.recommend import Recommendations
from serving.report import routes as reports
from serving.rest import logs, metrics, models, status, tables, users
from serving.served import Served
from serving.service import Recorder, Service
from serving.stores import Answers, RedisAnswers

_log = logging.getLogger(__name__)


class ApiError(Exception):
    """The API cannot be served; one line that says what to do."""


def create_app(
    settings: Settings,
    delivery: Delivery | None = None,
    answers: Answers | None = None,
    keys: auth.Keys | None = None,
    record: Recorder | None = None,
) -> FastAPI:
    """The application. What is not given is made from the settings; both are closed when the application ends.

    Raises:
        AuthError: there is no secret to check tokens with.
        ContractError: the contract of user-events is wrong.
    """
    keys = keys or auth.keys(settings)
    contract = contracts()["user-events"]
    sending = delivery or Delivery(lambda: bounded_producer(settings), settings.api.delivery_timeout)
    # Longer than a request can take: checks, handing over, the wait.
    kept = answers or RedisAnswers(settings, busy=2 * settings.api.delivery_timeout + timedelta(seconds=30))
    reads = Reads(settings)
    service = Service(settings, keys, Served(settings), reads, record or (lambda *_: None))

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        sending.close()
        await kept.close()
        await service.close()

    app = FastAPI(title="lakehouse", version="1", lifespan=running, docs_url=None, redoc_url=None)
    problems.install(app)
    app.include_router(events.router(contract, sending, kept, keys))
    for made in (
        tables.router(service, keys),
        metrics.router(service, keys),
        users.router(service, Recommendations(settings, reads), keys),
        logs.router(service, keys),
        models.router(service, Predictions(settings), keys),
        status.router(service, settings, keys),
        reports.router(settings, keys),
    ):
        app.include_router(made)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process serves requests."""
        return {"status": "ok"}

    @app.get("/readyz", responses=documented(503))
    async def readyz() -> dict[str, str]:
        """Events can be taken: the broker answers and has their topic."""
        if trouble := await sending.trouble(contract.topic):
            raise Problem(503, "not-ready", trouble, {"Retry-After": str(events.RETRY_AFTER_S)})
        return {"status": "ready"}

    return app


def serve(settings: Settings) -> None:
    """Serve until asked to end (SIGINT, SIGTERM): requests under way are answered first, for up to 15 s.

    Raises:
        ApiError: the address cannot be listened on.
        AuthError, ContractError: see :func:`create_app`.
    """
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ApiError(
            f"cannot listen on {host}:{port} ({error.strerror}): set LAKEHOUSE_API__HOST or __PORT"
        ) from None
    with listening:
        app = create_app(settings)
        _log.info("serving on http://%s:%s", host, listening.getsockname()[1])
        config = uvicorn.Config(
            app,
            log_config=None,  # ours: one line a request, with its id
            access_log=False,
            server_header=False,
            timeout_keep_alive=30,  # longer than clients hold idle connections, so that they are the ones who close
            timeout_graceful_shutdown=15,
        )
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done: that is no failure
        uvicorn.Server(config).run(sockets=[listening])
