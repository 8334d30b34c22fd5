"""``lakehouse ship metrics``: this machine's numbers to Kafka, as Metricbeat 7.17's system module writes them.

Source of names, units and what counts as what: Metricbeat Reference 7.17, "System module" and "System fields";
elastic/beats, ``metricbeat/module/system``.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
import psutil

from lakehouse.settings import Settings
from lakehouse.ship.logs import ECS_VERSION, ShipError
from lakehouse.sources.delivery import Delivery, bounded_producer

TOPIC = "system-metrics"
HELD = 4096
"""Documents kept in memory while Kafka is away: Metricbeat's ``queue.mem.events``."""
_BATCH = 500
_RETRY_S = 1.0
_STOP_S = 2.0
_TIMES = ("user", "system", "nice", "idle", "iowait", "irq", "softirq", "steal")
Document = dict[str, Any]
_log = logging.getLogger(__name__)


def cpu(before: Any, after: Any, cores: int) -> Document | None:
    """How the time between two readings of ``psutil.cpu_times`` was spent; ``None`` where the clock stood still.

    ``norm.pct`` is a share of 1, ``pct`` of the number of cores. ``total`` is all but ``idle`` and ``iowait``.
    """
    names = [name for name in _TIMES if hasattr(after, name)]
    spent = {name: max(0.0, getattr(after, name) - getattr(before, name)) for name in names}  # iowait may go back
    if not (whole := sum(spent.values())):
        return None
    shares = {name: seconds / whole for name, seconds in spent.items()}
    shares["total"] = 1 - shares["idle"] - shares.get("iowait", 0.0)
    return {"cores": cores} | {name: {"pct": _pct(x * cores), "norm": {"pct": _pct(x)}} for name, x in shares.items()}


def _pct(share: float) -> float:
    """A share as Metricbeat writes it: four digits, no negative zero of what floats leave over."""
    return max(0.0, round(share, 4))


def _used(used: int, whole: int) -> Document:
    """Bytes, and their share of ``whole``."""
    return {"bytes": used, "pct": _pct(used / whole) if whole else 0.0}


class Sampler:
    """Reads the machine; what can't be read is left out, with one warning."""

    def __init__(self, period: timedelta, host: str | None = None) -> None:
        self.host = host or socket.gethostname()
        self._period_ms = round(period / timedelta(milliseconds=1))
        self._cores = psutil.cpu_count() or 1
        self._times: Any = None
        self._left_out: set[str] = set()

    def documents(self) -> list[Document]:
        """One document of each metricset, or one for each of its interfaces, devices and mounts.

        ``cpu`` is about the time since the last call, so the first has none.
        """
        return [
            *self._metricset("cpu", self._cpu),
            *self._metricset("load", self._load),
            *self._metricset("memory", self._memory),
            *self._metricset("network", self._network),
            *self._metricset("diskio", self._diskio),
            *self._metricset("filesystem", lambda: self.filesystems(mounts())),
            *self._metricset("uptime", self._uptime),
        ]

    def _metricset(self, name: str, read: Callable[[], Iterable[Document]]) -> list[Document]:
        at, began = datetime.now(UTC), time.perf_counter_ns()
        try:
            found = list(read())
        except Exception as error:  # whatever a kernel, a container or a driver makes of it
            self._leave_out(name, error)
            return []
        head = {
            "@timestamp": at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z",
            "host": {"name": self.host},
            "event": {
                "dataset": f"system.{name}",
                "module": "system",
                "duration": time.perf_counter_ns() - began,
            },
            "metricset": {"name": name, "period": self._period_ms},
            "service": {"type": "system"},
            "agent": {"type": "metricbeat", "name": self.host},
            "ecs": {"version": ECS_VERSION},
        }
        return [{**head, "system": {name: one}} for one in found]

    def _leave_out(self, what: str, error: Exception) -> None:
        if what not in self._left_out:
            self._left_out.add(what)
            _log.warning("%s can't be read and is left out: %s", what, error)

    def _cpu(self) -> Iterator[Document]:
        now = psutil.cpu_times()
        spent = cpu(self._times, now, self._cores) if self._times else None
        if spent or self._times is None:
            self._times = now
        if spent:
            yield spent

    def _load(self) -> Iterator[Document]:
        loads = dict(zip(("1", "5", "15"), psutil.getloadavg(), strict=True))
        yield {
            **{minutes: round(load, 4) for minutes, load in loads.items()},
            "cores": self._cores,
            "norm": {minutes: round(load / self._cores, 4) for minutes, load in loads.items()},
        }

    def _memory(self) -> Iterator[Document]:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        yield {
            "total": memory.total,
            "free": memory.free,
            "used": _used(memory.total - memory.free, memory.total),
            "actual": {
                "free": memory.available,  # what programs could have: caches count as free
                "used": _used(memory.total - memory.available, memory.total),
            },
            "swap": {"total": swap.total, "free": swap.free, "used": _used(swap.used, swap.total)},
        }

    def _network(self) -> Iterator[Document]:
        for name, seen in psutil.net_io_counters(pernic=True, nowrap=False).items():
            yield {
                "name": name,
                "in": {
                    "bytes": seen.bytes_recv,
                    "packets": seen.packets_recv,
                    "errors": seen.errin,
                    "dropped": seen.dropin,
                },
                "out": {
                    "bytes": seen.bytes_sent,
                    "packets": seen.packets_sent,
                    "errors": seen.errout,
                    "dropped": seen.dropout,
                },
            }

    def _diskio(self) -> Iterator[Document]:
        for name, seen in psutil.disk_io_counters(perdisk=True, nowrap=False).items():
            if not any(seen):
                continue  # a loop device that nothing uses
            done = {
                "name": name,
                "read": {"count": seen.read_count, "bytes": seen.read_bytes, "time": seen.read_time},
                "write": {"count": seen.write_count, "bytes": seen.write_bytes, "time": seen.write_time},
            }
            yield done | ({"io": {"time": seen.busy_time}} if hasattr(seen, "busy_time") else {})

    def filesystems(self, mounted: Iterable[Any]) -> Iterator[Document]:
        """Room of each mount, as ``psutil.disk_partitions`` names them."""
        for mount in mounted:
            try:
                found = os.statvfs(mount.mountpoint)
            except OSError as error:
                self._leave_out(f"filesystem {mount.mountpoint}", error)
                continue
            block = found.f_frsize
            used, available = (found.f_blocks - found.f_bfree) * block, found.f_bavail * block
            yield {
                "mount_point": mount.mountpoint,
                "device_name": mount.device,
                "type": mount.fstype,
                "total": found.f_blocks * block,
                "free": found.f_bfree * block,
                "available": available,  # to others than root
                "files": found.f_files,
                "free_files": found.f_ffree,
                "used": {"bytes": used, "pct": _used(used, used + available)["pct"]},
            }

    def _uptime(self) -> Iterator[Document]:
        yield {"duration": {"ms": round((time.time() - psutil.boot_time()) * 1000)}}


def mounts() -> list[Any]:
    """Mounts of real devices, each device at its shortest path; and the root, whatever it is on (a container's)."""
    root = [mount for mount in psutil.disk_partitions(all=True) if mount.mountpoint == "/"][-1:]
    found: dict[str, Any] = {}
    for mount in sorted([*psutil.disk_partitions(), *root], key=lambda mount: len(mount.mountpoint)):
        found.setdefault(mount.device, mount)
    return list(found.values())


class Shipper:
    """Samples once a period and sends until it is stopped.

    While Kafka is away the newest documents are held in memory; how many older ones were dropped is told once it is
    back, or at the end. A document that may have arrived is sent again, and is a duplicate to silver then: host, time
    and names are its identity.

    Args:
        sample: gives the documents of a moment; called in a thread.
        delivery: to Kafka.
        period: between samples.
        host: the records' key.
        held: documents in memory, at most, besides those under way.
        retry: seconds between attempts while Kafka is away.
    """

    def __init__(
        self,
        sample: Callable[[], list[Document]],
        delivery: Delivery,
        period: timedelta,
        host: str,
        held: int = HELD,
        retry: float = _RETRY_S,
    ) -> None:
        self._sample, self._delivery, self._period_s = sample, delivery, period.total_seconds()
        self._key, self._most, self._retry_s = host.encode(), held, retry
        self._held: deque[bytes] = deque()
        self._filled, self._stopped = asyncio.Event(), asyncio.Event()
        self._away = False
        self.delivered = self.dropped = 0
        """Documents: since the start, and since the log last told of dropped ones."""

    async def run(self) -> None:
        """Run until :meth:`stop`, SIGTERM or SIGINT."""
        if threading.current_thread() is threading.main_thread():
            for name in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(name, self.stop)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._sampled()), group.create_task(self._sent())]
            await self._stopped.wait()
            for task in tasks:
                task.cancel()
        if self._held:
            _log.warning(
                "ended before Kafka acknowledged %d documents; %d were dropped",
                len(self._held),
                self.dropped,
            )

    def stop(self) -> None:
        """Stop soon; from the event loop."""
        self._stopped.set()

    async def _sampled(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            self._hold(orjson.dumps(document) for document in await asyncio.to_thread(self._sample))
            due = max(due + self._period_s, clock())  # a sample that was missed is not made up for
            await asyncio.sleep(due - clock())

    async def _sent(self) -> None:
        while True:
            await self._filled.wait()
            batch = [self._held.popleft() for _ in range(min(len(self._held), _BATCH))]
            left, reason = batch, None
            try:
                outcomes = await self._delivery.send(TOPIC, [(self._key, value) for value in batch])
                left = [value for value, wrong in zip(batch, outcomes, strict=True) if wrong is not None]
                reason = next((wrong for wrong in outcomes if wrong is not None), None)
            finally:  # stopped before the broker's word: these are told as not acknowledged
                self.delivered += len(batch) - len(left)
                self._held.extendleft(reversed(left))
                self._hold(())
            if reason is None:
                self._back()
            else:
                await self._outage(reason)

    def _hold(self, documents: Iterable[bytes]) -> None:
        """Take documents in, and let go of the oldest there is no room for."""
        self._held.extend(documents)
        while len(self._held) > self._most:
            self._held.popleft()
            self.dropped += 1
        self._filled.set() if self._held else self._filled.clear()

    async def _outage(self, reason: str) -> None:
        if not self._away:
            self._away = True
            reason = await self._delivery.trouble(TOPIC, self._retry_s) or reason
            _log.warning("Kafka is away, the last %d documents are kept until it is back: %s", self._most, reason)
        await asyncio.sleep(self._retry_s)

    def _back(self) -> None:
        if self._away:
            _log.warning("Kafka is back; %d documents were dropped meanwhile", self.dropped)
            self._away, self.dropped = False, 0


def run(settings: Settings, period: timedelta) -> None:
    """Ship this machine's metrics until SIGTERM or SIGINT.

    Raises:
        ShipError: another process does so from this home: each sample would count twice.
    """
    lock = settings.home / "ship" / "metrics.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShipError("`lakehouse ship metrics` runs already, as `lakehouse up` runs it: see `status`") from None
        _log.info("to %s, topic %s, every %s s", settings.kafka.bootstrap_servers, TOPIC, period.total_seconds())
        _ship(settings, period)


def _ship(settings: Settings, period: timedelta) -> None:
    sampler = Sampler(period)
    delivery = Delivery(partial(bounded_producer, settings), settings.api.delivery_timeout)

    async def ship() -> None:
        await Shipper(sampler.documents, delivery, period, sampler.host).run()

    try:
        asyncio.run(ship())
    finally:
        delivery.close(_STOP_S)
