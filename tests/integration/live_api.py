"""``/v1/stream`` alone, in a process of its own: ``python -m tests.integration.live_api TOPIC``."""

from __future__ import annotations

import signal
import socket
import sys
from typing import Annotated

import uvicorn
from fastapi import FastAPI, Header

from lakehouse.settings import load
from serving import problems
from serving.auth import Caller, keys, verify
from serving.live.feeds import hub
from serving.live.route import router
from serving.server import Droppable, Server


def main(topic: str) -> None:
    settings = load()
    secrets = keys(settings)
    streams = hub(settings, lambda user: "~", topic=topic)
    app = FastAPI()
    problems.install(app)

    async def allowed(authorization: Annotated[str, Header()]) -> Caller:
        return verify(secrets, authorization.removeprefix("Bearer "))

    app.include_router(router(streams, allowed))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, log_config=None, access_log=False, http=Droppable, timeout_graceful_shutdown=15)
    signal.signal(signal.SIGTERM, lambda *_: None)
    Server(config, streams.end).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
