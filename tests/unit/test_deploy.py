"""The files under `deploy/`, each by its own validator, and by what they must agree with."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pyspark
import pytest
import yaml

from lakehouse import schedule
from lakehouse.settings import PROJECT, load

DEPLOY = PROJECT / "deploy"
AIRFLOW = "3.3.2"
OTHERS = {"SparkApplication", "Kustomization"}
"""Kinds that are not Kubernetes' own."""


def documents() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def containers() -> Iterator[dict[str, Any]]:
    for document in documents():
        spec = document.get("spec", {})
        pod = spec.get("jobTemplate", {}).get("spec", spec).get("template", {}).get("spec", {})
        yield from pod.get("containers", [])


def images() -> list[str]:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())["services"].values()
    applications = [document["spec"]["image"] for document in of_kind("SparkApplication")]
    return [service["image"] for service in compose] + [one["image"] for one in containers()] + applications


@pytest.mark.parametrize("document", documents(), ids=lambda d: f"{d['kind']}-{d.get('metadata', {}).get('name')}")
def test_what_kubernetes_is_given_is_of_its_schema(document: dict[str, Any]) -> None:
    if document["kind"] not in OTHERS:
        kubernetes_validate.validate(document, "1.31", strict=True)


def test_the_spark_application_is_of_its_operators_models() -> None:
    models = pytest.importorskip("kubeflow_spark_api.models", reason="kubeflow-spark-api is not installed")
    (document,) = of_kind("SparkApplication")
    read = models.SparkV1beta2SparkApplication.model_validate(document)
    # The models pass over what they do not know: nothing of the file may be lost.
    assert read.model_dump(by_alias=True, exclude_none=True, mode="json") == document


def test_compose_is_of_its_specification() -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    file = DEPLOY / "compose" / "compose.yaml"
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    done = subprocess.run(checker, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_compose_opens_loopback_alone_and_knows_when_a_server_is_well() -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    services = compose["services"]
    assert {"kafka", "namenode", "datanode", "elasticsearch", "kibana", "mongodb", "redis"} <= services.keys()
    assert {"logstash", "filebeat", "metricbeat", "mlflow", "grafana", "prometheus"} <= services.keys()
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", []))
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"filebeat", "metricbeat"}
    mounted = [part for service in services.values() for part in service.get("volumes", []) if part.startswith(".")]
    assert mounted
    assert all((DEPLOY / "compose" / part.partition(":")[0]).exists() for part in mounted)


def test_every_image_is_pinned() -> None:
    assert all(re.search(r":v?\d+\.\d+", image) for image in images()), images()


def test_mlflows_server_is_its_clients_version() -> None:
    locked = re.search(r"^mlflow==(\S+)", (PROJECT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked and f"ghcr.io/mlflow/mlflow:v{locked[1]}" in images()


def test_no_file_holds_a_secret() -> None:
    assert not of_kind("Secret")
    for file in DEPLOY.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            text = re.sub(r"(?m)^\s*#.*$", "", file.read_text())
            assert not re.search(r"://[^/\s:${]+:[^@\s]+@|\b(password|secret|token)\s*[:=]\s*['\"]?\w", text, re.I), (
                file
            )


def test_every_container_says_what_it_needs_and_is_no_root() -> None:
    found = list(containers())
    assert found
    for container in found:
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, container["name"]
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
        assert container["securityContext"]["runAsNonRoot"]
    for document in of_kind("Deployment"):
        (container,) = document["spec"]["template"]["spec"]["containers"]
        assert "livenessProbe" in container, container["name"]
    for role in ("driver", "executor"):
        assert of_kind("SparkApplication")[0]["spec"][role]["coreRequest"]


def test_the_cron_jobs_are_the_timetable() -> None:
    timetable = {
        name: (job.cron, job.run, job.retries, job.run_late.total_seconds()) for name, job in schedule.read().items()
    }
    found = {}
    for document in of_kind("CronJob"):
        spec, job = document["spec"], document["spec"]["jobTemplate"]["spec"]
        (container,) = job["template"]["spec"]["containers"]
        assert container["command"] == ["lakehouse"]
        name = document["metadata"]["name"]
        found[name] = (spec["schedule"], container["args"], job["backoffLimit"], spec["startingDeadlineSeconds"])
        assert job["activeDeadlineSeconds"] >= schedule.read()[name].timeout.total_seconds()
    assert {name: (c, list(a), r, d) for name, (c, a, r, d) in found.items()} == {
        name: (c, list(a), r, d) for name, (c, a, r, d) in timetable.items()
    }


def test_the_config_map_names_settings_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    (document,) = of_kind("ConfigMap")
    for name, value in document["data"].items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.profile, settings.servers, settings.stream.engine) == ("cluster", "existing", "separate")
    assert settings.hdfs.uri == document["data"]["LAKEHOUSE_HDFS__URI"]


def test_yarns_command_is_one_that_spark_submit_takes(tmp_path: Path) -> None:
    """As far as a machine without YARN goes: all is parsed, and the job begun, which asks for no executor."""
    (tmp_path / "env.tar.gz").touch()
    (tmp_path / "jars" / "spark").mkdir(parents=True)
    (tmp_path / "jars" / "spark" / "one.jar").touch()
    job = tmp_path / "job.py"
    job.write_text("import sys; print('begun', sys.argv[1:])")
    env = {
        **os.environ, "SPARK_HOME": str(Path(pyspark.__file__).parent), "HADOOP_CONF_DIR": str(tmp_path),
        "LAKEHOUSE_JARS": str(tmp_path / "jars"), "LAKEHOUSE_ENV": str(tmp_path / "env.tar.gz"),
        "DRIVER_PYTHON": sys.executable, "SUBMIT_OPTIONS": "--verbose --conf spark.executor.memory=3g",
    }  # fmt: skip
    command = [str(DEPLOY / "yarn" / "submit.sh"), str(job), "--once"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = dict(re.findall(r"^  (\w+) +(\S+)$", done.stderr + done.stdout, re.MULTILINE))
    assert {name: said[name] for name in ("master", "deployMode", "queue", "name", "driverMemory")} == {
        "master": "yarn", "deployMode": "client", "queue": "default", "name": "lakehouse-job", "driverMemory": "8g",
    }  # fmt: skip
    assert said["archives"].endswith("env.tar.gz#environment") and said["jars"].endswith("one.jar")
    assert "begun ['--once']" in done.stdout


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_airflow_takes_the_timetable_as_dags(tmp_path: Path) -> None:
    """In an environment of its own: Airflow is no dependency, and its libraries are not ours."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    get = [python, "-m", "pip", "install", "-q", f"apache-airflow=={AIRFLOW}"]
    if (got := subprocess.run(get, capture_output=True, text=True, timeout=1500)).returncode:
        pytest.skip(f"Airflow cannot be had: {got.stderr[-300:]}")
    look = (
        "import json, sys; from airflow.dag_processing.dagbag import DagBag; bag = DagBag(sys.argv[1]);"
        "assert not bag.import_errors, bag.import_errors;"
        "print(json.dumps({d.dag_id: [str(d.schedule), t.bash_command.split(' ', 1)[1], t.retries,"
        " t.execution_timeout.total_seconds(), t.retry_delay.total_seconds()] for d in bag.dags.values()"
        " for t in d.tasks}))"
    )
    env = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path), "LAKEHOUSE_PROJECT": str(PROJECT)}
    done = subprocess.run([python, "-c", look, str(DEPLOY / "airflow")], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        f"lakehouse-{name}": [
            job.cron, shlex.join(job.run), job.retries, job.timeout.total_seconds(), job.pause.total_seconds(),
        ]
        for name, job in schedule.read().items()
    }  # fmt: skip
