"""``fingerprint``: a digest of fields (Logstash Reference 8, "Fingerprint filter plugin")."""

from __future__ import annotations

import base64
import hashlib
import hmac
import uuid
from collections.abc import Callable
from typing import Literal

from lakehouse.collect.event import MISSING, Event, delivered, get, put, reference, text
from lakehouse.collect.options import FilterOptions, Listed
from lakehouse.collect.plugins import Plugin, options


class FingerprintOptions(FilterOptions):
    """The digest of ``source`` goes to ``target``; with ``key`` it is an HMAC."""

    source: Listed = ["message"]
    target: str = "fingerprint"
    method: Literal["SHA1", "SHA256", "SHA384", "SHA512", "MD5", "UUID"] = "SHA1"
    concatenate_sources: bool = False
    concatenate_all_fields: bool = False
    key: str | None = None
    base64encode: bool = False
    ecs_compatibility: Literal["disabled"] = "disabled"


def fingerprint(plugin: Plugin) -> tuple[FilterOptions, Callable[[Event], bool | None]]:
    """Of several sources without ``concatenate_sources`` the last one that is there counts, as in Logstash."""
    chosen = options(plugin, FingerprintOptions)
    target = reference(chosen.target)
    sources = [(name, reference(name)) for name in sorted(chosen.source)]
    key = chosen.key.encode() if chosen.key else None
    algorithm = chosen.method.lower()

    def digest(data: bytes) -> str:
        made = hmac.new(key, data, algorithm) if key else hashlib.new(algorithm, data)
        return base64.b64encode(made.digest()).decode() if chosen.base64encode else made.hexdigest()

    def apply(event: Event) -> bool:
        if chosen.method == "UUID":
            put(event, target, str(uuid.uuid4()))
            return True
        if chosen.concatenate_all_fields:
            put(event, target, digest(delivered(event)))
            return True
        found = [(name, get(event, path)) for name, path in sources]
        if all(value is MISSING for _, value in found):
            return False
        if chosen.concatenate_sources:
            pairs = (f"|{name}|{'' if value is MISSING else text(value)}" for name, value in found)
            put(event, target, digest("".join(pairs).encode() + b"|"))
        else:
            put(event, target, digest(text([value for _, value in found if value is not MISSING][-1]).encode()))
        return True

    return chosen, apply
