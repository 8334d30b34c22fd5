"""Who may do what: bearer tokens (JWT, RFC 7519, signed with HS256) that carry scopes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, get_args

import jwt
from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from lakehouse.settings import Settings
from serving.problems import Problem

Scope = Literal[
    "write:events", "read:tables", "read:metrics", "read:users", "read:pii", "read:logs", "predict", "admin"
]
SCOPES: tuple[Scope, ...] = get_args(Scope)
ISSUER = AUDIENCE = "lakehouse"
ALGORITHM = "HS256"
CLOCKS_DIFFER_S = 5
"""How far the clocks of the machines that issue and check tokens may be apart."""


class AuthError(Exception):
    """No secret to sign with, or no such scope; one line that says what to do."""


@dataclass(frozen=True)
class Keys:
    """Secrets by key id (``kid``): the first signs, every one verifies, so that a key is rotated without a gap."""

    secrets: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Keys({', '.join(self.secrets)})"


@dataclass(frozen=True)
class Caller:
    """Whom a valid token names, and what they may do."""

    subject: str
    scopes: frozenset[str]
    user_id: str | None = None


def keys(settings: Settings) -> Keys:
    """The signing keys: of the environment, or with the local profile one made at random once, in ``<home>/secrets``.

    Raises:
        AuthError: another profile without ``LAKEHOUSE_API__SECRETS``, or the local file cannot be read.
    """
    if settings.api.secrets:
        return Keys({kid: secret.get_secret_value() for kid, secret in settings.api.secrets.items()})
    if settings.profile != "local":
        raise AuthError(
            f"profile {settings.profile} has no secret to sign tokens with: set LAKEHOUSE_API__SECRETS, such as "
            """LAKEHOUSE_API__SECRETS="{\\"key-1\\": \\"$(openssl rand -hex 32)\\"}\""""
        )
    return _local(settings.home / "secrets" / "api.json")


def _local(path: Path) -> Keys:
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        with open(os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({f"local-{secrets.token_hex(4)}": secrets.token_urlsafe(48)}, file)
        try:
            os.link(mine, path)  # whole or not at all, and only for the first of two that start together
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    try:
        found = {str(kid): str(secret) for kid, secret in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise AuthError(f"{path}: not a JSON object of secrets ({error}): remove it, and a new one is made") from None
    if not found or min(map(len, found.values())) < 32:
        raise AuthError(
            f"{path}: every key needs a secret of at least 32 bytes: remove the file, and a new one is made"
        )
    return Keys(found)


def issue(keys: Keys, subject: str, scopes: list[str], ttl: timedelta, user_id: str | None = None) -> str:
    """A token for a subject, valid from now for ``ttl``.

    Raises:
        AuthError: a scope that does not exist.
    """
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise AuthError(f"no scope {unknown[0]}: there are {', '.join(SCOPES)}")
    kid, secret = next(iter(keys.secrets.items()))
    now = datetime.now(UTC)
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": now,
        "exp": now + ttl,
        "scope": " ".join(scopes),  # RFC 8693, 4.2
        **({} if user_id is None else {"user_id": user_id}),
    }
    return jwt.encode(claims, secret, ALGORITHM, headers={"kid": kid})


def verify(keys: Keys, token: str) -> Caller:
    """Whom a token names.

    Raises:
        Problem: 401, with the reason: malformed, of an unknown key, altered, expired, or lacking a claim.
    """
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        secret = keys.secrets.get(kid) if isinstance(kid, str) else None
        if secret is None:
            raise jwt.InvalidTokenError("signed with a key that is not known here")
        claims = jwt.decode(
            token,
            secret,
            algorithms=[ALGORITHM],
            issuer=ISSUER,
            audience=AUDIENCE,
            leeway=CLOCKS_DIFFER_S,
            options={"require": ["exp", "iat", "sub", "scope"]},
        )
    except jwt.PyJWTError as error:
        raise _unauthorised(f"The token is not valid: {error}.", 'error="invalid_token"') from None
    return Caller(claims["sub"], frozenset(str(claims["scope"]).split()), claims.get("user_id"))


def _unauthorised(detail: str, *parameters: str) -> Problem:
    challenge = ", ".join(['Bearer realm="lakehouse"', *parameters])  # RFC 6750, 3
    return Problem(401, "unauthorised", detail, {"WWW-Authenticate": challenge})


_bearer = HTTPBearer(auto_error=False, description="`lakehouse token --scope ...` prints one.")


def anyone(keys: Keys) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets callers with a valid token pass, whatever its scopes.

    Raises:
        Problem: 401 without one.
    """

    async def allowed(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
        if given is None:
            raise _unauthorised("A bearer token is needed: `lakehouse token --scope ...` prints one.")
        return verify(keys, given.credentials)

    return allowed


def checker(keys: Keys) -> Callable[[str], Awaitable[Caller]]:
    """Whom a token names that did not come in a header; raises as :func:`verify`."""

    async def check(token: str) -> Caller:
        return verify(keys, token)

    return check


def caller(keys: Keys, scope: Scope) -> Callable[..., Awaitable[Caller]]:
    """A dependency that lets callers with a scope pass; it is resolved before the body is read.

    Raises:
        Problem: 401 without a valid token, 403 without the scope.
    """

    known = Depends(anyone(keys))

    async def allowed(found: Caller = known) -> Caller:
        if scope not in found.scopes:
            challenge = f'Bearer realm="lakehouse", error="insufficient_scope", scope="{scope}"'
            detail = f"The token lacks the scope {scope}."
            raise Problem(403, "insufficient-scope", detail, {"WWW-Authenticate": challenge})
        return found

    return allowed
