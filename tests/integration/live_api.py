"""The API with notifications of another topic, in a process: ``python -m tests.integration.live_api TOPIC``."""

from __future__ import annotations

import signal
import sys

import uvicorn

from lakehouse.settings import load
from serving import auth, listen
from serving.app import create_app
from serving.live import feeds
from serving.server import Server


def main(topic: str) -> None:
    settings = load()
    app = create_app(settings, keys=auth.keys(settings), streams=feeds.hub(settings, lambda user: "~", topic=topic))
    with listen.listen(settings) as listening:
        print(listening.getsockname()[1], flush=True)
        signal.signal(signal.SIGTERM, lambda *_: None)
        Server(uvicorn.Config(app, **listen.options(settings)), app.state.ending).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1])
