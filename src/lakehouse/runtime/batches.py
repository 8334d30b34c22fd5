"""What both engines are to the stream: a ``foreachBatch`` that takes one micro-batch at a time until it is closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import wraps
from threading import Lock
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pyspark.sql import DataFrame

from lakehouse import logs

Result = TypeVar("Result")
Given = ParamSpec("Given")


class OfTopic(Protocol):
    """What writes a topic's batches."""

    flow: Any
    progress: Any


One = TypeVar("One", bound=OfTopic)


def in_its_batch(method: Callable[Concatenate[One, Given], Result]) -> Callable[Concatenate[One, Given], Result]:
    """Let what a method logs, and the error that ends it, name the batch: ``topic`` and ``seq``."""

    @wraps(method)
    def wrapped(one: One, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        with logs.about(topic=one.flow.topic, seq=one.progress.seq + 1):
            return method(one, *args, **kwargs)

    return wrapped


class Batches(ABC):
    """A ``foreachBatch``. One instance serves one run; after any error make a new one.

    A batch may be written on after its call returned: ``writing`` is what is left of it.
    """

    def __init__(self) -> None:
        self._lock, self._closed = Lock(), False
        self.writing: Future[None] | None = None

    def __call__(self, batch: DataFrame, batch_id: int) -> None:
        """Take one micro-batch of Kafka's records."""
        with self._lock:
            if not self._closed:
                self.take(batch)

    @abstractmethod
    def take(self, batch: DataFrame) -> None:
        """Write a micro-batch everywhere, or begin to."""

    def written(self) -> None:
        """Wait until the last batch taken is everywhere, and raise what it failed with."""
        if self.writing is not None:
            self.writing.result()

    def rest(self, wholly: bool = False) -> None:  # noqa: B027 - not every engine leaves something for later
        """Begin what is due though no batch comes; ``wholly``: whatever is left to do. Called now and then."""

    def failure(self) -> BaseException | None:
        """What the last batch failed with after its call returned, if it has."""
        return self.writing.exception() if self.writing is not None and self.writing.done() else None

    def close(self, timeout: float) -> None:
        """Let the current batch end and take no further one; Spark may count those as done, the ledger does not.

        Raises:
            TimeoutError: it did not end within ``timeout`` seconds.
        """
        if not self._lock.acquire(timeout=timeout):
            raise TimeoutError(f"a batch did not end within {timeout:.0f} s")
        self._closed = True
        self._lock.release()
        self.rest(wholly=True)
        if self.writing is not None:
            self.writing.exception(timeout)


def side_by_side(pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], Result]]) -> list[Result]:
    """Run jobs side by side. All have ended before a failure is raised: none may write after a roll-back."""
    futures = [pool.submit(job) for job in jobs]
    wait(futures)
    return [future.result() for future in futures]
