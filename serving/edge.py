"""What every request passes before a route, in order.

1. :class:`serving.problems.RequestIds`: names it, logs it, answers 500 for what nobody caught.
2. :class:`serving.headers.SecurityHeaders`: on every answer, those of what follows too.
3. :class:`serving.headers.Hosts`: 421 for another name.
4. CORS, where ``api.cors_origins`` names origins; before the token is looked at, as a browser asks beforehand without.
5. :class:`serving.limits.Room`: 503 where too many are under way.
6. :class:`serving.limits.Deadlines`: 503 for what takes too long.
7. :class:`serving.auth.Authentication`: finds out who asks.
8. :class:`serving.rates.RateLimits`: 429 for who asks too often, by whom they are.
9. :class:`serving.limits.Bodies`: 413.
10. :class:`serving.access.Asked`: notes what the access log will say of it.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from lakehouse.settings import Settings
from serving import listen, problems
from serving.access import Asked
from serving.auth import Authentication, Tokens
from serving.headers import Hosts, SecurityHeaders
from serving.limits import Bodies, Deadlines, Room
from serving.rates import RateLimits, Turns

ASKS = ("Authorization", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Request-Id")
"""Headers that pages of other origins may send."""
TOLD = (
    "ETag", "Idempotency-Replayed", "Lakehouse-Data-Age", "Lakehouse-Table-Version", "Link", "RateLimit",
    "RateLimit-Policy", "Retry-After", "X-Request-Id",
)  # fmt: skip
"""Headers that they may read."""


def install(app: FastAPI, settings: Settings, tokens: Tokens, turns: Turns) -> None:
    """Put all of it around an application; what is added later comes before it."""
    api = settings.api
    app.add_middleware(Asked)
    app.add_middleware(Bodies, most=api.max_body)
    app.add_middleware(RateLimits, turns=turns, rates=api.rate)
    app.add_middleware(Authentication, tokens=tokens)
    app.add_middleware(Deadlines, begins=api.request_timeout, ends=api.answer_timeout)
    app.add_middleware(Room, most=api.max_requests)
    if api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=api.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=ASKS,
            expose_headers=TOLD,
        )
    if (names := listen.names(settings)) is not None:
        app.add_middleware(Hosts, names=names)
    app.add_middleware(SecurityHeaders)
    problems.install(app)
