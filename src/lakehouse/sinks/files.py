"""Plain files on the lake, beside its tables, without a JVM."""

from __future__ import annotations

from deltalake.fs import DeltaStorageHandler


def put(handler: DeltaStorageHandler, path: str, content: bytes) -> None:
    """Put a file in place of the one before, under the handler's root.

    Raises:
        OSError: it could not be written; the file before stays.
    """
    # The handler's own stream: what its public method returns takes no bytes from pyarrow (delta-rs 1.6.6).
    stream = handler._handler.open_output_stream(path)
    stream.write(content)
    stream.close()  # not where writing failed: closing is what puts the file in place
