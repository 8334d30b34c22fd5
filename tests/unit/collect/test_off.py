"""Without Elasticsearch the collector delivers to Kafka alone."""

from __future__ import annotations

from pathlib import Path

from lakehouse.collect import collector
from lakehouse.settings import Component, Settings


def outputs(tmp_path: Path, *off: Component) -> set[str]:
    settings = Settings(home=tmp_path, off=off)
    made = collector.collector(settings, settings.collect.pipeline)
    names = {sender.name for sender in made._senders}
    made._queue.close()
    return names


def test_what_is_off_is_no_output(tmp_path: Path) -> None:
    assert outputs(tmp_path / "all") == {"kafka", "elasticsearch"}
    assert outputs(tmp_path / "less", "elasticsearch") == {"kafka"}
