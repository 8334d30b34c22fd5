"""What an installation may do without: the setting ``off`` names components that are neither started nor asked.

The stream, Kafka and HDFS are what it is. What cannot work without something that is off is off too.
"""

from __future__ import annotations

from lakehouse.settings import Component, Settings

NEEDS: dict[Component, tuple[Component, ...]] = {"realtime": ("redis",), "alerts": ("mongodb",)}
"""The processor shows in Redis what it knows; how alerts stand is kept in MongoDB."""
PROGRAMS: dict[str, tuple[Component, ...]] = {
    "schedule": ("schedule",),
    "collect": ("collect",),
    "serve": ("serve",),
    "alerts": ("alerts",),
    "realtime": ("realtime",),
    "mlflow": ("models",),
    "filebeat": ("ship", "collect"),
    "ship-logs": ("ship", "collect"),
    "metricbeat": ("ship",),
    "ship-metrics": ("ship",),
}
"""By program, the components that must be on for it to run; the stream always does."""
JOBS: dict[str, Component] = {
    **dict.fromkeys(("train", "promote", "score", "hindsight", "insights"), "models"),
}
"""By verb, the component that a job of the timetable is about."""


def on(settings: Settings, component: Component) -> bool:
    """Whether a component works: neither it nor what it needs is off."""
    return component not in settings.off and all(on(settings, need) for need in NEEDS.get(component, ()))


def runs(settings: Settings, program: str) -> bool:
    """Whether ``up`` runs a program."""
    return all(on(settings, component) for component in PROGRAMS.get(program, ()))


def due(settings: Settings, verb: str) -> bool:
    """Whether the timetable runs a verb."""
    return verb not in JOBS or on(settings, JOBS[verb])
