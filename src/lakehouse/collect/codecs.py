"""Codecs: bytes to events and back. An instance serves one connection, file or datagram, and keeps what is incomplete.

Source: Logstash Reference 8, "Codec plugins". Bytes that are not valid in the charset become the text ``\\xHH``, as in
Logstash; what is not JSON becomes ``message`` with the tag ``_jsonparsefailure``; a line longer than the limit is cut
into events with the tag ``_cut``, so that no sender can fill the memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Protocol

import orjson
import regex
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf

from lakehouse.collect.event import METADATA, Event, delivered, iso, made, put, reference, tag, template
from lakehouse.collect.filters.grok import Pattern, library
from lakehouse.collect.options import CodecOptions
from lakehouse.collect.plugins import Codec, Plugin, options

Shape = Literal["unit", "stream", "line"]
"""How an input hands bytes over: one datagram or body, any piece of a stream, or one line without its end."""
CodecName = str | InstanceOf[Plugin]
"""The ``codec`` option of an input or output: a name, or a codec with options."""
CUT = "_cut"
LINE_BYTES = 20 * 1024 * 1024
"""Longest line, in bytes, that stays whole: Logstash's ``decode_size_limit_bytes``."""
NOT_JSON = "_jsonparsefailure"
_SPARE_LEVELS = 50
_MATCH_S = 1.0
_ESCAPES = {0xDC00 + byte: f"\\x{byte:02X}" for byte in range(128, 256)}


def text_of(data: bytes, charset: str = "utf-8") -> str:
    """The bytes as text; those that are not valid in the charset as ``\\xHH``."""
    try:
        return data.decode(charset)
    except UnicodeDecodeError:
        try:
            return data.decode(charset, "surrogateescape").translate(_ESCAPES)
        except UnicodeDecodeError:  # a charset that is no superset of ASCII
            return data.decode(charset, "backslashreplace")


class Splitter:
    """Cuts a stream of bytes at a delimiter, however the bytes arrive, holding at most ``limit`` bytes and one read."""

    def __init__(self, delimiter: bytes = b"\n", limit: int = LINE_BYTES) -> None:
        self.delimiter, self.limit = delimiter, limit
        self._buffer = bytearray()
        self._scanned = 0
        self._cutting = False

    def feed(self, data: bytes) -> list[tuple[bytes, bool, int]]:
        """The lines that are complete now: (bytes, cut off from its line, bytes of the stream that it took)."""
        buffer, width = self._buffer, len(self.delimiter)
        buffer += data
        lines: list[tuple[bytes, bool, int]] = []
        end = buffer.rfind(self.delimiter, max(0, self._scanned - width + 1))
        if end >= 0:
            block = bytes(memoryview(buffer)[:end])
            del buffer[: end + width]
            for line in block.split(self.delimiter):
                self._add(lines, line)
        while len(buffer) >= self.limit + width:  # whatever follows, this line is longer than the limit
            lines.append((bytes(memoryview(buffer)[: self.limit]), True, self.limit))
            del buffer[: self.limit]
            self._cutting = True
        self._scanned = len(buffer)
        return lines

    @property
    def held(self) -> int:
        """Bytes without a delimiter yet."""
        return len(self._buffer)

    def rest(self) -> list[tuple[bytes, bool, int]]:
        """What is left without a delimiter."""
        lines: list[tuple[bytes, bool, int]] = []
        if self._buffer:
            width, data = len(self.delimiter), bytes(self._buffer)
            self._buffer, self._scanned = bytearray(), 0
            self._add(lines, data)
            line, cut, size = lines[-1]
            lines[-1] = (line, cut, size - width)
        self._cutting = False
        return lines

    def _add(self, lines: list[tuple[bytes, bool, int]], line: bytes) -> None:
        cut = self._cutting or len(line) > self.limit
        while len(line) > self.limit:
            lines.append((line[: self.limit], True, self.limit))
            line = line[self.limit :]
        lines.append((line, cut, len(line) + len(self.delimiter)))
        self._cutting = False


def _charset(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise ValueError(f"there is no charset {name!r}") from None


def _unescaped(delimiter: str) -> str:
    text = delimiter.replace(r"\r", "\r").replace(r"\n", "\n").replace(r"\t", "\t").replace(r"\0", "\0")
    if not text:
        raise ValueError("a delimiter is at least one character")
    return text


def _bytes(value: Any) -> int:
    found = regex.fullmatch(r"\s*(\d+)\s*([kmgt]?)(i?)b?\s*", str(value), regex.IGNORECASE)
    if found is None:
        raise ValueError("write a number of bytes, or a size as 10 MiB")
    power: int = (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
    return int(found[1]) * power


def _checked(check: Callable[[str], Any]) -> AfterValidator:
    """A validator that keeps a text as it is where ``check`` has nothing against it."""

    def validated(text: str) -> str:
        check(text)
        return text

    return AfterValidator(validated)


def expression(source: str) -> regex.Pattern[str]:
    """The compiled pattern of ``multiline``, in which grok's patterns of the standard library may stand.

    Raises:
        ValueError: it is not a regular expression, or names a pattern that is not defined.
    """
    try:
        return Pattern(source, library()).compiled
    except ValueError as error:
        raise ValueError(str(error).removeprefix("match: ")) from None


Charset = Annotated[str, AfterValidator(_charset)]
Delimiter = Annotated[str, AfterValidator(_unescaped)]
"""As meant: the pipeline's language leaves ``\\n`` in a string two characters."""
Size = Annotated[int, BeforeValidator(_bytes)]
"""Bytes, as Logstash writes them: a number, or ``10 MiB``, ``64kb`` (of 1024 and of 1000)."""
Template = Annotated[str, _checked(template)]


class PlainOptions(CodecOptions):
    """``format`` is a template for outputs; time, host and message without one."""

    charset: Charset = "utf-8"
    format: Template | None = None


class LineOptions(PlainOptions):
    """Lines end with ``delimiter``; ``decode_size_limit_bytes`` is the longest that stays whole."""

    delimiter: Delimiter = "\n"
    decode_size_limit_bytes: int = Field(LINE_BYTES, ge=1)


class JsonOptions(CodecOptions):
    """``target`` is the field that takes the object; the event itself without one."""

    charset: Charset = "utf-8"
    target: Annotated[str, _checked(reference)] | None = None


class JsonLinesOptions(JsonOptions):
    """JSON objects, one a line."""

    delimiter: Delimiter = "\n"
    decode_size_limit_bytes: int = Field(LINE_BYTES, ge=1)


class MultilineOptions(CodecOptions):
    """Lines that ``pattern`` finds (or with ``negate`` does not) belong to the ``previous`` or ``next`` line."""

    pattern: Annotated[str, _checked(expression)]
    what: Literal["previous", "next"]
    negate: bool = False
    charset: Charset = "utf-8"
    multiline_tag: str = "multiline"
    max_lines: int = Field(default=500, ge=1)
    max_bytes: Size = 10 * 1024 * 1024
    auto_flush_interval: float | None = Field(default=None, gt=0)
    """Seconds of silence after which the last event is complete; without it the next one's first line completes it."""


class Decoder(Codec, Protocol):
    """A codec as inputs use it."""

    silence: float | None
    """Seconds without bytes after which the input calls :meth:`idle`, if any."""

    @property
    def pending(self) -> int:
        """Lines taken that are in no event yet: a file is not read past them for good."""

    def idle(self) -> Iterable[Event]:
        """The events that silence completes."""


class _Whole:
    """What codecs have in common that keep nothing between calls."""

    silence: float | None = None

    @property
    def pending(self) -> int:
        return 0

    def flush(self) -> Iterable[Event]:
        return ()

    def idle(self) -> Iterable[Event]:
        return self.flush()


class Plain(_Whole):
    """Text as ``message``."""

    def __init__(self, chosen: PlainOptions) -> None:
        self._charset = chosen.charset
        self._format = template(chosen.format) if chosen.format is not None else None

    def decode(self, data: bytes) -> Iterable[Event]:
        """One event of all the bytes."""
        return ({"message": text_of(data, self._charset), "@timestamp": datetime.now(UTC)},)

    def encode(self, event: Event) -> bytes:
        """The template filled, or time, host and message."""
        if self._format is not None:
            return self._format(event).encode(self._charset, "backslashreplace")
        return _SHOWN(event).encode(self._charset, "backslashreplace")


_SHOWN = template("%{@timestamp} %{[host][name]} %{message}")


class Json(_Whole):
    """An object as an event, or a list of objects as several."""

    def __init__(self, chosen: JsonOptions) -> None:
        self._charset = chosen.charset
        self._target = reference(chosen.target) if chosen.target else None

    def decode(self, data: bytes) -> Iterable[Event]:
        """The events of one JSON text; none of blanks."""
        if not data or data.isspace():
            return ()
        now = datetime.now(UTC)
        objects = self._objects(data)
        if objects is None:
            return ({"message": text_of(data, self._charset), "@timestamp": now, "tags": [NOT_JSON]},)
        if self._target is None:
            return [made(fields, now) for fields in objects]
        events: list[Event] = [{"@timestamp": now} for _ in objects]
        for event, fields in zip(events, objects, strict=True):
            put(event, self._target, fields)
        return events

    def _objects(self, data: bytes) -> list[Event] | None:
        if self._charset != "utf-8":
            data = text_of(data, self._charset).encode()
        return objects(data)

    def encode(self, event: Event) -> bytes:
        """One JSON object."""
        return delivered(event)


def objects(data: bytes) -> list[Event] | None:
    """The JSON object, or the objects of the list; ``None`` where it is not so, or nested too deep to write again."""
    try:
        value = orjson.loads(data)
        if data.count(b"{") + data.count(b"[") > _SPARE_LEVELS:
            shell = value
            for _ in range(_SPARE_LEVELS):  # what is left to filters that put it deeper
                shell = [shell]
            orjson.dumps(shell)
    except (orjson.JSONDecodeError, TypeError):
        return None
    if type(value) is dict:
        return [value]
    found = value if isinstance(value, list) else [value]
    return found if all(isinstance(fields, dict) for fields in found) else None


class Multiline(_Whole):
    """Joins lines; :meth:`decode` takes one line a call."""

    def __init__(self, chosen: MultilineOptions) -> None:
        self._chosen, self._search = chosen, expression(chosen.pattern).search
        self.silence = chosen.auto_flush_interval
        self._lines: list[str] = []
        self._bytes = 0
        self._since = datetime.now(UTC)

    @property
    def pending(self) -> int:
        """Lines of the event that is not complete."""
        return len(self._lines)

    def decode(self, data: bytes) -> Iterable[Event]:
        """The events that this line completes."""
        line = text_of(data, self._chosen.charset)
        try:
            belongs = (self._search(line, timeout=_MATCH_S) is not None) != self._chosen.negate
        except TimeoutError:
            belongs = self._chosen.negate
        events: list[Event] = []
        if self._chosen.what == "previous":
            if not belongs:
                events += self.flush()
            events += self._add(line, len(data))
        else:
            events += self._add(line, len(data))
            if not belongs:
                events += self.flush()
        return events

    def _add(self, line: str, size: int) -> Iterable[Event]:
        if not self._lines:
            self._since = datetime.now(UTC)
        self._lines.append(line)
        self._bytes += size
        if len(self._lines) >= self._chosen.max_lines:
            return self._joined(["multiline_codec_max_lines_reached"])
        return self._joined(["multiline_codec_max_bytes_reached"]) if self._bytes >= self._chosen.max_bytes else ()

    def flush(self) -> Iterable[Event]:
        """What is joined so far, as an event."""
        return self._joined([])

    def _joined(self, tags: list[str]) -> Iterator[Event]:
        lines, self._lines, self._bytes = self._lines, [], 0
        if lines:
            event: Event = {"message": "\n".join(lines), "@timestamp": self._since}
            if len(lines) > 1 and self._chosen.multiline_tag:
                tags = [self._chosen.multiline_tag, *tags]
            if tags:
                event["tags"] = tags
            return iter([event])
        return iter(())

    def encode(self, event: Event) -> bytes:
        """Time, host and message."""
        return _SHOWN(event).encode()


class Delimited:
    """Cuts a stream into lines for a codec that takes a line a call."""

    def __init__(self, inner: Any, delimiter: bytes, limit: int) -> None:
        self._inner, self._splitter = inner, Splitter(delimiter, limit)
        self.silence: float | None = inner.silence

    @property
    def pending(self) -> int:
        """Lines of the event that is not complete."""
        return int(self._inner.pending)

    def decode(self, data: bytes) -> Iterable[Event]:
        """The events of the lines that are complete."""
        return self._events(self._splitter.feed(data))

    def idle(self) -> Iterable[Event]:
        """The events that silence completes; a line without its end is not."""
        return () if self._splitter.held else self._inner.idle()

    def flush(self) -> Iterable[Event]:
        """The events that are left, a line without its end among them."""
        return [*self._events(self._splitter.rest()), *self._inner.flush()]

    def _events(self, lines: list[tuple[bytes, bool, int]]) -> list[Event]:
        events: list[Event] = []
        for line, cut, _ in lines:
            new = self._inner.decode(line)
            if cut:
                new = list(new)
                for event in new:
                    tag(event, [CUT])
            events += new
        return events

    def encode(self, event: Event) -> bytes:
        """One event and the delimiter."""
        return bytes(self._inner.encode(event) + self._splitter.delimiter)


class Dots(_Whole):
    """A dot an event, for counting; outputs alone."""

    def __init__(self, chosen: CodecOptions) -> None:
        pass

    def decode(self, data: bytes) -> Iterable[Event]:
        """Nothing."""
        return ()

    def encode(self, event: Event) -> bytes:
        """A dot."""
        return b"."


class RubyDebug(Dots):
    """An event as Logstash shows it to people; outputs alone."""

    def encode(self, event: Event) -> bytes:
        """The event over several lines."""
        return _ruby({name: value for name, value in event.items() if name != METADATA}, 0).encode() + b"\n"


def _ruby(value: Any, level: int) -> str:
    inner, outer = "    " * (level + 1), "    " * level
    if isinstance(value, dict):
        width = max((len(str(name)) for name in value), default=0) + 2
        shown = [f"{inner}{chr(34) + str(k) + chr(34):>{width}} => {_ruby(v, level + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(shown) + f"\n{outer}}}" if shown else "{}"
    if isinstance(value, list):
        shown = [f"{inner}[{n}] {_ruby(v, level + 1)}" for n, v in enumerate(value)]
        return "[\n" + ",\n".join(shown) + f"\n{outer}]" if shown else "[]"
    if isinstance(value, datetime):
        return iso(value)
    return "nil" if value is None else orjson.dumps(value, default=str).decode()


CODECS: dict[str, tuple[type[CodecOptions], Callable[[Any], Any]]] = {
    "plain": (PlainOptions, Plain),
    "line": (LineOptions, Plain),
    "json": (JsonOptions, Json),
    "json_lines": (JsonLinesOptions, Json),
    "multiline": (MultilineOptions, Multiline),
    "rubydebug": (CodecOptions, RubyDebug),
    "dots": (CodecOptions, Dots),
}
OUTPUT_ONLY = {"rubydebug", "dots"}


def codec(plugin: Plugin, chosen: str | Plugin, shape: Shape, encodes: bool = False) -> Callable[[], Decoder]:
    """A function that makes the codec which an input's or output's ``codec`` option names, for bytes of a shape.

    As Logstash does, a stream takes ``plain`` for ``line`` and ``json`` for ``json_lines``.

    Raises:
        ConfigError: there is no such codec, or one of its options is wrong.
    """
    line = plugin.options.get("codec", (None, plugin.line))[1]
    named = chosen if isinstance(chosen, Plugin) else Plugin("codec", chosen, line, {}, plugin.file)
    known = [name for name in CODECS if encodes or name not in OUTPUT_ONLY]
    if encodes:
        known.remove("multiline")
    if named.name not in known:
        raise plugin.error(f"codec {named.name!r} is not supported; known are {', '.join(known)}", line)
    model, factory = CODECS[named.name]
    settled = options(named, model)
    whole = shape == "line" or (shape == "unit" and named.name in ("plain", "json"))
    if whole or named.name in OUTPUT_ONLY:
        return lambda: factory(settled)
    delimiter = getattr(settled, "delimiter", "\n").encode()
    limit = getattr(settled, "decode_size_limit_bytes", LINE_BYTES)
    return lambda: Delimited(factory(settled), delimiter, limit)
