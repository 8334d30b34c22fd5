"""`conf/logstash/loghub.conf` gives the fields that the collection itself publishes."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from lakehouse.collect.config import read
from lakehouse.collect.filters import block
from lakehouse.settings import PROJECT

DATA = Path(os.environ.get("LAKEHOUSE_DATA", PROJECT.parent / "shared" / "data")) / "loghub"
SYSTEMS = ("Apache", "HDFS", "Hadoop", "Linux", "OpenSSH", "OpenStack", "Spark", "Zookeeper")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_published_field_of_a_system_is_parsed(system: str) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the loghub data set is not there: {DATA} (LAKEHOUSE_DATA names another folder)")
    apply = block(read(PROJECT / "conf" / "logstash" / "loghub.conf", {"LOGHUB_YEAR": "2005"}).filters)
    lines = (DATA / system / f"{system}_2k.log").read_text().splitlines()
    with (DATA / system / f"{system}_2k.log_structured.csv").open(newline="") as file:
        truth = list(csv.DictReader(file))
    assert len(lines) == len(truth) == 2000
    equal = 0
    for line, row in zip(lines, truth, strict=True):
        event: dict[str, Any] = {"message": line, "fields": {"system": system}}
        assert apply(event)
        wanted = {k: v for k, v in row.items() if k not in ("LineId", "EventId", "EventTemplate")}
        found = event.get("loghub", {})
        equal += {k: found.get(k, "") for k in wanted} == wanted and "@timestamp" in event
        assert set(found) <= set(wanted) and (found or event["tags"])
    assert equal >= 0.99 * len(truth)
