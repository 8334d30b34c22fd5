"""``elasticsearch``: documents by bulk requests.

Guarantee: a document's id is the event's unless the pipeline names one, so that a repeated event changes nothing. As in
Logstash, a document that Elasticsearch refuses (400, 404 and their like) is a dead letter, the rest is sent again.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import orjson
from elasticsearch import ApiError, Elasticsearch, TransportError
from pydantic import SecretStr, field_validator

from lakehouse.collect.deadletters import Refuse
from lakehouse.collect.event import METADATA, Event, delivered, get, template
from lakehouse.collect.options import Listed, OutputOptions
from lakehouse.collect.plugins import Away, Plugin
from lakehouse.sinks.elasticsearch import CHUNK_BYTES, document_id

_LATER = {401, 403, 408, 429}
"""Not the document's fault: credentials, a block on the index, too much at once; so are all from 500."""

_ANSWER = "errors,items.*._index,items.*.status,items.*.error"
"""What is read of an answer: all of it is half as long as the documents."""


class ElasticsearchOptions(OutputOptions):
    """``index`` and ``document_id`` are templates."""

    hosts: Listed = ["http://127.0.0.1:9200"]
    index: str
    document_id: str | None = None
    action: Literal["index", "create"] = "index"
    user: str | None = None
    password: SecretStr | None = None
    ssl_certificate_authorities: Listed = []
    data_stream: bool = False
    manage_template: bool = False  # Logstash: true; the platform makes its templates itself
    ilm_enabled: bool = False

    @field_validator("data_stream", "manage_template", "ilm_enabled")
    @classmethod
    def _off(cls, value: bool) -> bool:
        if value:
            raise ValueError("has to be false here")
        return value

    @field_validator("hosts")
    @classmethod
    def _urls(cls, hosts: list[str]) -> list[str]:
        urls = [host if "://" in host else f"http://{host}" for host in hosts]
        return [url if ":" in url.rpartition("//")[2] else f"{url}:9200" for url in urls]


class Client(Protocol):
    """What the output needs of a client; ``elasticsearch.Elasticsearch`` has it."""

    def bulk(self, *, operations: list[bytes], filter_path: str) -> Any:
        """The answer to a bulk request, by item."""

    def close(self) -> None:
        """Let go of connections."""


def identity(event: Event) -> str | None:
    """``[event][id]``, else the id that the queue gave the event."""
    for path in (("event", "id"), (METADATA, "id")):
        value = get(event, path)
        if isinstance(value, str) and value:
            return value
    return None


class ElasticsearchOutput:
    """Indexes events."""

    def __init__(
        self, options: ElasticsearchOptions, plugin: Plugin, refuse: Refuse, client: Client | None = None
    ) -> None:
        self._options, self._refuse = options, refuse
        self._index = template(options.index)
        self._id = template(options.document_id) if options.document_id else identity
        self._client = client or self._connected()

    def _connected(self) -> Elasticsearch:
        options = self._options
        more: dict[str, Any] = {}
        if options.user is not None and options.password is not None:
            more["basic_auth"] = (options.user, options.password.get_secret_value())
        if options.ssl_certificate_authorities:
            more["ca_certs"] = options.ssl_certificate_authorities[0]
        return Elasticsearch(options.hosts, request_timeout=60, max_retries=0, **more)

    def send(self, events: list[Event]) -> None:
        """Return once Elasticsearch has the events, or they are dead letters."""
        chunk: list[tuple[Event, bytes, bytes]] = []
        left: list[Event] = []
        reasons: list[str] = []
        size = 0
        for number, event in enumerate(events):
            try:
                item = (event, self._action(event), delivered(event))
            except (TypeError, ValueError) as error:  # deeper than JSON is written
                self._refuse([(event, str(error))])
                continue
            if chunk and size + len(item[2]) > CHUNK_BYTES:
                try:
                    self._bulk(chunk, left, reasons)
                except Away as away:
                    raise Away(str(away), left + [e for e, _, _ in chunk] + events[number:]) from None
                chunk, size = [], 0
            chunk.append(item)
            size += len(item[2])
        if chunk:
            try:
                self._bulk(chunk, left, reasons)
            except Away as away:
                raise Away(str(away), left + [e for e, _, _ in chunk]) from None
        if left:
            raise Away(self._where(reasons[0]), left)

    def _action(self, event: Event) -> bytes:
        target = {"_index": self._index(event)}
        if (name := self._id(event)) is not None:
            target["_id"] = document_id(name)
        return orjson.dumps({self._options.action: target})

    def _where(self, reason: str) -> str:
        return f"Elasticsearch at {', '.join(self._options.hosts)}: {reason}"

    def _bulk(self, chunk: list[tuple[Event, bytes, bytes]], left: list[Event], reasons: list[str]) -> None:
        """Send one request; what is to be sent again is added to ``left``."""
        try:
            answer = self._client.bulk(
                operations=[line for _, action, body in chunk for line in (action, body)], filter_path=_ANSWER
            )
        except ApiError as error:
            if error.status_code not in (400, 413):  # the request's fault, not a document's
                raise Away(self._where(f"{error.status_code} {error.message}")) from None
            if len(chunk) == 1:
                self._refuse([(chunk[0][0], f"{error.status_code} {error.message}")])
                return
            middle = len(chunk) // 2  # one of them, or their size, is refused: halves find it
            self._bulk(chunk[:middle], left, reasons)
            self._bulk(chunk[middle:], left, reasons)
            return
        except TransportError as error:
            raise Away(self._where(error.message)) from None
        if not answer["errors"]:
            return
        refused: list[tuple[Event, str]] = []
        for (event, _, _), item in zip(chunk, answer["items"], strict=True):
            result = item[self._options.action]
            status = result["status"]
            if status < 300 or (status == 409 and self._options.action == "create"):  # it is there already
                continue
            reason = f"{status} {_reason(result.get('error'))}"
            if status in _LATER or status >= 500:
                left.append(event)
                reasons.append(reason)
            else:
                refused.append((event, f"{result.get('_index', '')}: {reason}"))
        if refused:
            self._refuse(refused)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()


def _reason(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error)
    cause = error.get("caused_by")
    said = f"{error.get('type')}: {error.get('reason')}"
    return f"{said} ({cause.get('reason')})" if isinstance(cause, dict) else said
