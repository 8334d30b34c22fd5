"""What ``bench serve`` holds our API against: a plain FastAPI endpoint that answers the same without any caching."""

from __future__ import annotations

import os
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from lakehouse.query import rows
from lakehouse.settings import load

app = FastAPI()
settings = load()


@app.get("/v1/services/{name}/health")
def health(name: str, limit: int = 100) -> dict[str, Any]:
    """The newest minutes of a service: delta-rs opens the table, DuckDB answers, FastAPI writes JSON."""
    sql = f"select * from gold.service_health_minute where service = ? order by window_start desc limit {limit:d}"
    return {"data": rows(settings, sql, [name]), "next": None, "version": None}


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[2])})
    uvicorn.run(app, port=int(sys.argv[1]), access_log=False, log_level="warning")
