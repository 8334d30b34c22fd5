"""``stdout``: events for people and pipes. Guarantee: at least once."""

from __future__ import annotations

import sys
from typing import BinaryIO

from lakehouse.collect.codecs import CodecName, codec
from lakehouse.collect.deadletters import Refuse
from lakehouse.collect.event import Event
from lakehouse.collect.options import OutputOptions
from lakehouse.collect.plugins import Away, Plugin


class StdoutOptions(OutputOptions):
    """Nothing but the codec."""

    codec: CodecName = "json_lines"  # Logstash: rubydebug, which no program reads


class Stdout:
    """Writes to standard output, unless another stream is given."""

    def __init__(self, options: StdoutOptions, plugin: Plugin, refuse: Refuse, stream: BinaryIO | None = None) -> None:
        self._codec, self._refuse = codec(plugin, options.codec, "stream", encodes=True)(), refuse
        self._stream = stream or sys.stdout.buffer

    def send(self, events: list[Event]) -> None:
        """Return once the events are written, or are dead letters."""
        shown = []
        for event in events:
            try:
                shown.append(self._codec.encode(event))
            except (TypeError, ValueError) as error:
                self._refuse([(event, str(error))])
        try:
            self._stream.write(b"".join(shown))
            self._stream.flush()
        except OSError as error:
            raise Away(f"standard output: {error.strerror}") from None

    def close(self) -> None:
        """The stream is not ours."""
