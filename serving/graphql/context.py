"""What a field of one request has: who asks, what can be asked, and what was loaded already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from serving.auth import Caller, Scope
from serving.graphql.live import Source
from serving.predictions import Predictions
from serving.problems import Problem
from serving.recommend import Recommendations
from serving.service import Service

if TYPE_CHECKING:
    from serving.graphql.loaders import Loaders

Made = TypeVar("Made")


@dataclass(frozen=True)
class Platform:
    """What every request asks."""

    service: Service
    recommend: Recommendations
    predictions: Predictions
    source: Source


@dataclass
class Context:
    """One request: of a subscription, one of its events."""

    platform: Platform
    caller: Caller
    _asked: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def once(self, nodes: Any, make: Callable[[], Made]) -> Made:
        """What a field asks: the same for all of its parents, as its arguments are."""
        if id(nodes) not in self._asked:
            self._asked[id(nodes)] = nodes, make()  # the nodes are kept, so that the id stays theirs
        made: Made = self._asked[id(nodes)][1]
        return made

    @property
    def service(self) -> Service:
        """Tables and stores."""
        return self.platform.service

    @cached_property
    def loaders(self) -> Loaders:
        """What asks for many at once."""
        from serving.graphql.loaders import Loaders

        return Loaders(self)

    def need(self, scope: Scope) -> None:
        """Let a caller with a scope pass.

        Raises:
            Problem: 403 without it.
        """
        if scope not in self.caller.scopes:
            raise Problem(403, "insufficient-scope", f"The token lacks the scope {scope}.", scope=scope)
