from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any, cast

import pytest
from pydantic import SecretStr
from pyspark.sql.types import StructType

from lakehouse.settings import Elasticsearch, Mongo, Settings
from lakehouse.sources.analysis import INDICES, StoreError, register

AWAY = Settings(
    mongo=Mongo(uri=SecretStr("mongodb://me:hidden@127.0.0.1:1/?authSource=hidden")),
    elasticsearch=Elasticsearch(url=SecretStr("http://me:hidden@127.0.0.1:1")),
)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mongodb.user_profiles", "MongoDB at mongodb://127.0.0.1:1/"),
        ("elasticsearch.logs_service", "Elasticsearch at http://127.0.0.1:1"),
    ],
)
def test_a_store_that_is_away_is_one_line_that_names_it(name: str, place: str) -> None:
    with pytest.raises(StoreError) as caught:
        register(cast(Any, None), AWAY, [name])
    assert str(caught.value).startswith(f"{place} cannot be read (")
    assert "`lakehouse up`" in str(caught.value)
    assert "hidden" not in str(caught.value) and "\n" not in str(caught.value)


class Empty(BaseHTTPRequestHandler):
    """An Elasticsearch without indices."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.end_headers()


def test_an_index_that_is_not_there_yet_is_named() -> None:
    with HTTPServer(("127.0.0.1", 0), Empty) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        there = Settings(elasticsearch=Elasticsearch(url=SecretStr(f"http://127.0.0.1:{server.server_port}")))
        with pytest.raises(StoreError, match="Elasticsearch has no index logs-live yet"):
            register(cast(Any, None), there, ["elasticsearch.logs_live"])
        server.shutdown()


def test_only_what_elasticsearch_holds_can_be_searched() -> None:
    with pytest.raises(StoreError, match=r"mongodb\.user_profiles cannot be searched"):
        register(cast(Any, None), AWAY, [], {"mongodb.user_profiles": "x"})


def test_structs_have_their_fields_in_the_order_of_elasticsearch() -> None:
    error = INDICES["logs-service"]["error"].dataType
    assert isinstance(error, StructType) and error.names == ["code", "id", "message", "stack_trace", "type"]
