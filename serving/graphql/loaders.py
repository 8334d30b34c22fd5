"""Loads what fields under a list want, once for all of them: a question to a store or the lake for many parents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from strawberry.dataloader import DataLoader

from serving import formats, measures
from serving.ask import Ask
from serving.graphql.context import Context
from serving.problems import Problem
from serving.service import Page

Key = TypeVar("Key")
Found = TypeVar("Found")
Asked = TypeVar("Asked", bound=Hashable)


@dataclass(frozen=True)
class _Group:
    """One question for many values of a column; groups are told apart by what they name."""

    digest: str
    limit: int
    version: int | None
    column: str
    question: Ask = field(compare=False)


class Loaders:
    """Loaders of one request; what was loaded is not asked again in it."""

    def __init__(self, context: Context) -> None:
        self._context, self._service = context, context.service
        self._recorded: dict[str, set[str]] = defaultdict(set)
        self._pages = _grouped(self._load_pages)
        self._recommendations = _grouped(self._load_recommendations)
        self._notifications = _grouped(self._load_notifications)
        self._paths = _grouped(self._load_paths)
        self._live = DataLoader[str, Any](load_fn=self._each(self._service.reads.live_users))
        self._profiles = DataLoader[str, Any](load_fn=self._each(self._service.reads.profiles))
        self._newest = DataLoader[str, dict[str, Any]](load_fn=self._load_newest)

    # --- tables ------------------------------------------------------------------------------------------------------

    def page(self, question: Ask, column: str, value: str) -> Awaitable[Page]:
        """The first page of a question for one value of a column."""
        group = _Group(question.digest(), question.limit, question.version, column, question)
        return self._pages.load((group, value))

    async def _load_pages(self, group: _Group, values: Sequence[str]) -> dict[str, Page]:
        about_users = group.column in group.question.table.personal
        caller = self._context.caller
        found = await self._service.pages(caller, group.question, group.column, values, recorded=not about_users)
        if about_users:
            self.record("user activity", [value for value, page in found.items() if page.rows.num_rows])
        return found

    async def newest(self, kind: str) -> dict[str, dict[str, Any]]:
        """The newest of every ``service`` or ``host``, by name."""
        found: dict[str, dict[str, Any]] = await self._newest.load(kind)
        return found

    async def _load_newest(self, kinds: Sequence[str]) -> list[dict[str, dict[str, Any]] | BaseException]:
        asked = {"service": measures.newest_of_services, "host": measures.newest_of_hosts}
        found: list[dict[str, dict[str, Any]] | BaseException] = []
        for kind in kinds:
            try:
                rows, _ = await asked[kind](self._service, self._context.caller)
            except Problem as problem:
                found.append(problem)
            else:
                found.append({row[kind]: row for row in formats.objects(rows)})
        return found

    def paths(self, name: str, minutes: int, limit: int) -> Awaitable[list[dict[str, Any]]]:
        """A service's slowest paths."""
        return self._paths.load(((minutes, limit), name))

    async def _load_paths(self, asked: tuple[int, int], names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        rows, _ = await measures.slowest_paths(self._service, self._context.caller, names, *asked)
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for row in formats.objects(rows):
            found[row["service_name"]].append(row)
        return found

    # --- users -------------------------------------------------------------------------------------------------------

    def recommendations(self, user: str, limit: int) -> Awaitable[dict[str, Any]]:
        """What a user should see next."""
        return self._recommendations.load((limit, user))

    async def _load_recommendations(self, limit: int, users: Sequence[str]) -> dict[str, dict[str, Any]]:
        found = await self._context.platform.recommend.of_users(users, limit)
        self.record("recommendations", users)
        return found

    def notifications(self, user: str, limit: int) -> Awaitable[list[dict[str, Any]]]:
        """A user's newest notifications."""
        return self._notifications.load((limit, user))

    async def _load_notifications(self, limit: int, users: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        if len(users) == 1:
            return {users[0]: await self._service.reads.notifications(users[0], None, limit)}
        return await self._service.reads.newest_notifications(users, limit)

    def live(self, user: str) -> Awaitable[Any]:
        """What a user does now."""
        return self._live.load(user)

    def profile(self, user: str) -> Awaitable[Any]:
        """What is known of a user."""
        return self._profiles.load(user)

    def _each(
        self, ask: Callable[[Sequence[str]], Awaitable[dict[str, Any]]]
    ) -> Callable[[list[str]], Awaitable[list[Any]]]:
        async def load(users: list[str]) -> list[Any]:
            found = await ask(users)
            self.record("user activity", list(found))
            return [found.get(user) for user in users]

        return load

    def record(self, resource: str, users: Sequence[str]) -> None:
        """Keep that somebody's data were read, once in a request."""
        new = set(users) - self._recorded[resource]
        if new:
            self._recorded[resource] |= new
            self._service.record(self._context.caller, resource, ("user_id",), len(new), None)


def _grouped(
    ask: Callable[[Asked, Sequence[str]], Awaitable[dict[str, Found]]],
) -> DataLoader[tuple[Asked, str], Found]:
    """A loader of (what is asked, of whom): one question for all that ask the same."""

    async def load(keys: list[tuple[Asked, str]]) -> list[Found | BaseException]:
        groups: dict[Asked, list[str]] = defaultdict(list)
        for asked, name in keys:
            groups[asked].append(name)
        found: dict[tuple[Asked, str], Found | BaseException] = {}
        for asked, names in groups.items():
            try:
                of_each: dict[str, Found] = await ask(asked, names)
            except Problem as problem:
                found |= {(asked, name): problem for name in names}
            else:
                found |= {(asked, name): of_each[name] for name in names}
        return [found[key] for key in keys]

    return DataLoader[tuple[Asked, str], Found](load_fn=load)
