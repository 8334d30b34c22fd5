"""THE MAP of the processor: what reads which topic and makes entries for whom.

    user-events ────▶ route ─▶ users ──▶ posts ──┐
    service-logs ───▶ route ─▶ services ─▶ hosts ─┼─▶ inbox ─▶ notifications
    system-metrics ─▶ route ──────────────▶ hosts ┘

A route checks records against their contract and passes them on by the key that the stage behind counts by. Every
stage reads one topic of its own, ``realtime-<stage>-repartition``, in whose order it decides, and keeps its state in
``realtime-<stage>-changelog``, compacted.
"""

from __future__ import annotations

from lakehouse.realtime.hosts import Hosts
from lakehouse.realtime.inbox import Inbox
from lakehouse.realtime.posts import Posts
from lakehouse.realtime.route import RouteEvents, RouteLogs, RouteMetrics
from lakehouse.realtime.services import Services
from lakehouse.realtime.task import Context, Task
from lakehouse.realtime.users import Users

TASKS: tuple[type[Task], ...] = (RouteEvents, RouteLogs, RouteMetrics, Users, Services, Posts, Hosts, Inbox)
"""In the order of the flow."""


def wanted(context: Context) -> dict[str, type[Task]]:
    """The tasks that the enabled parts need, by the topic that they read."""
    names = set()
    if context.does("activity") or context.does("trending") or context.does("recommendations"):
        names |= {"user-events", "users"}
    if context.does("trending") or context.does("recommendations") or context.does("notifications"):
        names |= {"user-events", "users", "posts"}
    if context.does("notifications"):
        names |= {task.name for task in TASKS}
    return {task.topic: task for task in TASKS if task.name in names}


def changelog(task: type[Task]) -> str:
    """The topic that keeps a task's state."""
    return f"realtime-{task.name}-changelog"
