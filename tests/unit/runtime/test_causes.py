"""What the log says of an error that ends the stream: one line, though the JVM's words are a page."""

from __future__ import annotations

import pytest

from lakehouse.runtime.stream import StreamFailed, cause

FRAMES = "\tat org.apache.hadoop.ipc.Client.call(Client.java:1455)\n\t... 32 more\n"
REFUSED = "java.net.ConnectException: Call From here to localhost:8020 failed: java.net.ConnectException: refused"
CALL = f"An error occurred while calling o259.exists.\n: {REFUSED}\n{FRAMES}"
PROXY = (
    "An exception was raised by the Python Proxy. Return Message: Traceback (most recent call last):\n"
    '  File "clientserver.py", line 617, in _call_proxy\n    value = self.pool[obj_id].call(*params)\n'
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (CALL, REFUSED),
        (
            f"{PROXY}lakehouse.sources.lake.LakeError: no answer\n\n{FRAMES}",
            "lakehouse.sources.lake.LakeError: no answer",
        ),
        (f"{PROXY}py4j.protocol.Py4JJavaError: {CALL}", REFUSED),
        (f"[STREAM_FAILED] Query ingest terminated\n{FRAMES}", "[STREAM_FAILED] Query ingest terminated"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_is_the_line_that_says_what_went_wrong(text: str, line: str) -> None:
    assert cause(RuntimeError(text)) == line


def test_our_own_errors_are_said_whole() -> None:
    text = "two lines\nand " + 600 * "x"
    assert cause(StreamFailed(text)) == text
