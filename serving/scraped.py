"""What a scrape of ``/metrics`` asks, and whom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client.core import Metric

from lakehouse import stack
from lakehouse.ops import promotions
from lakehouse.runtime import restarts
from lakehouse.settings import Settings
from lakehouse.stack import probes
from serving import facts, formats
from serving.auth import Caller
from serving.catalog import find
from serving.live.hub import Hub
from serving.metrics import Source
from serving.predictions import Predictions
from serving.service import Service
from serving.status import Status

SLOWLY_S = 30.0
"""How often what changes with a model, or costs more, is asked for."""
_OURSELVES = Caller("lakehouse", frozenset({"admin"}))
_DECISIONS = """
select model, action, count(*) as decisions, max(decided_at) as at from rows
where model is not null and action is not null group by model, action order by all
"""


def sources(
    settings: Settings, service: Service, state: Status, predictions: Predictions, streams: Hub
) -> list[Source]:
    """The sources of an API's metrics."""

    async def pipeline() -> Iterable[Metric]:
        return facts.pipeline(await state.now())

    async def processors() -> Iterable[Metric]:
        return facts.processors(await service.reads.processors(), time.time())

    async def models() -> Iterable[Metric]:
        table = find(promotions.TABLE.name)
        rows, _ = await service.query(_OURSELVES, table, _DECISIONS, [])
        return facts.models(await service.thread(predictions.models), formats.objects(rows))

    async def machine() -> Iterable[Metric]:
        def asked() -> list[Metric]:
            up = {
                "kafka": _answers(lambda: probes.kafka(settings.kafka.bootstrap_servers)),
                "hdfs": _answers(lambda: probes.hdfs(settings.hdfs.uri)),
            }
            found = [*facts.servers(up), *facts.stream(restarts.said(settings.home))]
            return found + list(facts.programs(stack.program_states(settings)))

        return await service.thread(asked)

    async def api() -> Iterable[Metric]:
        cache = service.cache
        waiting = _bytes(settings.home / "spool" / "access")
        return [
            *facts.tables(service.served.held()),
            *facts.cache(cache.hits, cache.misses),
            *facts.streams(streams.streams, streams.counts),
            *facts.access_log(waiting),
        ]

    return [
        Source("pipeline", pipeline),
        Source("processors", processors),
        Source("models", models, SLOWLY_S),
        Source("machine", machine, SLOWLY_S),
        Source("api", api, 0.0),
    ]


def _answers(probe: Callable[[], object]) -> bool:
    try:
        probe()
    except Exception:  # each client has its own
        return False
    return True


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.ndjson"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # it was taken meanwhile
            continue
    return total
