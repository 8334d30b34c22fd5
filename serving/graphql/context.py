"""What a field of one request has: who asks, what can be asked, and what was loaded already."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from serving.auth import Caller, Scope
from serving.graphql.live import Source
from serving.predictions import Predictions
from serving.problems import Problem
from serving.recommend import Recommendations
from serving.service import Service

if TYPE_CHECKING:
    from serving.graphql.loaders import Loaders


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
