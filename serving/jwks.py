"""The public keys of an identity provider (JWKS, RFC 7517), for tokens that it signs.

PyJWT's own client does not fit: a provider that is away costs it a fetch a request and the keys that it knows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from serving.problems import Problem

ALGORITHMS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
"""Signatures that a provider's tokens may have, and the type of key of each. Never a shared secret, never none."""
FRESH_S = 300.0
"""Keys are fetched anew after this long, in the background."""
REST_S = 30.0
"""No fetch begins sooner after the one before, whatever was asked for."""
KEPT_S = 24 * 3600.0
"""For how long known keys are good while the provider is away."""
FETCH_S = 5.0
LARGEST = 256 * 1024
"""Bytes of a set."""
LARGEST_KID = 200
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}
SMALLEST_RSA = 2048
_log = logging.getLogger(__name__)

Fetch = Callable[[], bytes]


class Provider:
    """Keys by id, fetched in a thread when they are old or an unknown one is asked for.

    Args:
        fetch: returns the set as JSON, or raises; it may block.
        clock: seconds, never running backwards.
    """

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch, self._clock = fetch, clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched = self._tried = -float("inf")
        self._failure: str | None = None
        self._fetching: asyncio.Task[None] | None = None

    async def key(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """The key of an id that signs with an algorithm; None where the provider has no such key.

        Raises:
            Problem: 503, as the provider is away and the key is not known.
        """
        if len(kid) > LARGEST_KID:
            return None
        known = self._known(kid)
        if known is None or self._clock() - self._fetched >= FRESH_S:
            fetching = self._refresh()
            if known is None and fetching is not None:
                await asyncio.shield(fetching)
                known = self._known(kid)
        if known is not None:
            return known if known.algorithm_name == algorithm else None
        if self._failure is not None:
            wait = max(1, round(self._tried + REST_S - self._clock()))
            detail = "The identity provider's keys cannot be had just now, so the token cannot be checked: try again."
            raise Problem(503, "identity-provider-away", detail, {"Retry-After": str(wait)})
        return None

    def _known(self, kid: str) -> jwt.PyJWK | None:
        return self._keys.get(kid) if self._clock() - self._fetched < KEPT_S else None

    def _refresh(self) -> asyncio.Task[None] | None:
        """The fetch under way, begun now if one may begin."""
        if self._fetching is None and self._clock() - self._tried >= REST_S:
            self._tried = self._clock()
            self._fetching = asyncio.create_task(self._get())
        return self._fetching

    async def _get(self) -> None:
        try:
            self._keys = await asyncio.to_thread(lambda: public_keys(self._fetch()))
            self._fetched = self._clock()
            if self._failure is not None:
                _log.info("the identity provider answers again: %d keys", len(self._keys))
            self._failure = None
        except Exception as error:
            # The address may hold a secret; the type says enough.
            why = type(error).__name__ if isinstance(error, httpx2.HTTPError) else f"{type(error).__name__}: {error}"
            if self._failure is None:
                _log.warning("no keys of the identity provider (%s): those known go on", why[:300])
            self._failure = why
        finally:
            self._fetching = None


def public_keys(text: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a set that tokens may be checked with, by id; others in it are passed over.

    Raises:
        ValueError: not a set, or not one usable key in it.
    """
    document = orjson.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a JSON object with an array `keys`")
    found: dict[str, jwt.PyJWK] = {}
    for entry in document["keys"]:
        if isinstance(entry, dict) and (key := _usable(entry)) is not None:
            found[str(entry["kid"])] = key
    if not found:
        raise ValueError(f"no key with an id among {len(document['keys'])} is for {', '.join(ALGORITHMS)}")
    return found


def _usable(entry: dict[str, Any]) -> jwt.PyJWK | None:
    kid, kind = entry.get("kid"), entry.get("kty")
    if not isinstance(kid, str) or not 0 < len(kid) <= LARGEST_KID or entry.get("use", "sig") != "sig":
        return None
    if "verify" not in entry.get("key_ops", ["verify"]):
        return None
    try:
        # Of a private key that was published by mistake, the public part.
        key = jwt.PyJWK({name: value for name, value in entry.items() if name not in ("d", "p", "q", "dp", "dq", "qi")})
    except Exception as error:
        _log.warning("a key of the identity provider is passed over: %s", type(error).__name__)
        return None
    if ALGORITHMS.get(key.algorithm_name) != kind:  # a shared secret, another curve or hash
        return None
    if isinstance(key.key, EllipticCurvePublicKey) and key.key.curve.name != "secp256r1":
        return None
    if isinstance(key.key, RSAPublicKey) and key.key.key_size < SMALLEST_RSA:
        _log.warning("a key of the identity provider is passed over: RSA of %d bits", key.key.key_size)
        return None
    return key


def fetcher(where: str) -> Fetch:
    """Fetches a set from an ``https`` address, or reads it from a file.

    No redirect is followed: the address that was configured is the one that is trusted.
    """
    if "://" not in where:
        return lambda: Path(where).read_bytes()
    client = httpx2.Client(timeout=FETCH_S, follow_redirects=False, headers=_HEADERS)

    def fetch() -> bytes:
        ends = time.monotonic() + FETCH_S
        with client.stream("GET", where) as answer:
            answer.raise_for_status()
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > LARGEST or time.monotonic() > ends:
                    raise ValueError(f"over {LARGEST:,} bytes, or {FETCH_S:g} s")
        return bytes(body)

    return fetch
