"""Runs the Ivy that PySpark bundles: the one way jars come in."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from lakehouse.stack.errors import StackError

# Central alone: Ivy's default also looks into the local Maven cache and fails on half-filled entries.
# Our lock has checksums of its own, so Ivy need not fetch another for every jar.
SETTINGS = """<ivysettings>
  <settings defaultResolver="central"/>
  <timeout-constraints>
    <timeout-constraint name="patient" connectionTimeout="20000" readTimeout="60000"/>
  </timeout-constraints>
  <caches defaultCacheDir={cache} artifactPattern="[organisation]~[artifact]~[revision](~[classifier]).[ext]"/>
  <resolvers><ibiblio name="central" m2compatible="true" timeoutConstraint="patient"{options}/></resolvers>
</ivysettings>
"""

MODULE = """<ivy-module version="2.0" xmlns:m="http://ant.apache.org/ivy/maven">
  <info organisation="lakehouse" module="jars"/>
  <configurations><conf name="default"/></configurations>
  <dependencies>
{dependencies}
  </dependencies>
</ivy-module>
"""


def pyspark_jars() -> Path:
    """The folder of jars that PySpark ships."""
    spec = find_spec("pyspark")
    if spec is None or spec.origin is None:
        raise StackError("pyspark is not installed in this environment: run `make setup`")
    return Path(spec.origin).parent / "jars"


def proxy_options(proxies: Mapping[str, str]) -> list[str]:
    """JVM options for the proxies the environment names (``https_proxy``, ``no_proxy``); Java reads neither itself."""
    options = []
    for scheme in ("http", "https"):
        url = urlsplit(proxies.get(scheme, ""))
        if url.hostname:
            options += [f"-D{scheme}.proxyHost={url.hostname}", f"-D{scheme}.proxyPort={url.port or 80}"]
    if options and (no := proxies.get("no")):
        hosts = (host.strip() for host in no.split(","))
        options.append(
            "-Dhttp.nonProxyHosts=" + "|".join(f"*{host}" if host.startswith(".") else host for host in hosts)
        )
    return options


def mirror(settings_xml: Path) -> str | None:
    """The mirror of central that Maven's own ``settings.xml`` names, if any."""
    if not settings_xml.exists():
        return None
    for entry in ElementTree.parse(settings_xml).iterfind(".//{*}mirror"):
        if (entry.findtext("{*}mirrorOf") or "").split(",")[0].strip() in ("*", "central", "external:*"):
            return entry.findtext("{*}url")
    return None


def run(
    java: Path,
    cache: Path,
    dependencies: str,
    *,
    exact: bool,
    arguments: tuple[str, ...] = (),
    line: Callable[[str], None] | None = None,
) -> None:
    """Resolve and download ``dependencies`` (Ivy's XML) into ``cache``; the log is ``cache/ivy.log``.

    ``exact`` asks for the named artifacts alone and reads no POM. ``line`` sees each line of output as it comes.
    Ivy's exit code tells little (it is 0 for a module not found): callers look at the files.
    """
    cache.mkdir(parents=True, exist_ok=True)
    options = ' usepoms="false" checksums=""' if exact else ""
    if root := mirror(Path.home() / ".m2" / "settings.xml"):
        options += f" root={quoteattr(root)}"
    (cache / "ivysettings.xml").write_text(SETTINGS.format(cache=quoteattr(str(cache)), options=options))
    (cache / "ivy.xml").write_text(MODULE.format(dependencies=dependencies))
    ivy = next(pyspark_jars().glob("ivy-*.jar"))
    command = [
        str(java),
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        *proxy_options(getproxies()),
        "-jar",
        str(ivy),
    ]
    command += [
        "-settings",
        str(cache / "ivysettings.xml"),
        "-ivy",
        str(cache / "ivy.xml"),
        "-confs",
        "default",
        *arguments,
    ]
    with (
        (cache / "ivy.log").open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
        ) as process,
    ):
        assert process.stdout is not None
        for text in process.stdout:
            log.write(text)
            if line:
                line(text)
