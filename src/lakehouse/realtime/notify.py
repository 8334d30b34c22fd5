"""Notifications leave the platform: from topic ``notifications`` to webhooks, mail and chats, through Apprise.

At least once: a record is committed after it was sent, and its id goes along as ``Idempotency-Key`` and in the message,
so that a receiver can tell a repeat. Each route reads the topic as a consumer group of its own, so one that is down
delays only itself. Addresses are secrets: they are in no message, error or log line.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import apprise
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from lakehouse.alerting.silences import silenced
from lakehouse.alerts import Alerts, AlertsError, Kind, Severity, quiet, read
from lakehouse.settings import Settings
from lakehouse.sources.topics import NOTIFICATIONS, TopicError, require_topics

GROUP = "lakehouse-notify"
"""A route's consumer group is this, a hyphen and its name."""
ATTEMPTS = 3
PAUSE_S = 1.0
"""Before the second attempt; twice as long before each further one."""
TIMEOUT = timedelta(seconds=5)
"""For a connection, and for each answer on it."""
_WHOLE = 4
"""A whole attempt ends after this many times ``TIMEOUT``: an answer may come byte by byte, a mail server asks a lot."""
_ANSWER_S = 10.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOOKS = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}
_log = logging.getLogger(__name__)


class _Document(BaseModel):
    """What a record of the topic holds; see :class:`lakehouse.alerts.Notification`."""

    model_config = ConfigDict(frozen=True, strict=True)

    id: str = Field(min_length=1)
    rule: str
    severity: Severity
    kind: Kind
    subject: str
    at: str
    text: str
    suppressed: bool = False


class Courier:
    """Sends notifications to routes; not for several threads at once.

    ``counts`` are of messages to routes: ``sent``, ``failed``; and of notifications not meant for any: ``resting``
    (quiet hours), ``suppressed`` (marked so, above the limits), ``silenced`` (``lakehouse alerts silence``),
    ``malformed``.
    """

    def __init__(
        self,
        routes: Mapping[str, str],
        alerts: Alerts,
        timeout: timedelta = TIMEOUT,
        pause: Callable[[float], object] = time.sleep,
        silenced: Callable[[str, str], bool] = lambda rule, subject: False,
    ) -> None:
        """Take the routes that have an address.

        Args:
            routes: name -> address, as Apprise has them; a secret.
            alerts: which severities each route takes, and the quiet hours.
            timeout: for a connection, and for each answer on it.
            pause: waits for seconds between attempts; what is true ends the attempts.
            silenced: whether nobody is to be told of a rule and a subject now.

        Raises:
            AlertsError: the rules do not know a route, or Apprise does not know the address.
        """
        for name in ("apprise", "urllib3"):  # at some levels they log addresses
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        self.counts: Counter[str] = Counter()
        self._alerts, self._pause, self._timeout = alerts, pause, timeout.total_seconds()
        self._silenced = silenced
        self._senders = {name: self._sender(name, address) for name, address in routes.items()}

    def _sender(self, name: str, address: str) -> apprise.Apprise:
        mend = "in LAKEHOUSE_REALTIME__ROUTES"
        if name not in self._alerts.routes:
            raise AlertsError(f"route {name!r} {mend} is not among routes in conf/alerts.yaml: add it there")
        asset = apprise.AppriseAsset(app_id="lakehouse", app_desc="lakehouse notifications", app_url="")
        server = apprise.Apprise.instantiate(address, asset=asset)
        if server is None:
            raise AlertsError(f"route {name!r} {mend}: Apprise knows no such address, such as json://host/path")
        server.socket_connect_timeout = server.socket_read_timeout = self._timeout
        sender = apprise.Apprise()
        sender.add(server)
        return sender

    def send(self, document: Mapping[str, Any]) -> list[str]:
        """Send one notification to every route that takes its severity, each until it is taken or attempts run out.

        Quiet hours go by the time in the notification, not by the clock.

        Args:
            document: what ``Notification.document()`` makes; ``suppressed: true`` marks one above the limits.

        Returns:
            One line for each route that did not take it, or for a document that is none; empty where all is well.
        """
        try:
            told = _Document.model_validate(document)
            at_us = (datetime.fromisoformat(told.at) - _EPOCH) // timedelta(microseconds=1)
        except ValidationError as error:
            self.counts["malformed"] += 1
            return [f"not a notification: {'.'.join(map(str, error.errors()[0]['loc']))}: {error.errors()[0]['msg']}"]
        except (ValueError, TypeError):  # TypeError: a time without an offset
            self.counts["malformed"] += 1
            return ["not a notification: at: is no RFC 3339 time"]
        if told.suppressed or quiet(self._alerts.quiet_hours, told.severity, at_us):
            self.counts["suppressed" if told.suppressed else "resting"] += 1
            return []
        if self._silenced(told.rule, told.subject):
            self.counts["silenced"] += 1
            return []
        left = [name for name in self._senders if told.severity in self._alerts.routes[name]]
        for attempt in range(ATTEMPTS):
            if attempt and self._pause(PAUSE_S * 2 ** (attempt - 1)):
                break
            taken = [name for name in left if self._attempt(self._senders[name], told)]
            self.counts["sent"] += len(taken)
            left = [name for name in left if name not in taken]
            if not left:
                return []
        self.counts["failed"] += len(left)
        return [f"route {name!r} did not take notification {told.id} ({told.rule})" for name in left]

    def _attempt(self, sender: Any, told: _Document) -> bool:
        """Whether it was taken. Apprise raises nothing: whatever goes wrong is a failed result."""
        server, body = sender[0], f"{told.text}\n\n{told.subject}, {told.at}, notification {told.id}"
        if "headers" in server.template_kwargs:
            server.headers = {**server.headers, "Idempotency-Key": told.id}
        if isinstance(extras := getattr(server, "payload_extras", None), dict):  # a webhook of one's own: as fields
            fields = told.model_dump(exclude={"suppressed"})
            server.payload_extras = {**fields, **{name: extras[name] for name in extras if name not in fields}}
            body = told.text
        return bool(
            sender.notify(
                body=body,
                title=f"{told.rule} ({told.severity if told.kind == 'fired' else told.kind})",
                notify_type=_LOOKS[told.severity] if told.kind == "fired" else apprise.NotifyType.SUCCESS,
                body_format=apprise.NotifyFormat.TEXT,  # ids come from users: nothing in them is markup
                timeout=self._timeout * _WHOLE,
            )
        )


# --- from Kafka ----------------------------------------------------------------------------------------------------


def deliver(settings: Settings, stop: Event) -> None:
    """Deliver until ``stop`` is set; returns at once where no route has an address.

    Raises:
        AlertsError: the rules or a route's address are wrong.
        TopicError: Kafka cannot be read. ``stop`` is set then.
    """
    follow(settings, settings.realtime.routes, read(), stop)


def follow(settings: Settings, routes: Mapping[str, SecretStr], alerts: Alerts, stop: Event) -> None:
    """:func:`deliver` with routes and rules as given.

    A route that is new begins with what is written after it first started. A notification that a route does not take
    in ``ATTEMPTS`` is counted and logged, and the route goes on.
    """
    couriers = {
        name: Courier({name: address.get_secret_value()}, alerts, pause=stop.wait, silenced=silenced(settings))
        for name, address in routes.items()
    }
    if not couriers:
        _log.info("no route has an address in LAKEHOUSE_REALTIME__ROUTES: notifications stay inside")
        return
    require_topics(settings, [NOTIFICATIONS])
    with ThreadPoolExecutor(len(couriers), thread_name_prefix="notify") as pool:
        following = [pool.submit(_follow, settings, name, courier, stop) for name, courier in couriers.items()]
        wait(following, return_when=FIRST_EXCEPTION)
        stop.set()
    for route in following:
        route.result()


def _follow(settings: Settings, route: str, courier: Courier, stop: Event) -> None:
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": f"{GROUP}-{route}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",  # of partitions that are added later: nothing in them is missed
        },
        logger=logging.getLogger("lakehouse.kafka"),
    )
    try:
        _begin_at_the_end(consumer)
        consumer.subscribe([NOTIFICATIONS])
        while not stop.is_set():
            message = consumer.poll(0.2)
            if message is None:
                continue
            if error := message.error():
                if error.fatal():
                    raise KafkaException(error)
                _log.warning("route %s: %s", route, error.str())  # the client mends these by itself
                continue
            problems = _send(courier, message.value())
            if problems and stop.is_set():
                break  # its attempts were cut short: it stays uncommitted and is sent at the next start
            for problem in problems:
                _log.warning("%s, %s/%d/%d", problem, NOTIFICATIONS, message.partition(), message.offset())
            try:
                consumer.commit(message=message, asynchronous=False)
            except KafkaException as error:  # another process took the partition over: it sends this one again
                if error.args[0].fatal():
                    raise
                _log.warning("route %s: not committed: %s", route, error.args[0].str())
    except KafkaException as error:
        where = settings.kafka.bootstrap_servers
        raise TopicError(f"route {route!r} cannot read Kafka at {where}: {error.args[0].str()}") from None
    finally:
        consumer.close()
        _log.info("route %s: %s", route, dict(courier.counts))


def _send(courier: Courier, record: bytes | None) -> list[str]:
    try:
        document = orjson.loads(record or b"")
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        return courier.send(document)
    courier.counts["malformed"] += 1
    return ["not a notification: not a JSON object"]


def _begin_at_the_end(consumer: Consumer) -> None:
    """Commit the topic's end where the group has no place yet.

    Done before the first read: a crash between it and the first commit must not move the place past anything.
    """
    partitions = consumer.list_topics(NOTIFICATIONS, timeout=_ANSWER_S).topics[NOTIFICATIONS].partitions
    places = consumer.committed([TopicPartition(NOTIFICATIONS, p) for p in partitions], timeout=_ANSWER_S)
    new = [place for place in places if place.offset < 0]
    for place in new:
        place.offset = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)[1]
    if new:
        consumer.commit(offsets=new, asynchronous=False)
