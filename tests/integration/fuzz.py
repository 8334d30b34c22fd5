"""Lines that no service means to write: mutated, binary, not UTF-8, a megabyte long."""

from __future__ import annotations

import random
from collections.abc import Iterator

from lakehouse.bench.collect import access_log, service_log

SYSLOG = (
    "<34>Oct 11 22:14:15 web-1 su: 'su root' failed for lonvick on /dev/pts/8",
    '<165>1 2003-10-11T22:14:15.003Z web-1 evntslog 1234 ID47 [x@32473 iut="3" a="\\"b"] An application event',
    '{"@timestamp":"2026-01-01T00:00:00Z","message":"x","service":{"name":"a"},"event":{"id":"1"}}',
)
JUNK = (
    b"\x00", b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b" " * 50, b'"' * 40, b"[[" * 30, b"\\" * 33, b"%{x}",
    b"\xe2\x80\xa8", b"-" * 40, b"1" * 400, b"{", b"9" * 30, b"<1>1 - ", b"GET / ", b'{"a":', b"\r",
)  # fmt: skip
LONG = 1 << 20


def fuzzed(seed: int, count: int) -> Iterator[bytes]:
    """Lines without their ends."""
    draw = random.Random(seed)
    for _ in range(count):
        yield _line(draw).replace(b"\n", b" ")


def _line(draw: random.Random) -> bytes:
    kind = draw.random()
    if kind < 0.55:
        return _mutated(draw, _meant(draw))
    if kind < 0.8:
        return draw.randbytes(draw.randrange(1, 300))
    if kind < 0.999:
        head, tail = draw.choice(JUNK) * draw.randrange(1, 40), draw.choice(JUNK) * draw.randrange(40)
        return head + _meant(draw)[: draw.randrange(80)] + tail
    unit = draw.choice(JUNK)
    return (_meant(draw)[: draw.randrange(100)] + unit * (LONG // len(unit)))[:LONG]


def _meant(draw: random.Random) -> bytes:
    kind, number = draw.random(), draw.randrange(10**6)
    text = service_log(number) if kind < 0.4 else access_log(number) if kind < 0.6 else draw.choice(SYSLOG)
    return text.encode()


def _mutated(draw: random.Random, line: bytes) -> bytes:
    data = bytearray(line)
    for _ in range(draw.randrange(1, 6)):
        at, how = draw.randrange(len(data) + 1), draw.random()
        if how < 0.3:
            data[at:at] = draw.choice(JUNK)
        elif how < 0.6 and data:
            data[at % len(data)] = draw.randrange(256)
        elif how < 0.8:
            del data[at : at + draw.randrange(30)]
        else:
            data[at:at] = data[: draw.randrange(60)]
    return bytes(data) or b"."
