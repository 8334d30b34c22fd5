from hashlib import sha256
from pathlib import Path

import pytest

from lakehouse.settings import Settings
from lakehouse.stack import ivy, jars, lock
from lakehouse.stack.errors import StackError
from lakehouse.stack.lock import Jar

GOOD = Jar("g", "good", "1", "", sha256(b"good").hexdigest())
TORN = Jar("g", "torn", "1", "", sha256(b"whole").hexdigest())
ABSENT = Jar("g", "absent", "1", "", sha256(b"").hexdigest())


def test_only_a_jar_with_its_checksum_is_admitted(tmp_path: Path) -> None:
    (tmp_path / GOOD.ivy_name).write_bytes(b"good")
    (tmp_path / TORN.ivy_name).write_bytes(b"who")
    left = jars.admit([GOOD, TORN, ABSENT], tmp_path, tmp_path / "jars")
    assert left == [TORN, ABSENT]
    assert [path.name for path in (tmp_path / "jars").iterdir()] == ["good-1.jar"]
    assert not (tmp_path / TORN.ivy_name).exists()


def test_proxies_of_the_environment_become_java_options() -> None:
    options = ivy.proxy_options({"https": "http://proxy:3128", "no": "localhost,.corp"})
    assert options == ["-Dhttps.proxyHost=proxy", "-Dhttps.proxyPort=3128", "-Dhttp.nonProxyHosts=localhost|*.corp"]


def test_mavens_mirror_of_central_is_used(tmp_path: Path) -> None:
    file = tmp_path / "settings.xml"
    file.write_text(
        '<settings xmlns="urn:maven"><mirrors><mirror><mirrorOf>other</mirrorOf><url>x:1</url></mirror>'
        "<mirror><mirrorOf>central</mirrorOf><url>x:2</url></mirror></mirrors></settings>"
    )
    assert ivy.mirror(file) == "x:2"
    assert ivy.mirror(tmp_path / "absent.xml") is None


def test_a_set_up_fetches_no_jar_that_only_a_benchmark_or_a_text_job_needs(tmp_path: Path) -> None:
    settings = Settings(jars=tmp_path)
    for name, wanted in jars.at_setup().items():
        (tmp_path / name).mkdir()
        for jar in wanted:
            (tmp_path / name / jar.filename).touch()
    assert jars.are_there(settings)
    assert set(lock.read()) - set(jars.at_setup()) == {"kafka-streams", "spark-nlp"}
    with pytest.raises(StackError, match="kafka-streams jars are missing"):
        jars.jar_paths(settings, "kafka-streams")
