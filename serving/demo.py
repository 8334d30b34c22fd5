"""What ``lakehouse demo`` asks the API, over HTTP like anybody."""

from __future__ import annotations

import time
from datetime import timedelta

import httpx2

from lakehouse.settings import Settings
from serving.auth import issue, keys

SCOPES = ["read:metrics", "read:tables", "read:users", "read:logs", "predict"]


def asked(settings: Settings) -> str:
    """A few questions with the time each took; every answer is there or it is said that it is not."""
    url = f"http://{settings.api.host}:{settings.api.port}"
    token = issue(keys(settings), "demo", SCOPES, timedelta(minutes=5))
    lines = [f"The API, at {url}"]
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        services = client.get("/v1/services").json()
        name = services["data"][0]["service"] if services.get("data") else "gateway"
        posts = client.get("/v1/posts/trending?limit=3").json().get("data") or [{"post_id": "none"}]
        history = {"history": [post["post_id"] for post in posts], "n": 3}
        for method, path, body in (
            ("GET", f"/v1/services/{name}/health?limit=60", None),
            ("GET", "/v1/activity?limit=100", None),
            ("GET", "/v1/anomalies?limit=20", None),
            ("GET", "/v1/logs/search?level=error&limit=20", None),
            ("POST", "/v1/predictions/recommender", history),
        ):
            first = _ms(client, method, path, body)
            again = _ms(client, method, path, body)
            lines.append(f"  {method:<4} {path:<40} {first}, again {again}")
    return "\n".join(lines)


def _ms(client: httpx2.Client, method: str, path: str, body: object) -> str:
    began = time.perf_counter()
    answer = client.request(method, path, json=body)
    took = 1000 * (time.perf_counter() - began)
    found = answer.json()
    rows = found.get("data") or found.get("items") or []
    return f"{answer.status_code}, {len(rows)} rows in {took:.0f} ms"
