"""Who may do what: bearer tokens (JWT, RFC 7519) that carry scopes, ours (HS256) and those of an identity provider."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Asked

from lakehouse.settings import Api
from serving import jwks
from serving.keys import AuthError, Keys, keys, read
from serving.problems import Problem

__all__ = ["SCOPES", "AuthError", "Authentication", "Caller", "Keys", "Scope", "Tokens", "caller", "issue", "keys"]

Scope = Literal[
    "write:events", "read:tables", "read:metrics", "read:users", "read:pii", "read:logs", "predict", "admin"
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ISSUER = AUDIENCE = "lakehouse"
ALGORITHM = "HS256"
CLOCKS_DIFFER_S = 5
"""How far the clocks of the machines that issue and check tokens may be apart."""
LARGEST = 8 * 1024
"""Characters of a token."""
LONGEST_NAME = 300
"""Characters of a subject, or of a user's id."""
KNOWN_S = 5.0
"""For how long a token that was found valid is not checked again; a check takes 60 to 130 us."""
MOST_KNOWN = 4096
LOOK_S = 1.0
"""How often the file of the local keys is looked at."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch  # RFC 6750, 2.1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Caller:
    """Whom a valid token names, and what they may do.

    ``subject`` of a provider's token is ``<issuer>#<sub>``, so that it is never one of ours. ``user_id`` makes it a
    user's token, which sees that user's rows alone.
    """

    subject: str
    scopes: frozenset[str]
    user_id: str | None = None
    expires: float | None = field(default=None, compare=False, repr=False)
    """When the token does, in seconds since 1970: for answers that outlast a request."""

    def require(self, scope: Scope) -> Caller:
        """The caller itself.

        Raises:
            Problem: 403 without the scope.
        """
        if scope not in self.scopes:
            challenge = f'Bearer realm="lakehouse", error="insufficient_scope", scope="{scope}"'
            detail = f"The token lacks the scope {scope}."
            raise Problem(403, "insufficient-scope", detail, {"WWW-Authenticate": challenge})
        return self


def issue(keys: Keys, subject: str, scopes: list[str], ttl: timedelta, user_id: str | None = None) -> str:
    """A token for a subject, valid from now for ``ttl``; with ``user_id``, that user's.

    Raises:
        AuthError: a scope that does not exist, or a name that is empty or too long.
    """
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise AuthError(f"no scope {unknown[0]}: there are {', '.join(SCOPES)}")
    for what, name in (("subject", subject), ("user", user_id)):
        if name is not None and not _is_name(name):
            raise AuthError(f"a {what} has 1 to {LONGEST_NAME} characters, none of them invisible")
    kid, secret = next(iter(keys.secrets.items()))
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + ttl,
        "scope": " ".join(scopes),  # RFC 8693, 4.2
    }
    if user_id is not None:
        claims["user_id"] = user_id
    return jwt.encode(claims, secret, ALGORITHM, headers={"kid": kid})


def verify(keys: Keys, token: str) -> Caller:
    """Whom one of our own tokens names.

    Raises:
        Problem: 401, with the reason: malformed, of an unknown key, altered, expired, or lacking a claim.
    """
    kid, algorithm = _header(token)
    if algorithm != ALGORITHM:
        raise _invalid("it is not signed with an algorithm that is taken here")
    return _ours(keys, kid, token)[0]


def _header(token: str) -> tuple[str, str]:
    """The id of the key and the algorithm that a token claims."""
    if len(token) > LARGEST:
        raise _invalid(f"it has over {LARGEST:,} characters")
    if not _TOKEN(token):
        raise _invalid("it is not a token")
    try:
        header = jwt.get_unverified_header(token)
    except jwt.PyJWTError as error:
        raise _invalid(str(error)) from None
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(kid, str) or not isinstance(algorithm, str):
        raise _invalid("it does not say which key signed it, and how")
    return kid, algorithm


def _ours(keys: Keys, kid: str, token: str) -> tuple[Caller, float]:
    secret = keys.secrets.get(kid)
    if secret is None:
        raise _invalid("it is signed with a key that is not known here")
    claims = _claims(token, secret, ALGORITHM, ISSUER, AUDIENCE)
    if not isinstance(claims.get("scope"), str):
        raise _invalid("scope is not a string")
    expires = float(claims["exp"])
    return Caller(_subject(claims), frozenset(claims["scope"].split()), _user(claims, "user_id"), expires), expires


def _theirs(api: Api, key: jwt.PyJWK, algorithm: str, token: str) -> tuple[Caller, float]:
    """As :func:`_ours`, by the claims that the settings name."""
    claims = _claims(token, key, algorithm, str(api.issuer), str(api.audience))
    scopes = claims.get(api.scope_claim)
    words = scopes.split() if isinstance(scopes, str) else scopes
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise _invalid(f"{api.scope_claim} is neither a string nor an array of strings")
    expires = float(claims["exp"])
    caller = Caller(f"{api.issuer}#{_subject(claims)}", frozenset(words), _user(claims, api.user_claim), expires)
    return caller, expires


def _claims(token: str, key: str | jwt.PyJWK, algorithm: str, issuer: str, audience: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=issuer,
            audience=audience,
            leeway=CLOCKS_DIFFER_S,
            options={"require": ["exp", "iat", "sub"]},
        )
    except jwt.PyJWTError as error:
        raise _invalid(str(error)) from None
    except Exception as error:  # whatever a token is made of, it is no fault of ours
        _log.info("a token could not be read: %s", type(error).__name__)
        raise _invalid("it cannot be read") from None


def _subject(claims: dict[str, Any]) -> str:
    if not _is_name(subject := claims["sub"]):
        raise _invalid("sub is no name")
    return str(subject)


def _user(claims: dict[str, Any], claim: str) -> str | None:
    """A claim that is there but names nobody is not taken for none: that would open everybody's rows."""
    if claim not in claims:
        return None
    if not _is_name(claims[claim]):
        raise _invalid(f"{claim} is no name")
    return str(claims[claim])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= LONGEST_NAME and value.isprintable() and bool(value.strip())


def _invalid(reason: str) -> Problem:
    return _unauthorised(f"The token is not valid: {reason.rstrip('.')}.", 'error="invalid_token"')


def _unauthorised(detail: str, *parameters: str) -> Problem:
    challenge = ", ".join(['Bearer realm="lakehouse"', *parameters])  # RFC 6750, 3
    return Problem(401, "unauthorised", detail, {"WWW-Authenticate": challenge})


class Tokens:
    """Checks tokens. Local keys that are rotated or retired are seen within a second, a known token within five.

    Args:
        keys: of our own tokens.
        api: whose claims a provider's tokens have.
        provider: its keys; by default those of ``api.jwks_url``, if there are any.
        clock: seconds, never running backwards.
    """

    def __init__(
        self,
        keys: Keys,
        api: Api | None = None,
        provider: jwks.Provider | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys, self._api, self._clock = keys, api or Api(), clock
        if provider is None and self._api.jwks_url is not None:
            provider = jwks.Provider(jwks.fetcher(self._api.jwks_url), clock)
        self._provider = provider
        self._known: dict[bytes, tuple[Caller, float]] = {}
        self._looked = clock()
        self._seen = _state(keys.path)

    async def of(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
        """The caller that a request's headers name, None where they name nobody.

        Raises:
            Problem: as :meth:`check`.
        """
        given = {value.decode("latin-1") for name, value in headers if name == b"authorization"}
        if len(given) > 1:
            raise _invalid("there are several")
        scheme, _, token = "".join(given).strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        return await self.check(token.strip())

    async def check(self, token: str) -> Caller:
        """Whom a token names.

        Raises:
            Problem: 401, with the reason; 503 where the keys of an identity provider are needed and cannot be had.
        """
        now = self._clock()
        self._look(now)
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        caller, expires = await self._checked(token)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[digest] = caller, now + min(KNOWN_S, expires - time.time())
        return caller

    async def _checked(self, token: str) -> tuple[Caller, float]:
        # The kind of signature says whose token it is: a provider's public key never serves as a shared secret.
        kid, algorithm = _header(token)
        if algorithm == ALGORITHM:
            return _ours(self._keys, kid, token)
        if self._provider is None or algorithm not in jwks.ALGORITHMS:
            raise _invalid("it is not signed with an algorithm that is taken here")
        key = await self._provider.key(kid, algorithm)
        if key is None:
            raise _invalid("it is signed with a key that is not known here")
        return _theirs(self._api, key, algorithm, token)

    def _look(self, now: float) -> None:
        if self._keys.path is None or now - self._looked < LOOK_S:
            return
        self._looked = now
        if (state := _state(self._keys.path)) == self._seen or state is None:
            return
        self._seen = state
        try:
            self._keys = read(self._keys.path)
        except AuthError as error:
            _log.error("the keys before go on: %s", error)
            return
        self._known.clear()
        _log.info("keys of tokens are now %s", ", ".join(self._keys.secrets))


def _state(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_mtime_ns, found.st_ino)


class Authentication:
    """Finds out who asks, once, before anything else needs to know: ``state["caller"]``.

    That is a :class:`Caller`, None without a token, or the :class:`Problem` that a route which needs one answers with.
    """

    def __init__(self, app: ASGIApp, tokens: Tokens) -> None:
        self.app, self.tokens = app, tokens

    async def __call__(self, scope: Asked, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in ("http", "websocket"):
            found: Caller | Problem | None
            try:
                found = await self.tokens.of(scope["headers"])
            except Problem as problem:
                found = problem
            scope.setdefault("state", {})["caller"] = found
        await self.app(scope, receive, send)


def known(found: Caller | Problem | None) -> Caller:
    """The caller of a request that needs one, from ``state["caller"]``.

    Raises:
        Problem: 401 without a valid token.
    """
    if isinstance(found, Problem):
        raise found
    if found is None:
        raise _unauthorised("A bearer token is needed: `lakehouse token --scope ...` prints one.")
    return found


_bearer = HTTPBearer(auto_error=False, description="`lakehouse token --scope ...` prints one.")


def anyone(keys: Keys) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets callers with a valid token pass; it is resolved before the body is read.

    ``keys`` are for an application without :class:`Authentication`.

    Raises:
        Problem: 401 without a valid token.
    """
    tokens = Tokens(keys)

    async def allowed(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
        state = request.scope.get("state", {})
        return known(state["caller"] if "caller" in state else await tokens.of(request.scope["headers"]))

    return allowed


def caller(keys: Keys, scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """As :func:`anyone`, for callers with a scope.

    Raises:
        Problem: 401 without a valid token, 403 without the scope.
    """
    valid = anyone(keys)

    async def allowed(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
        return (await valid(request, _)).require(scope)

    return allowed
