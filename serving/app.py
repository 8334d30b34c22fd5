"""The application, and the process that serves it."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import uvicorn
from fastapi import FastAPI, Request

from lakehouse.contracts import contracts
from lakehouse.runtime.ledger import LEDGER
from lakehouse.settings import Settings
from lakehouse.sources.delivery import Delivery, bounded_producer
from serving import auth, edge, events, listen, openapi, pages, redact, tracing
from serving.access import AccessLog
from serving.cache import Store
from serving.catalog import catalog
from serving.graphql import http as graphql
from serving.live import feeds
from serving.live import route as live
from serving.live.hub import Hub
from serving.metrics import Measured, Metrics
from serving.metrics import router as metrics_router
from serving.predictions import Predictions
from serving.problems import Problem, documented
from serving.rates import Turns
from serving.reads import Reads
from serving.recommend import Recommendations
from serving.report import routes as reports
from serving.rest import alerts, lineage, logs, metrics, models, status, tables, users
from serving.rest.answers import Health, said
from serving.scraped import sources
from serving.served import Served
from serving.server import Server
from serving.service import Recorder, Service
from serving.status import Status
from serving.stores import Answers, RedisAnswers

PERSONAL = ("user_id", "text")
"""What a stream of notifications holds."""
_log = logging.getLogger(__name__)


def create_app(
    settings: Settings,
    delivery: Delivery | None = None,
    answers: Answers | None = None,
    keys: auth.Keys | None = None,
    record: Recorder | None = None,
    reads: Reads | None = None,
    kept: Store | None = None,
    streams: Hub | None = None,
) -> FastAPI:
    """The application. What is not given is made from the settings; both are closed when the application ends.

    ``state.ending`` of it is to be called when the process begins to end: streams then do, too.

    Raises:
        AuthError: there is no secret to check tokens with.
        ContractError: the contract of user-events is wrong.
        AlertsError: the rules of alerts are wrong.
    """
    keys = keys or auth.keys(settings)
    contract = contracts()["user-events"]
    sending = delivery or Delivery(lambda: bounded_producer(settings), settings.api.delivery_timeout)
    # Longer than a request can take: checks, handing over, the wait.
    given = answers or RedisAnswers(settings, busy=2 * settings.api.delivery_timeout + timedelta(seconds=30))
    reads = reads or Reads(settings)
    log, turns = AccessLog.of(settings), Turns(settings)
    service = Service(settings, keys, Served(settings), reads, record or log, kept)
    state = Status(service, settings)
    recommend, predictions = Recommendations(settings, reads), Predictions(settings)
    streams = streams or feeds.hub(settings, service.masks.pseudonym, feeds.versions(service.served))
    observed = Metrics(sources(settings, service, state, predictions, streams))

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        log.start()
        yield
        await streams.close()
        await observed.close()
        sending.close()
        await given.close()
        await state.close()
        await service.close()
        await turns.close()
        await asyncio.to_thread(log.close)

    app = FastAPI(
        title="lakehouse", version="1", lifespan=running, docs_url=None, redoc_url=None,
        telemetry=tracing.telemetry(), generate_unique_id_function=openapi.operation_id,
    )  # fmt: skip
    app.state.ending, app.state.served = streams.end, service.served
    openapi.install(app)
    tokens = auth.Tokens(keys, settings.api)
    edge.install(app, settings, tokens, turns)
    app.add_middleware(Measured, metrics=observed)
    app.include_router(events.router(contract, sending, given, keys))
    for made in (
        tables.router(service, keys),
        metrics.router(service, keys),
        users.router(service, recommend, keys),
        logs.router(service, keys),
        models.router(service, predictions, keys),
        status.router(state, keys),
        lineage.router(state, keys),
        live.router(streams, auth.anyone(keys), lambda caller: service.record(caller, "stream", PERSONAL, None, None)),
        metrics_router(observed, _named, settings.api.metrics_token, settings.api.behind_proxy),
        alerts.router(alerts.Standing(service, settings), keys),
        graphql.router(service, recommend, predictions, settings, auth.anyone(keys), tokens.check, streams),
        reports.router(settings, keys),
        pages.router(),
    ):
        app.include_router(made)

    @app.get("/healthz", tags=["platform"], responses=said(Health))
    async def healthz() -> dict[str, str]:
        """The process serves requests."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["platform"], responses=said(Health) | documented(503))
    async def readyz() -> dict[str, str]:
        """Events can be taken: the broker answers and has their topic."""
        if trouble := await sending.trouble(contract.topic):
            raise Problem(503, "not-ready", trouble, {"Retry-After": str(events.RETRY_AFTER_S)})
        return {"status": "ready"}

    return app


async def _named(request: Request) -> auth.Caller | None:
    found = request.state.caller
    if isinstance(found, Problem):
        raise found
    return found if isinstance(found, auth.Caller) else None


def serve(settings: Settings) -> None:
    """Serve until asked to end (SIGINT, SIGTERM): requests under way are answered first, for up to 15 s.

    Raises:
        ListenError: the address cannot, or may not, be listened on.
        AuthError, ContractError, AlertsError: see :func:`create_app`.
    """
    with listen.listen(settings) as listening:
        keys = auth.keys(settings)
        redact.install(settings)
        app = create_app(settings, keys=keys)
        scheme = "https" if settings.api.tls_certificate else "http"
        _log.info("serving on %s://%s:%s", scheme, settings.api.host, listening.getsockname()[1])
        app.state.served.warm(name for name in catalog() if name.startswith("gold.") or name == LEDGER.name)
        # What is there by now stays. Looked through with every full collection it cost a pause of some 200 ms and more,
        # seen in the 99th percentile; without it 5 to 15 ms.
        gc.collect()
        gc.freeze()
        signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done: that is no failure
        Server(uvicorn.Config(app, **listen.options(settings)), app.state.ending).run(sockets=[listening])
