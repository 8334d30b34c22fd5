"""Brings the locked jars in, once, and compiles our Java sources against them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Event
from xml.sax.saxutils import quoteattr

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lakehouse.settings import Settings
from lakehouse.stack import ivy, lock
from lakehouse.stack.errors import StackError
from lakehouse.stack.exclusive import exclusive
from lakehouse.stack.jdk import java
from lakehouse.stack.lock import Jar

ATTEMPTS = 6
PIECE = 30
"""Jars per run of Ivy, which downloads one after the other: small enough for the runs to share the work."""
RUNS = 3

SOURCES = Path(__file__).with_name("java")
FETCH = "`lakehouse setup`"


def jars_folder(settings: Settings) -> Path:
    """Where the jars are; ``LAKEHOUSE_JARS`` lets another home share them."""
    return settings.jars or settings.home / "jars"


def jar_paths(settings: Settings, name: str) -> list[Path]:
    """The jars of one section of the lock, for example ``spark``, as files.

    Raises:
        StackError: one is not there yet.
    """
    paths = [jars_folder(settings) / name / jar.filename for jar in lock.read()[name]]
    if missing := [path.name for path in paths if not path.exists()]:
        raise StackError(
            f"{len(missing)} {name} jars are missing in {jars_folder(settings)}, {missing[0]} first: run {FETCH}"
        )
    return paths


def are_there(settings: Settings) -> bool:
    """Whether every jar of a set-up is in its place; jars get there only with the right checksum."""
    root = jars_folder(settings)
    return all((root / name / jar.filename).exists() for name, jars in at_setup().items() for jar in jars)


def at_setup() -> dict[str, list[Jar]]:
    """The sections of the lock that every installation has."""
    return {name: jars for name, jars in lock.read().items() if name not in lock.ON_DEMAND}


def fetch(settings: Settings, progress: bool = True) -> None:
    """Make every jar of a set-up lie in ``jars/<section>/`` with the right checksum, and build the launchers.

    What is there and right stays; an interrupted fetch goes on where it stopped.

    Raises:
        StackError: some jars could not be had after several attempts.
    """
    with exclusive(jars_folder(settings) / ".lock"):
        _fetch(settings, at_setup(), progress)
        launchers(settings)


def fetch_section(settings: Settings, name: str, progress: bool = True) -> list[Path]:
    """The jars of one section, ``ON_DEMAND`` ones too, fetched where they are missing.

    Raises:
        StackError: some jars could not be had after several attempts.
    """
    with exclusive(jars_folder(settings) / ".lock"):
        _fetch(settings, {name: lock.read()[name]}, progress)
    return jar_paths(settings, name)


def _fetch(settings: Settings, sections: Mapping[str, Sequence[Jar]], progress: bool) -> None:
    root = jars_folder(settings)
    missing = {
        name: [jar for jar in jars if not _is_good(root / name / jar.filename, jar)] for name, jars in sections.items()
    }
    pieces = [
        (name, jars[i : i + PIECE], root / ".incoming" / f"{name}-{i // PIECE}")
        for name, jars in missing.items()
        for i in range(0, len(jars), PIECE)
    ]
    if pieces:
        _download(java(settings), root, pieces, progress)
    shutil.rmtree(root / ".incoming", ignore_errors=True)


def _is_good(path: Path, jar: Jar) -> bool:
    return path.exists() and lock.checksum(path) == jar.sha256


def _download(executable: Path, root: Path, pieces: Sequence[tuple[str, list[Jar], Path]], progress: bool) -> None:
    stop = Event()
    columns = (
        TextColumn("jars"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with (
        Progress(*columns, console=Console(stderr=True), disable=not progress) as bar,
        ThreadPoolExecutor(RUNS) as pool,
    ):
        task = bar.add_task("", total=sum(len(jars) for _, jars, _ in pieces))

        def moved(by: int, name: str) -> None:
            bar.update(task, advance=by, description=name)

        try:
            for done in [
                pool.submit(_piece, executable, root / name, jars, cache, stop, moved) for name, jars, cache in pieces
            ]:
                done.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _piece(
    executable: Path, folder: Path, jars: Sequence[Jar], cache: Path, stop: Event, moved: Callable[[int, str], None]
) -> None:
    """Download some jars of one section; try again those that did not come, or not whole."""
    left = admit(jars, cache, folder)
    moved(len(jars) - len(left), "")
    for attempt in range(ATTEMPTS):
        if not left or (attempt and stop.wait(2**attempt * random.uniform(0.5, 1))):
            return
        came = 0

        def line(text: str) -> None:
            nonlocal came
            if "[SUCCESSFUL ]" in text:
                came += 1
                moved(1, text.partition("!")[2].partition(" ")[0])

        # An artifact named here is taken as it is, whatever its POM says of packaging.
        ivy.run(executable, cache, "\n".join(map(_dependency, left)), exact=True, line=line)
        wanted, left = len(left), admit(left, cache, folder)
        moved(wanted - len(left) - came, "")
    if left:
        raise StackError(
            f"{left[0].coordinates} and {len(left) - 1} more jars could not be fetched whole (checksum or network): "
            f"look at {cache / 'ivy.log'}, then run {FETCH} again; what came is kept"
        )


def _dependency(jar: Jar) -> str:
    org, name, rev = map(quoteattr, (jar.group, jar.artifact, jar.version))
    classifier = f" m:classifier={quoteattr(jar.classifier)}" if jar.classifier else ""
    return (
        f'<dependency org={org} name={name} rev={rev} conf="default" transitive="false">'
        f'<artifact name={name} type="jar" ext="jar"{classifier}/></dependency>'
    )


def admit(jars: Sequence[Jar], cache: Path, folder: Path) -> list[Jar]:
    """Move jars with the right checksum from ``cache`` to ``folder``, delete wrong ones, return those still wanted."""
    folder.mkdir(parents=True, exist_ok=True)
    left = []
    for jar in jars:
        came = cache / jar.ivy_name
        if _is_good(came, jar):
            os.replace(came, folder / jar.filename)
        else:
            came.unlink(missing_ok=True)
            left.append(jar)
    return left


def launchers(settings: Settings) -> Path:
    """The folder of our compiled launchers, made when sources or jars changed.

    ``mongodb/`` and ``elasticsearch/classes/`` are class paths, ``elasticsearch/home/`` an Elasticsearch home with its
    two modules.
    """
    sources = sorted(SOURCES.glob("*.java"))
    inputs = (bytes(jars_folder(settings)), *(path.read_bytes() for path in (*sources, lock.LOCK)))
    stamp = sha256(b"".join(inputs)).hexdigest()[:12]
    built = jars_folder(settings).parent / "build" / stamp
    if built.exists():
        return built
    part = built.with_name(f"{stamp}.part")
    with exclusive(built.parent / ".lock"):
        shutil.rmtree(part, ignore_errors=True)
        mongodb, elasticsearch = jar_paths(settings, "mongodb"), jar_paths(settings, "elasticsearch")
        compile_java(settings, SOURCES / "MongoMain.java", mongodb, part / "mongodb")
        compile_java(settings, SOURCES / "EsMain.java", elasticsearch, part / "elasticsearch" / "classes")
        compile_java(settings, SOURCES / "RestRootPlugin.java", elasticsearch, part / "rest-root")
        _elasticsearch_home(elasticsearch, part / "rest-root", part / "elasticsearch" / "home")
        part.rename(built)
    return built


def compile_java(settings: Settings, source: Path, jars: Sequence[Path], out: Path) -> None:
    """Compile a Java file into the folder ``out`` with the JDK's compiler, or Eclipse's where Java comes without one.

    Raises:
        StackError: it does not compile.
    """
    executable = java(settings)
    compiler = executable.with_name("javac")
    command = (
        [str(compiler)] if compiler.exists() else [str(executable), "-jar", str(jar_paths(settings, "compiler")[0])]
    )
    command += [
        "--release",
        "17",
        "-nowarn",
        "-proc:none",
        "-cp",
        os.pathsep.join(map(str, jars)),
        "-d",
        str(out),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise StackError(
            f"{source.name} does not compile: {(done.stderr or done.stdout).strip().splitlines()[:1]} (run {FETCH})"
        )


def is_module(jar: Path) -> bool:
    """Whether an Elasticsearch jar belongs to the transport module and not to the server itself."""
    return jar.name.startswith(("transport-netty4-", "netty-"))


def _elasticsearch_home(jars: Sequence[Path], rest_root: Path, home: Path) -> None:
    """Lay out the two modules Elasticsearch needs as it loads modules: a folder each, with a descriptor."""
    transport = home / "modules" / "transport-netty4"
    transport.mkdir(parents=True)
    for jar in filter(is_module, jars):
        (transport / jar.name).symlink_to(jar)
        if jar.name.startswith("transport-netty4-"):
            version = jar.stem.removeprefix("transport-netty4-")
            with zipfile.ZipFile(jar) as archive:
                descriptor = archive.read("META-INF/es-plugins/transport-netty4/plugin-descriptor.properties")
            (transport / "plugin-descriptor.properties").write_bytes(descriptor)
    module = home / "modules" / "rest-root"
    module.mkdir()
    with zipfile.ZipFile(module / "rest-root.jar", "w") as archive:
        for path in sorted(rest_root.rglob("*.class")):
            archive.write(path, path.relative_to(rest_root).as_posix())
    (module / "plugin-descriptor.properties").write_text(
        f"name=rest-root\ndescription=GET /\nclassname=lakehouse.RestRootPlugin\njava.version=17\n"
        f"version={version}\nelasticsearch.version={version}\n"
    )
    (home / "plugins").mkdir()
