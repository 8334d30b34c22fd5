"""Where a client is in the topic ``notifications``: what ``Last-Event-ID`` says.

A position holds the offset of every partition from which on the client has nothing, and a mark of the topic, which is
another one when the topic was made anew. It is the same in every process and after every restart. It says nothing that
a client must not know, and gives no right: forging one shows the forger their own events again, or not.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass

_FORM = 1
MARK_BYTES = 4
MOST_OFFSETS = 1000
MOST_CHARACTERS = 16_000


@dataclass(frozen=True)
class Position:
    """``offsets`` by partition, of the topic with a ``mark`` of four bytes."""

    mark: bytes
    offsets: tuple[int, ...]

    def __str__(self) -> str:
        body = bytearray([_FORM]) + self.mark
        for offset in self.offsets:
            body += _varint(offset)
        body += zlib.crc32(body).to_bytes(4, "big")  # a cut or mistyped one is told from one that is out of date
        return urlsafe_b64encode(body).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Position:
        """What ``str`` made.

        Raises:
            ValueError: it is not one.
        """
        if not text.isascii() or len(text) > MOST_CHARACTERS:
            raise ValueError("not a position")
        body = urlsafe_b64decode(text + "=" * (-len(text) % 4))
        if len(body) < 1 + MARK_BYTES + 4 or body[0] != _FORM:
            raise ValueError("not a position")
        numbers, check = body[1 + MARK_BYTES : -4], body[-4:]
        if zlib.crc32(body[:-4]).to_bytes(4, "big") != check:
            raise ValueError("not a position")
        found = cls(bytes(body[1 : 1 + MARK_BYTES]), tuple(_numbers(numbers)))
        if str(found) != text:  # there is one way to write it
            raise ValueError("not a position")
        return found


def _varint(number: int) -> bytes:
    """LEB128: seven bits a byte, the lowest first."""
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _numbers(body: bytes) -> list[int]:
    found, number, shift = [], 0, 0
    for byte in body:
        number |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            found.append(number)
            number = shift = 0
    if shift or len(found) > MOST_OFFSETS or any(n > 0x7FFF_FFFF_FFFF_FFFF for n in found):
        raise ValueError("not a position")
    return found
