"""``jars.lock``: every jar the project uses, by exact coordinates and SHA-256, in sections."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from xml.sax.saxutils import quoteattr

from lakehouse.stack import ivy
from lakehouse.stack.errors import StackError

LOCK = Path(__file__).with_name("jars.lock")

WANTED: dict[str, tuple[str, ...]] = {
    "spark": (
        "io.delta:delta-spark_2.12:3.3.3",
        "org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7",
        "org.apache.kafka:kafka-clients:3.4.1",
        "org.apache.commons:commons-pool2:2.11.1",
        "org.elasticsearch:elasticsearch-spark-30_2.12:8.19.25 alone",
        "org.mongodb.spark:mongo-spark-connector_2.12:10.5.0",
        "org.mongodb:mongodb-driver-sync:5.1.4",
        "org.mongodb:mongodb-driver-core:5.1.4",
        "org.mongodb:bson:5.1.4",
        "org.mongodb:bson-record-codec:5.1.4",
    ),
    # Without slf4j-simple Kafka is mute.
    "kafka": ("org.apache.kafka:kafka_2.13:4.4.0", "org.slf4j:slf4j-simple:1.7.36"),
    "hdfs": (
        "org.apache.hadoop:hadoop-hdfs:3.4.3",
        "org.apache.hadoop:hadoop-hdfs-client:3.4.3",
        "org.apache.hadoop:hadoop-common:3.4.3",
    ),
    "elasticsearch": (
        "org.elasticsearch:elasticsearch:8.19.21",
        "org.elasticsearch.plugin:transport-netty4:8.19.21",
    ),
    "mongodb": (
        "de.bwaldvogel:mongo-java-server:1.47.0",
        "de.bwaldvogel:mongo-java-server-h2-backend:1.47.0",
    ),
    "compiler": ("org.eclipse.jdt:ecj:3.33.0 alone",),
    # With the kafka section's jars it is whole. The version of rocksdbjni is the one that kafka-streams' POM asks for.
    "kafka-streams": ("org.apache.kafka:kafka-streams:4.4.0 alone", "org.rocksdb:rocksdbjni:10.1.3 alone"),
    # What annotators without a neural network touch, found by trial: 3 of its 130 jars. Versions are those of its POM.
    "spark-nlp": (
        "com.johnsnowlabs.nlp:spark-nlp_2.12:5.5.3 alone",
        "com.typesafe:config:1.4.2 alone",
        "com.amazonaws:aws-java-sdk-core:1.12.500 alone",
    ),
}
"""What each set asks for; ``alone`` leaves out what it depends on. ``make`` turns it into the lock."""

ON_DEMAND = frozenset({"kafka-streams", "spark-nlp"})
"""Sets that no set-up fetches: `bench realtime` does, for what it compares with (75 MB); a text job does (49 MB)."""


@dataclass(frozen=True, order=True)
class Jar:
    """One jar: Maven coordinates and the checksum it must have."""

    group: str
    artifact: str
    version: str
    classifier: str
    sha256: str

    @property
    def coordinates(self) -> str:
        """``group:artifact[:classifier]:version``."""
        return ":".join(part for part in (self.group, self.artifact, self.classifier, self.version) if part)

    @property
    def filename(self) -> str:
        """Its name in ``jars/<set>/``, as Maven names it."""
        return "-".join(part for part in (self.artifact, self.version, self.classifier) if part) + ".jar"

    @property
    def ivy_name(self) -> str:
        """Its name in Ivy's cache (see ``ivy.SETTINGS``)."""
        return "~".join(part for part in (self.group, self.artifact, self.version, self.classifier) if part) + ".jar"


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parse(text: str, name: str = "jars.lock") -> dict[str, list[Jar]]:
    """Sections of the lock, in order.

    Raises:
        StackError: a line is not ``group:artifact[:classifier]:version sha256``, or two jars of a section share a name.
    """
    sections: dict[str, list[Jar]] = {}
    jars: list[Jar] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        if header := re.fullmatch(r"\[([\w-]+)\]", line):
            jars = sections.setdefault(header[1], [])
            continue
        match = re.fullmatch(r"([\w.-]+):([\w.-]+):(?:([\w.-]+):)?([\w.-]+) ([0-9a-f]{64})", line)
        if not match or jars is None:
            raise StackError(
                f"{name}:{number}: not `[section]` or `group:artifact[:classifier]:version sha256`: {line}"
            )
        jar = Jar(match[1], match[2], match[4], match[3] or "", match[5])
        if jar.filename in {other.filename for other in jars}:
            raise StackError(f"{name}:{number}: a second {jar.filename} in this section")
        jars.append(jar)
    return sections


def read() -> dict[str, list[Jar]]:
    """The committed lock."""
    return parse(LOCK.read_text())


def render(sections: Mapping[str, Sequence[Jar]]) -> str:
    """The lock's text."""
    lines = [
        "# Made by `python -m lakehouse.stack lock` from WANTED in lock.py: group:artifact[:classifier]:version sha256"
    ]
    for name, jars in sections.items():
        lines += ["", f"[{name}]", *(f"{jar.coordinates} {jar.sha256}" for jar in sorted(jars))]
    return "\n".join(lines) + "\n"


def resolve(java: Path, wanted: Sequence[str], shipped: frozenset[str] = frozenset()) -> list[Jar]:
    """What ``wanted`` needs to run, resolved by Ivy through POMs, less the artifacts ``shipped`` already.

    Raises:
        StackError: Ivy could not resolve or download something.
    """
    dependencies = []
    for entry in wanted:
        coordinates, _, alone = entry.partition(" ")
        org, name, rev = map(quoteattr, coordinates.split(":"))
        transitive = ' transitive="false"' if alone else ""
        dependencies.append(f'<dependency org={org} name={name} rev={rev} conf="default->default"{transitive}/>')
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        # Without these types Ivy also fetches sources and leaves out OSGi bundles.
        ivy.run(java, cache, "\n".join(dependencies), exact=False, arguments=("-types", "jar", "bundle"))
        log = (cache / "ivy.log").read_text()
        if re.search(r"UNRESOLVED|FAILED|ERRORS", log):
            raise StackError(
                "Ivy could not resolve: " + " ".join(re.findall(r":: (\S+;\S+: .*?)\s*::", log)) + " (run it again)"
            )
        jars = []
        for file in sorted(cache.glob("*~*.jar")):
            group, artifact, version, *classifier = file.name.removesuffix(".jar").split("~")
            if artifact not in shipped:
                jars.append(Jar(group, artifact, version, "".join(classifier), checksum(file)))
    return jars


def make(java: Path) -> None:
    """Write the lock anew from ``WANTED``: a maintainer's command, for when a version changes."""
    in_pyspark = frozenset(re.sub(r"-\d.*", "", jar.name) for jar in ivy.pyspark_jars().glob("*.jar"))
    sections = {
        name: resolve(java, wanted, in_pyspark if name == "spark" else frozenset()) for name, wanted in WANTED.items()
    }
    LOCK.write_text(render(sections))
