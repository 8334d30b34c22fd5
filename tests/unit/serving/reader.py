"""A process that logs accesses until it is killed, ``reader.py SPOOL LAKE [MOMENT]``; it prints each id that is kept.

MOMENT is when it kills itself: ``before`` or ``after`` the third commit to the table.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from lakehouse.ops.access_log import TABLE
from lakehouse.settings import Hdfs, Settings
from lakehouse.sinks import batch
from serving import access
from serving.access import AccessLog, Entry, Spool

spool, lake, moment = Path(sys.argv[1]), sys.argv[2], (sys.argv[3:] or [""])[0]
settings = Settings(hdfs=Hdfs(uri=f"file://{lake}", root="lake"))
commits = 0
access.LOOK_S = 0.05


def write(rows: pa.Table) -> None:
    global commits
    commits += 1
    for when in ("before", "after"):
        if commits == 3 and moment == when:
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "before":
            batch.upsert(settings, TABLE, rows)


log = AccessLog(Spool(spool, 2**30), write, timedelta(milliseconds=1), 20)
log.start()
number = 0
while True:
    number += 1
    entry = Entry(
        at=datetime.now(UTC), subject=f"s{number}", resource="silver.user_events", columns=("text",), rows=number
    )
    log.record(entry)
    sys.stdout.write(entry.id + "\n")
    sys.stdout.flush()
