"""Steps of time: minutes of a table folded into longer ones, so that a week is some hundred rows and not ten thousand.

Steps begin at whole multiples of their length since 1970, UTC, so those of whoever asks are the same.
"""

from __future__ import annotations

import re

FOLDS: dict[str, dict[str, str]] = {
    "gold.activity_minute": {"events": "sum(events)::bigint", "users": "max(users)"},
    "gold.service_health_minute": {
        "requests": "sum(requests)::bigint",
        "errors": "sum(errors)::bigint",
        "error_rate": "sum(errors) / nullif(sum(requests), 0)",
        "p50_ms": "max(p50_ms)",
        "p95_ms": "max(p95_ms)",
        "p99_ms": "max(p99_ms)",
    },
    "gold.host_utilization_minute": {
        "avg": 'sum("avg" * samples) / nullif(sum(samples) filter ("avg" is not null), 0)',
        "max": 'max("max")',
        "samples": "sum(samples)::bigint",
    },
}
"""What a step of each table says in each column that is not in its key.

Users and percentiles of a step can't be had of those of its minutes; the largest of them is told instead.
"""
MEANING = (
    "Minutes folded into steps of such a length, 1m to 1d, which begin at its multiples, UTC: counts are summed, rates "
    "and means are of the whole step, users, percentiles and maxima are the largest of its minutes."
)
_MINUTES = {"m": 1, "h": 60, "d": 1440}
_LENGTH = re.compile(r"([1-9][0-9]{0,3})([mhd])").fullmatch


def minutes(text: str) -> int:
    """The length of a step in minutes.

    Raises:
        ValueError: it is none such as ``5m``, ``1h`` or ``1d``.
    """
    found = _LENGTH(text)
    length = int(found[1]) * _MINUTES[found[2]] if found else 0
    if not 1 <= length <= 1440:
        raise ValueError(f"{text[:20]!r} is not a step of 1m to 1d, such as 5m, 1h or 1d")
    return length


def folded(table: str, time: str, key: tuple[str, ...], rows: str, length: int) -> str:
    """SELECT of a table's columns over rows, which are folded into steps of so many minutes.

    Args:
        table: one of :data:`FOLDS`.
        time: the column of the key that is folded.
        key: columns.
        rows: what stands behind ``from``, with conditions on columns of the key.
        length: minutes.
    """
    begins = f'time_bucket(to_minutes({length:d}), "{time}", timestamptz \'1970-01-01 00:00:00+00\') as "{time}"'
    rest = [f'"{column}"' for column in key if column != time]
    said = [f'{fold} as "{column}"' for column, fold in FOLDS[table].items()]
    return f"select {', '.join([begins, *rest, *said])} from {rows} group by all"
