"""All that the platform holds in one ``spark.sql``: tables on HDFS, collections of MongoDB, indices of Elasticsearch.

Names are ``layer.name``, ``mongodb.<collection>`` and ``elasticsearch.<index>``, with an underscore for a dash. A store
is asked only for the columns and rows that a query needs. Delta skips files by their bounds; MongoDB takes every
comparison, those of nested fields too; the connector of Elasticsearch takes those of whole columns (``@timestamp``,
``message``, ``metric``), and where it is a nested field that matters (``service.name``), a search does the same.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from elasticsearch import Elasticsearch
from elasticsearch.exceptions import ApiError, TransportError
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from lakehouse.flows import TABLES
from lakehouse.settings import Settings
from lakehouse.sinks import elasticsearch as es
from lakehouse.sinks.logs_live import LOGS_LIVE, TEMPLATE
from lakehouse.sinks.mongo import COLLECTIONS as GOLD_COLLECTIONS
from lakehouse.sources.lake import Lake, LakeError, NoTableError
from lakehouse.tables import columns

ELASTICSEARCH = "org.elasticsearch.spark.sql"
"""The connector's name as a source."""
ANSWERS_WITHIN = 3.0
"""Seconds that a store may take to say that it is there."""
_log = logging.getLogger(__name__)


class StoreError(Exception):
    """A store does not answer, or has no such index; the message says which one and what to do."""


EXAMPLE = """
with history as (
  select user_id, count(*) as days, sum(events) as events, sum(posts) as posts
  from gold.user_activity_daily where date >= date_sub(current_date(), 30) group by user_id
), failures as (
  select date_trunc('minute', `@timestamp`) as minute, service.name as service, count(*) as failures
  from elasticsearch.logs_service
  where `@timestamp` >= now() - interval 1 day and http.response.status_code >= 500 group by all
)
select /*+ broadcast(f) */ p._id as user_id, h.days, h.events, h.posts, p.device, p.page, p.last_at, f.service,
  sum(f.failures) as failures
from mongodb.user_profiles p
join history h on h.user_id = p._id
join failures f on f.minute between date_trunc('minute', p.last_session.start) and p.last_session.end
where p.last_at >= now() - interval 1 day
group by all order by failures desc, user_id, service limit 20
"""
"""Who was there while a service failed: users by history and profile, and what failed during their last session.

Spark does not know how much a store holds: without the hint it would read the profiles once for each part of the rest.
"""


# --- shapes: nothing is sampled, so an empty store has its columns, too ----------------------------------------------


def _documents(table: str) -> T.StructType:
    """A gold row as ``MongoSink`` writes it: dates are text there."""
    fields = [
        T.StructField(f.name, T.StringType() if f.dataType == T.DateType() else f.dataType)
        for f in TABLES[table].schema
    ]
    return T.StructType([*columns("_id string").fields, *fields, *columns("version bigint").fields])


COLLECTIONS: dict[str, T.StructType] = {
    **{collection: _documents(table) for table, collection in GOLD_COLLECTIONS.items()},
    "user_profiles": columns(
        "_id string, version bigint, first_at timestamp, last_at timestamp, events bigint, late_events bigint, "
        "by_type map<string,bigint>, sessions bigint, session_s double, "
        "last_session struct<start:timestamp,end:timestamp,events:bigint>, page string, device string, "
        "recent_posts array<string>"
    ),
    "notifications": columns(
        "_id string, user_id string, rule string, severity string, kind string, subject string, at string, "
        "text string, quiet boolean, suppressed boolean"
    ),
    "recommendations": columns(
        "_id string, model_version string, at timestamp, items array<struct<rank:int,post_id:string,score:double>>"
    ),
}
"""Collection -> its columns."""

_TYPES: dict[str, T.DataType] = {
    "keyword": T.StringType(),
    "text": T.StringType(),
    "date": T.TimestampType(),
    "long": T.LongType(),
    "integer": T.IntegerType(),
    "double": T.DoubleType(),
}
_ARRAYS = ("tags",)


def _mapped(properties: Mapping[str, Any]) -> T.StructType:
    """A mapping's columns, in the order that Elasticsearch tells them: the connector fills structs by position."""
    fields = []
    for name, field in sorted(properties.items()):
        if field.get("enabled", True):  # what is not enabled has no fields that the connector could know
            kind = _mapped(field["properties"]) if "properties" in field else _TYPES[field["type"]]
            fields.append(T.StructField(name, T.ArrayType(kind) if name in _ARRAYS else kind))
    return T.StructType(fields)


def _flat(kinds: str) -> dict[str, Any]:
    return {name: {"type": kind} for name, kind in (part.split(":") for part in kinds.split())}


INDICES: dict[str, T.StructType] = {
    index: _mapped(properties)
    for index, properties in {
        "analysis-anomalies": _flat(
            "series:keyword time:date value:double expected:double score:double model_version:keyword"
        ),
        "analysis-forecasts": _flat(
            "series:keyword time:date mean:double lo:double hi:double model_version:keyword made_at:date"
        ),
        LOGS_LIVE: TEMPLATE["mappings"]["properties"] | _flat("tags:keyword"),
        **{index: properties for index, properties in es.MAPPINGS.items() if index != es.PROGRESS},
    }.items()
}
"""Index -> its columns; of ``logs-live``, which takes any field, those of the Elastic Common Schema that we know."""

NAMES: dict[str, str] = {
    **{f"mongodb.{name}": name for name in COLLECTIONS},
    **{f"elasticsearch.{name.replace('-', '_')}": name for name in INDICES},
}
"""Name in SQL -> collection or index."""
SHAPES = COLLECTIONS | INDICES


# --- readers -------------------------------------------------------------------------------------------------------


def read_table(spark: SparkSession, settings: Settings, name: str, version: int | datetime | None = None) -> DataFrame:
    """A Delta table, at a version or as it was at a time (with its zone) where one is given.

    Raises:
        LakeError: there is no such table, or that version is not, or no longer, kept.
    """
    Lake(settings).table(name)  # its errors say what to do
    reader = spark.read.format("delta")
    if isinstance(version, datetime):
        reader = reader.option("timestampAsOf", version.astimezone(UTC).isoformat())
    elif version is not None:
        reader = reader.option("versionAsOf", version)
    try:
        return reader.load(settings.table_uri(name))
    except AnalysisException as error:
        why = " ".join(str(error).partition("JVM stacktrace")[0].split())
        raise LakeError(f"{name}: not readable as of {version}: {why}") from None


def read_collection(spark: SparkSession, settings: Settings, name: str) -> DataFrame:
    """A collection of MongoDB; one that is not there yet has no rows."""
    return (
        spark.read.format("mongodb")
        .schema(COLLECTIONS[name])
        .option("connection.uri", settings.mongo.uri.get_secret_value())
        .option("database", settings.mongo.database)
        .option("collection", name)
        # Not the connector's default, which cuts by $bucketAuto: the stand-in has no such stage.
        .option("partitioner", "com.mongodb.spark.sql.connector.read.partitioner.PaginateIntoPartitionsPartitioner")
        .option("partitioner.options.max.number.of.partitions", settings.spark.shuffle_partitions)
        .load()
    )


def read_index(spark: SparkSession, settings: Settings, name: str, search: str | None = None) -> DataFrame:
    """An index of Elasticsearch; of its documents those that ``search`` finds: ``log.level:error AND message:refused``.

    Documents bear ``dimensions`` of metrics, which the connector cannot read: ``silver.system_metrics`` has them.
    """
    reader = spark.read.format(ELASTICSEARCH).schema(INDICES[name])
    return reader.options(**_elasticsearch(spark, settings, name, search)).load()


def _elasticsearch(spark: SparkSession, settings: Settings, name: str, search: str | None) -> dict[str, str]:
    """The connector's options. Spark shows them in plans, so name and password go by the context's own settings."""
    url = urlsplit(settings.elasticsearch.url.get_secret_value())
    if url.username:
        kept = spark.sparkContext._conf
        kept.set("spark.es.net.http.auth.user", unquote(url.username))
        kept.set("spark.es.net.http.auth.pass", unquote(url.password or ""))
    options = {
        "es.resource": name,
        "es.nodes": url.hostname or "",
        "es.port": str(url.port or (443 if url.scheme == "https" else 9200)),
        "es.nodes.path.prefix": url.path.rstrip("/"),
        "es.net.ssl": str(url.scheme == "https").lower(),
        "es.nodes.wan.only": "true",  # the address in the settings, not those that its nodes have for each other
        "es.read.field.include": ",".join(_leaves(INDICES[name])),
        "es.read.field.as.array.include": ",".join(_ARRAYS),
    }
    if name == LOGS_LIVE:
        # It takes documents that are malformed, of which no columns can be made: they are left out, with a warning.
        options |= {"es.read.data.error.handlers": "log", "es.read.data.error.handler.log.logger.name": LOGS_LIVE}
    if search:
        options["es.query"] = orjson.dumps(_query(search)).decode()
    return options


def _query(search: str) -> dict[str, Any]:
    return {"query": {"query_string": {"query": search}}}


def _leaves(kind: T.StructType, above: str = "") -> list[str]:
    found = []
    for field in kind:
        inner = field.dataType
        found += _leaves(inner, f"{above}{field.name}.") if isinstance(inner, T.StructType) else [above + field.name]
    return found


# --- names in SQL --------------------------------------------------------------------------------------------------


def register(
    spark: SparkSession,
    settings: Settings,
    names: Iterable[str] | None = None,
    searches: Mapping[str, str] | None = None,
) -> list[str]:
    """Make names known to ``spark.sql``, for a session of :func:`lakehouse.session.spark_session`.

    A table costs a look at its log, 0.3 s, so a query's own names are better than all there are. What is not there is
    left out, as it may be an alias and its column; an index that is named must be there.

    Args:
        spark: the session.
        settings: where everything is.
        names: the names; None stands for everything.
        searches: name of an index -> what is searched in it, see :func:`read_index`; nothing else is then seen of it.

    Returns:
        The names that can be used now.

    Raises:
        StoreError: a store does not answer, or an index that is named is not there.
        LakeError: a table cannot be read.
    """
    searches = searches or {}
    if wrong := [name for name in searches if not name.startswith("elasticsearch.") or name not in NAMES]:
        raise StoreError(f"{wrong[0]} cannot be searched: {', '.join(n for n in NAMES if n.startswith('elastic'))} can")
    wanted = [*TABLES, *NAMES] if names is None else list(names)
    there: dict[str, set[str]] = {}
    for store in {name.partition(".")[0] for name in wanted if name in NAMES}:
        try:
            there[store] = _there(settings, store, searches)
        except StoreError as error:
            if names is not None:
                raise
            _log.warning("%s", error)
    found = []
    for name in wanted:
        store, known = name.partition(".")[0], NAMES.get(name)
        if known is None:
            if not _is_table(settings, name):
                continue
            spark.sql(f"create database if not exists {store}")
            spark.sql(f"create table if not exists {name} using delta location '{settings.table_uri(name)}'")
        elif known not in there.get(store, ()):
            if names is None:
                continue
            raise StoreError(f"{name}: Elasticsearch has no index {known} yet; `lakehouse up` runs what writes it")
        elif store == "mongodb":
            # Spark's catalog takes no tables of this source, so session.py gives global views the name of a database.
            read_collection(spark, settings, known).createOrReplaceGlobalTempView(known)
        else:
            spark.sql(f"create database if not exists {store}")
            spark.sql(f"drop table if exists {name}")  # another search, perhaps
            options = _elasticsearch(spark, settings, known, searches.get(name))
            spark.catalog.createTable(name, source=ELASTICSEARCH, schema=INDICES[known], **options)
        found.append(name)
    return found


def _is_table(settings: Settings, name: str) -> bool:
    try:
        Lake(settings).table(name)
    except NoTableError:
        return False
    return True


def _there(settings: Settings, store: str, searches: Mapping[str, str]) -> set[str]:
    """What can be read of a store; StoreError where it does not answer or does not understand a search."""
    if store == "mongodb":
        address = settings.mongo.uri.get_secret_value()
        try:
            with MongoClient[Any](address, serverSelectionTimeoutMS=int(ANSWERS_WITHIN * 1000)) as mongo:
                mongo.admin.command("ping")
            return set(COLLECTIONS)
        except PyMongoError as error:
            raise _away("MongoDB", address, error) from None
    address = settings.elasticsearch.url.get_secret_value()
    try:
        with Elasticsearch(address, request_timeout=ANSWERS_WITHIN, max_retries=0) as elastic:
            there = {index for index in INDICES if elastic.indices.exists(index=index)}
            for name, search in searches.items():
                query = _query(search)["query"]
                found = elastic.indices.validate_query(
                    index=NAMES[name], query=query, explain=True, ignore_unavailable=True
                )
                if not found["valid"]:
                    why = found["explanations"][0]["error"].splitlines()[0]
                    raise StoreError(f"{name} cannot be searched for {search!r}: {why}")
            return there
    except (ApiError, TransportError) as error:
        raise _away("Elasticsearch", address, error) from None


def _away(store: str, address: str, error: Exception) -> StoreError:
    place = re.sub(r"//[^/@]*@", "//", address.partition("?")[0])
    why = str(error).splitlines()[0].partition(" (configured")[0][:150]
    return StoreError(
        f"{store} at {place} cannot be read ({why}); `lakehouse status` shows it, `lakehouse up` starts it"
    )
