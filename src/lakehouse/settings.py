"""The one place that reads configuration: ``conf/base.yaml`` < ``conf/<profile>.yaml`` < environment.

Every value has a type with its unit; secrets (passwords in URIs, tokens) come from the environment only.
Environment names are ``LAKEHOUSE_`` + the path joined by ``__``: ``LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS=host:9092``.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

PROJECT = Path(os.environ.get("LAKEHOUSE_PROJECT", Path(__file__).resolve().parents[2]))
"""The checkout (or image folder) that holds ``conf/``."""


class SettingsError(Exception):
    """A setting is missing, misspelt or of the wrong type; the message names it and the file or variable to mend."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kafka(_Part):
    """Broker address and how topics are made."""

    bootstrap_servers: str = "127.0.0.1:9092"
    """host:port of one or more brokers, separated by commas."""
    partitions: int = 2
    """Of each topic that is made; one that is there keeps its own."""
    replication: int = 1
    """Copies of each topic that is made."""
    min_in_sync: int = 1
    """Copies that must have a record before it is acknowledged."""


class Hdfs(_Part):
    """Where the tables live. ``uri`` + ``root`` is the lake's ``<root>``."""

    uri: str = "hdfs://127.0.0.1:8020"
    """Address of the NameNode."""
    root: str = "/lake"
    """The folder of the tables."""
    replication: int = 1
    """Copies of each block that is written."""


class Mongo(_Part):
    """MongoDB (locally: a stand-in that speaks its protocol)."""

    uri: SecretStr = SecretStr("mongodb://127.0.0.1:27017/")
    """Its connection string; one with a password comes from the environment."""
    database: str = "lakehouse"
    """The database that holds all collections."""


class Redis(_Part):
    """Redis or Valkey."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Its address; one with a password comes from the environment."""


class Elasticsearch(_Part):
    """Elasticsearch 8."""

    url: SecretStr = SecretStr("http://127.0.0.1:9200")
    """Its address; one with a password comes from the environment."""
    logs_live_kept: timedelta = timedelta(days=1)
    """For how long ``logs-live`` keeps a document after it arrived."""


class Executors(_Part):
    """The executors of one application on a cluster; above ``least`` they come and go with the work.

    What their shuffles left is tracked, so no external shuffle service is needed.
    """

    least: int = Field(default=1, ge=0)
    """Executors that stay however little there is to do."""
    most: int = Field(default=1, ge=1)
    """Executors that are asked for at most."""
    cores: int = Field(default=1, ge=1)
    """Task slots of each."""
    memory: str = "1g"
    """Heap; Python workers and buffers come on top (``spark.executor.memoryOverhead``, a tenth and at least 384 MB)."""
    idle_after: timedelta = timedelta(minutes=1)
    """After which an executor without work is given back."""

    @model_validator(mode="after")
    def _ordered(self) -> Executors:
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) is above most ({self.most})")
        return self


class Spark(_Part):
    """The Spark session of stream and jobs."""

    master: str = "local[2]"
    """Spark's master."""
    driver_memory: str = "3g"
    """Heap of the driver's JVM, in Spark's words."""
    shuffle_partitions: int = 2
    """Tasks of a shuffle, about one a core; the fused engine folds gold in as many threads."""
    executors: Executors = Executors()
    """Of the stream; not used where the master is ``local``."""
    job_executors: Executors = Executors()
    """Of each other application: rebuild, training, scoring, SQL."""


class FlowRun(_Part):
    """How the query of one topic runs (engine ``separate``); what is not said is as in :class:`Stream`."""

    trigger: timedelta | None = None
    """How often it begins a batch, at most."""
    max_records_per_batch: int | None = Field(default=None, ge=1)
    """Records of Kafka that one batch takes, at most."""
    weight: int = Field(default=1, ge=1)
    """Its pool's share of the executors, beside the others' (Spark's fair scheduler)."""
    min_share: int = Field(default=0, ge=0)
    """Cores that its pool gets before the rest is shared."""


class Local(_Part):
    """How many servers of a kind ``up`` starts on this machine: several are a cluster; no workers, no Spark cluster."""

    brokers: int = Field(default=1, ge=1)
    """Kafka's."""
    datanodes: int = Field(default=1, ge=1)
    """HDFS's."""
    workers: int = Field(default=0, ge=0)
    """Of a Spark standalone cluster, which has a master then."""
    worker_cores: int = Field(default=2, ge=1)
    """Task slots of a worker, not processors."""
    worker_memory: str = "3g"
    """Of which a worker gives its executors theirs."""


Store = Literal["mongodb", "redis", "elasticsearch"]


class Stream(_Part):
    """How the streaming queries run."""

    engine: Literal["fused", "separate"] = "fused"
    """One query of all topics, on one machine; or one a topic, on a cluster."""
    trigger: timedelta = timedelta(milliseconds=500)
    """How often a query of the tables begins a batch, at most."""
    flows: dict[str, FlowRun] = Field(default_factory=dict)
    """By topic, what differs from the values here."""
    cut_every: timedelta = timedelta(seconds=1)
    """How often the fused engine brings gold and the ledger up to silver, at most."""
    fanout_trigger: timedelta = timedelta(seconds=20)
    """How often a store is brought up to the tables."""
    max_records_per_batch: int = 100_000
    """Records of Kafka that one batch takes, at most."""
    stores: tuple[Store, ...] = ("mongodb", "redis", "elasticsearch")
    """Those that the tables are mirrored to; without those that are ``off``."""
    detect: bool = True
    """Whether the stream looks for anomalies in gold's minutes."""
    duplicate_horizon: timedelta = timedelta(days=7)
    """For how long, of append time, an accepted identity is known; where a contract says longer, that."""
    restarts: int = 5
    """Failures in a row after which the stream ends instead of starting again."""
    stall_after: timedelta = timedelta(minutes=2)
    """A query that makes no progress for so long while records wait has failed."""
    compact_every: timedelta = timedelta(seconds=60)
    """How often small files are looked for."""
    compact_above_files: int = 100
    """Files of a table from which they are merged."""
    time_travel: timedelta = timedelta(days=1)
    """For how long an older version of a table can be read: replaced files and log entries stay as long."""
    follower_kept: timedelta = timedelta(days=7)
    """For how long files and log entries stay that a query has not read yet which stands still: a store's, or the
    detector's. After that, ``lakehouse rebuild --store`` fills what it has missed."""
    expire: bool = False
    """Whether ``lakehouse maintain`` deletes the records that are older than their contract's ``retention``."""

    def flow(self, topic: str) -> FlowRun:
        """How a topic's own query runs, with nothing left unsaid."""
        usual = {"trigger": self.trigger, "max_records_per_batch": self.max_records_per_batch}
        own = self.flows.get(topic, FlowRun())
        return own.model_copy(update={name: value for name, value in usual.items() if getattr(own, name) is None})


class Collect(_Part):
    """The collector of logs, and what is shipped to it."""

    pipeline: Path = PROJECT / "conf" / "logstash" / "service-logs.conf"
    """The pipeline file, in Logstash's language."""
    beats: str = "127.0.0.1:5044"
    """host:port of its ``beats`` input, for shippers; its other inputs have these ports of the same machine."""
    tcp_port: int = 5045
    """JSON objects, one a line."""
    http_port: int = 5046
    """JSON by POST, else text."""
    syslog_port: int = 5514
    """Syslog over UDP."""
    logs: Path | None = None
    """The folder whose logs a shipper follows unless it is told others; see :attr:`Settings.service_logs`."""

    @field_validator("beats")
    @classmethod
    def _address(cls, beats: str) -> str:
        host, _, port = beats.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("give host:port, such as 127.0.0.1:5044")
        return beats


class Rate(_Part):
    """How many requests one caller may make: ``per_minute``, evenly, and ``burst`` at once; 0 a minute: no limit."""

    per_minute: int = Field(default=12_000, ge=0, le=10_000_000)
    """Requests a minute, evenly; 0: no limit."""
    burst: int = Field(default=1_000, ge=1, le=1_000_000)
    """Requests at once."""


class Rates(_Part):
    """Limits by what is asked for; each caller has one of each kind."""

    read: Rate = Rate()
    """Whatever reads."""
    write: Rate = Rate()
    """``POST /v1/events``."""
    predict: Rate = Rate(per_minute=3_000, burst=300)
    """``POST /v1/predictions/...``."""
    anonymous: Rate = Rate(per_minute=600, burst=200)
    """Requests without a valid token, by address of the client."""


class Api(_Part):
    """The HTTP API: where it listens, whose tokens it takes, and how much it takes on."""

    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs a secret and TLS or a proxy."""
    port: int = 8000
    """Port to listen on."""
    secrets: dict[str, SecretStr] = Field(default_factory=dict)
    """Id of a key -> its secret, at least 32 bytes: the first signs new tokens, all are valid. Environment only."""
    delivery_timeout: timedelta = timedelta(seconds=10)
    """How long a request waits for the broker's acknowledgement before it is answered with 503."""
    streams: int = Field(default=500, ge=1)
    """Most open streams (``/v1/stream``) of a process."""
    streams_per_caller: int = Field(default=10, ge=1)
    """Most of them of one subject, or of one user of an application's tokens."""
    stream_kept: int = Field(default=5_000, ge=1)
    """Newest notifications of each partition from which a stream can be resumed without a gap."""
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    """A bearer token for ``/metrics``, for a Prometheus on another machine. Environment only."""
    queries: int = 4
    """Queries of the lake that run at the same time; others wait."""
    query_timeout: timedelta = timedelta(seconds=10)
    """After which a query of the lake is given up."""
    introspection: bool = False
    """Whether any token may ask GraphQL for its schema; with the profile ``local`` it always may."""
    jwks_url: str | None = None
    """The keys of an identity provider whose tokens are taken too: ``https://...``, or the path of a file."""
    issuer: str | None = None
    """``iss`` of the provider's tokens."""
    audience: str | None = None
    """``aud`` of the provider's tokens that are meant for this API."""
    scope_claim: str = "scope"
    """The claim of the provider's tokens that lists scopes: words in a string, or an array of strings."""
    user_claim: str = "user_id"
    """The claim of the provider's tokens that makes one a user's: it sees that user's rows alone."""
    hosts: tuple[str, ...] | None = None
    """Names by which clients may call the API (``Host``); None: this machine's loopback names with the profile
    ``local``, any with others."""
    cors_origins: tuple[str, ...] = ()
    """Origins of pages that may use the API from a browser, such as ``https://app.example.org``; none by default."""
    tls_certificate: Path | None = None
    """PEM file of the certificate and its chain; with it, the API speaks TLS alone."""
    tls_key: Path | None = None
    """PEM file of its key, if it is not in the same file."""
    behind_proxy: bool = False
    """Whether every request comes through a reverse proxy that ends TLS."""
    proxies: tuple[str, ...] = ("127.0.0.1", "::1")
    """Addresses or networks of such proxies: what they forward of the client's address and scheme is believed."""
    rate: Rates = Rates()
    max_body: int = Field(default=1024 * 1024, ge=1)
    """Largest body of a request in bytes; ``POST /v1/events`` has its own limit."""
    max_requests: int = Field(default=256, ge=1)
    """Most requests under way; an event stream that has begun is not one of them."""
    max_connections: int = Field(default=2_000, ge=1)
    """Most open connections."""
    request_timeout: timedelta = timedelta(seconds=60)
    """How long a request may take, its body's arrival included, until its answer begins."""
    answer_timeout: timedelta = timedelta(minutes=10)
    """How long an answer may take to be sent; an event stream may take for ever."""
    access_every: timedelta = timedelta(seconds=30)
    """How long an entry of the access log waits for others before it is written to ``ops.access_log``."""
    access_entries: int = Field(default=5_000, ge=1)
    """Entries of the access log that are not waited with."""
    access_spool: int = Field(default=64 * 1024 * 1024, ge=1024)
    """Bytes of entries not yet in ``ops.access_log`` from which personal data are no longer served."""

    @field_validator("cors_origins")
    @classmethod
    def _exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not re.fullmatch(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?", origin):
                raise ValueError(f"{origin!r} is no origin: give scheme://host or scheme://host:port, in small letters")
        return origins

    @model_validator(mode="after")
    def _whole(self) -> Api:
        if self.jwks_url is not None:
            if not self.issuer or not self.audience:
                raise ValueError("jwks_url needs issuer and audience, which its tokens are checked against")
            if self.issuer == "lakehouse":
                raise ValueError("issuer: lakehouse issues our own tokens; a provider has another name")
            url = urlsplit(self.jwks_url)
            if url.scheme == "http" and url.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise ValueError("jwks_url: who can change an answer over http can make tokens; give an https URL")
            if "://" in self.jwks_url and url.scheme not in ("http", "https"):
                raise ValueError("jwks_url: give an https URL or the path of a file")
        if self.tls_key is not None and self.tls_certificate is None:
            raise ValueError("tls_key needs tls_certificate")
        return self

    @field_validator("secrets")
    @classmethod
    def _long_enough(cls, secrets: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for kid, secret in secrets.items():
            if len(secret.get_secret_value().encode()) < 32:  # RFC 7518, 3.2: a key as long as the hash
                raise ValueError(
                    f"the secret of key {kid!r} is shorter than 32 bytes: `openssl rand -hex 32` makes one"
                )
        return secrets


Part = Literal["activity", "trending", "recommendations", "notifications"]


class Realtime(_Part):
    """The real-time processor."""

    parts: tuple[Part, ...] = ("activity", "trending", "recommendations", "notifications")
    """What it does."""
    prefix: str = ""
    """Put before the names of all its topics and groups: for trials beside the platform's own."""
    lateness: timedelta = timedelta(seconds=30)
    """How far behind its partition's time an event may be and still count in windows and sessions."""
    session_gap: timedelta = timedelta(minutes=30)
    """Inactivity that ends a session."""
    funnel: tuple[tuple[str, ...], ...] = (
        ("visit",), ("view",), ("like", "comment", "share", "bookmark"), ("follow", "post"),
    )  # fmt: skip
    """Steps of a session, each a set of event types."""
    duplicate_horizon: timedelta = timedelta(hours=1)
    """For how long, of append time, an identity is known to be a duplicate: about 100 bytes of memory each."""
    idle_after: timedelta = timedelta(seconds=5)
    """How long a partition may be silent before its time goes on without it."""
    commit_every: timedelta = timedelta(seconds=1)
    """How often state and positions are committed; what came since is done again after a crash."""
    live_ttl: timedelta = timedelta(hours=1)
    """How long ``live:*`` and ``trending:posts`` stay after their last change."""
    features_ttl: timedelta = timedelta(days=1)
    """How long ``features:*``, ``recs:*`` and ``live:notifications:*`` stay after their last change."""
    routes: dict[str, SecretStr] = Field(default_factory=dict)
    """Route of conf/alerts.yaml -> its address, in the words of Apprise. Environment only."""


class Mlflow(_Part):
    """The MLflow tracking server and registry."""

    uri: str | None = None
    """Where it is, if it is not ours: as ``MLFLOW_TRACKING_URI``; a password in it comes from the environment."""
    host: str = "127.0.0.1"
    """Where ours listens."""
    port: int = 5000
    """Port of ours."""


class Text(_Part):
    """The analysis of texts."""

    sentiment_pipeline: str | None = None
    """Path or URI of a saved pipeline that reads ``text``, such as a pretrained one; ours if None."""
    sentiment_column: str = "sentiment"
    """The column it writes: strings, or annotations of Spark NLP."""


class Report(_Part):
    """Reports of days."""

    chromium: Path | None = None
    """The Chromium that prints PDFs; the first that is found if None."""
    made_anew: timedelta = timedelta(minutes=10)
    """How old the report of a day may get that is not over, or only just."""
    final_after: timedelta = timedelta(hours=2)
    """How long after its day a report is made that stays: what is late, and the analysis of texts, are in by then."""


Component = Literal["collect", "ship", "realtime", "alerts", "schedule", "models", "serve", Store]
"""What an installation may do without; the stream, Kafka and HDFS are what it is."""


class Settings(BaseSettings):
    """All settings, frozen. ``home`` holds what this machine keeps: jars, servers' data, logs, the stream's index."""

    model_config = SettingsConfigDict(
        env_prefix="LAKEHOUSE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    profile: str = "local"
    """The file of ``conf/`` that overlays ``base.yaml``."""
    home: Path = PROJECT / ".lakehouse"
    """What this machine keeps: jars, data of local servers, logs, state of programs."""
    locks: Path | None = None
    """The folder of the locks by which those who write tables take turns; the home if None. On several machines one
    that all of them share, on a file system whose ``flock`` they share, too (NFS 4, CephFS)."""
    jars: Path | None = None
    """The folder of jars, such as another home's; ``<home>/jars`` if None."""
    log_format: Literal["text", "json"] = "text"
    """What programs log to stderr: lines for people, or a JSON object a line."""
    servers: Literal["local", "existing"] = "local"
    """Whether `up` starts servers of its own, or checks that those of the addresses answer."""
    erasure_key: SecretStr | None = None
    """What those who were erased are remembered by; the environment only, the same everywhere and for ever. Locally one
    is made at random."""
    off: tuple[Component, ...] = ()
    """Components that are neither started nor asked; see ``components.py`` for what each needs."""
    local: Local = Local()
    kafka: Kafka = Kafka()
    hdfs: Hdfs = Hdfs()
    mongo: Mongo = Mongo()
    redis: Redis = Redis()
    elasticsearch: Elasticsearch = Elasticsearch()
    spark: Spark = Spark()
    stream: Stream = Stream()
    collect: Collect = Collect()
    api: Api = Api()
    realtime: Realtime = Realtime()
    mlflow: Mlflow = Mlflow()
    text: Text = Text()
    report: Report = Report()

    @property
    def root(self) -> str:
        """The lake's root URI, without a trailing slash."""
        return self.hdfs.uri.rstrip("/") + "/" + self.hdfs.root.strip("/")

    @property
    def service_logs(self) -> Path:
        """The folder of log files that a local shipper follows: ``collect.logs``, or ``<home>/service-logs``."""
        return PROJECT / (self.collect.logs or self.home / "service-logs")

    @property
    def tracking_uri(self) -> str:
        """MLflow's address."""
        return self.mlflow.uri or f"http://{self.mlflow.host}:{self.mlflow.port}"

    @property
    def published(self) -> Path:
        """The folder of what models have published, one folder a model."""
        return self.home / "published"

    def table_uri(self, name: str) -> str:
        """``silver.user_events`` -> ``<root>/silver/user_events``."""
        layer, _, table = name.partition(".")
        return f"{self.root}/{layer}/{table}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is said in code is all there is; :func:`load` adds files and environment."""
        return (init_settings,)

    @model_validator(mode="after")
    def _without_what_is_off(self) -> Settings:
        stores = tuple(store for store in self.stream.stores if store not in self.off)
        if stores != self.stream.stores:
            self.__dict__["stream"] = self.stream.model_copy(
                update={"stores": stores}
            )  # frozen, but not yet handed out
        return self

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return home if home.is_absolute() else PROJECT / home


class _Loaded(Settings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment wins over the files, which arrive as init values."""
        return env_settings, init_settings


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _read(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such profile; LAKEHOUSE_PROFILE names one of conf/*.yaml") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from None


CLUSTER = "local-cluster"
"""The profile of ``up --cluster``."""
REMEMBERED = "profile"
"""The file of the home that names the profile its local servers were started with."""


def _home(values: dict[str, Any]) -> Path:
    return PROJECT / str(os.environ.get("LAKEHOUSE_HOME", values.get("home", ".lakehouse")))


def _profile(home: Path) -> str:
    remembered = home / REMEMBERED
    return os.environ.get("LAKEHOUSE_PROFILE") or (remembered.read_text().strip() if remembered.exists() else "local")


def load(conf: Path = PROJECT / "conf", profile: str | None = None) -> Settings:
    """Read the settings afresh, by the profile named, else ``LAKEHOUSE_PROFILE``, else the home's, else ``local``.

    Local servers and programs may have moved to free ports: ``home/ports.yaml`` and ``home/programs.yaml``, which
    ``up`` writes, lie between profile and environment.

    Raises:
        SettingsError: a file is missing or malformed, or a value has the wrong name or type.
    """
    base = _read(conf / "base.yaml")
    profile = profile or _profile(_home(base))
    values = _merge(base, _read(conf / f"{profile}.yaml"))
    values["profile"] = profile
    if "secrets" in (values.get("api") or {}):
        raise SettingsError(f"{conf}: api.secrets does not belong into a file: set LAKEHOUSE_API__SECRETS")
    if "erasure_key" in values:
        raise SettingsError(f"{conf}: erasure_key does not belong into a file: set LAKEHOUSE_ERASURE_KEY")
    if "metrics_token" in (values.get("api") or {}):
        raise SettingsError(f"{conf}: api.metrics_token does not belong into a file: set LAKEHOUSE_API__METRICS_TOKEN")
    if "routes" in (values.get("realtime") or {}):
        raise SettingsError(f"{conf}: realtime.routes does not belong into a file: set LAKEHOUSE_REALTIME__ROUTES")
    home = values["home"] = _home(values)
    local = values.get("servers", "local") == "local"
    for moved in [*([home / "ports.yaml"] if local else []), home / "programs.yaml"]:
        if moved.exists():
            values = _merge(values, _read(moved))
    try:
        return _Loaded(**values).model_copy(update={"profile": profile})  # one that is named wins over the environment
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"setting {where}: {first['msg']} (conf/base.yaml, conf/{profile}.yaml or "
            f"LAKEHOUSE_{'__'.join(str(p).upper() for p in first['loc'])})"
        ) from None


@cache
def settings() -> Settings:
    """The settings of this process, read once."""
    return load()
