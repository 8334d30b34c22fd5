from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner, Result

from lakehouse.cli import app, one_line
from lakehouse.settings import SettingsError
from tests.unit.local_lake import local_lake


def lakehouse(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An empty lake, and addresses at which nothing listens."""
    settings = local_lake(tmp_path)
    return {
        "LAKEHOUSE_HOME": str(settings.home),
        "LAKEHOUSE_SERVERS": "existing",
        "LAKEHOUSE_HDFS__URI": settings.hdfs.uri,
        "LAKEHOUSE_HDFS__ROOT": settings.hdfs.root,
        "LAKEHOUSE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "LAKEHOUSE_MONGO__URI": "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200",
        "LAKEHOUSE_REDIS__URL": "redis://127.0.0.1:1/0",
        "LAKEHOUSE_ELASTICSEARCH__URL": "http://127.0.0.1:1",
        "LAKEHOUSE_STREAM__STORES": '["redis"]',
        "LAKEHOUSE_API__PORT": "1",
    }


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv[1:] = ['--help']; import atexit; from lakehouse.cli import main\n"
        "heavy = {'pyspark', 'pandas', 'pyarrow', 'duckdb', 'pydantic', 'confluent_kafka', 'fastapi', 'jwt'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_sql_loads_neither_spark_nor_pandas(env: dict[str, str]) -> None:
    code = (
        "import sys; sys.argv[1:] = ['sql', '--json', 'select 1 as a']; import atexit; from lakehouse.cli import main\n"
        "atexit.register(lambda: print(sorted({'pyspark', 'pandas'} & set(sys.modules))))\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **env}
    )
    assert done.stdout.splitlines() == ['[{"a":1}]', "[]"]


def test_sql_prints_json_and_csv(env: dict[str, str]) -> None:
    assert json.loads(lakehouse("sql", "select 1 as a, 'x' as b", "--json", env=env).stdout) == [{"a": 1, "b": "x"}]
    assert lakehouse("sql", "select 1 as a, 'x' as b", "--csv", env=env).stdout.split() == ["a,b", "1,x"]
    assert "x" in lakehouse("sql", "select 1 as a, 'x' as b", env=env).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("sql",),
        ("sql", "select 1", "--json", "--csv"),
        ("replay", "user-events"),
        ("rebuild",),
        ("rebuild", "gold.activity_minute", "--store", "redis"),
        ("quarantine", "replay"),
        ("quarantine", "replay", "--all", "--set", "/rating"),
        ("quarantine", "ls", "--from", "yesterday"),
        ("demo", "--profile", "huge"),
        ("token",),
        ("token", "--scope", "write:all"),
        ("token", "--scope", "admin", "--ttl", "soon"),
        ("token", "--scope", "admin", "--rotate"),
        ("token", "--keys", "--retire", "k"),
        ("serve", "--port", "x"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], env: dict[str, str]) -> None:
    assert lakehouse(*arguments, env=env).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sql", "select * from gold.nothing"), "no table gold.nothing"),
        (("audit",), "no such table"),
        (("trace", "user-events/0/1"), "not there yet"),
        (("quarantine", "show", "nonsense"), "topic/partition/offset"),
        (("replay", "user-events", "/nowhere/file"), "/nowhere/file"),
        (("wait", "--timeout", "1"), "no Kafka broker answers at 127.0.0.1:1"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(arguments: tuple[str, ...], words: str, env: dict[str, str]) -> None:
    result = lakehouse(*arguments, env=env)
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_trace_is_shown_where_it_is_asked_for(env: dict[str, str]) -> None:
    result = lakehouse("--debug", "sql", "select * from gold.nothing", env=env)
    assert type(result.exception).__name__ == "QueryError"


def test_a_wrong_setting_is_named(env: dict[str, str]) -> None:
    result = lakehouse("tables", env={**env, "LAKEHOUSE_SPARK__SHUFFLE_PARTITIONS": "many"})
    assert (result.exit_code, "spark.shuffle_partitions" in result.stderr) == (1, True)


def test_errors_that_are_not_ours_name_their_type() -> None:
    assert one_line(SettingsError("a\n b")) == "a b"
    assert one_line(KeyError("x")).startswith("KeyError: 'x' (`lakehouse --debug")


def test_status_is_exit_code_0_when_nothing_runs(env: dict[str, str]) -> None:
    result = lakehouse("status", "--json", env=env)
    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (found["api"], found["collect"]) == ({"url": None}, None)
    assert "no Kafka broker answers" in found["topics"]["user-events"]["error"]
    assert found["stores"]["redis"]["reachable"] is False
    assert lakehouse("status", env=env).exit_code == 0


def test_a_token_is_printed_alone_and_names_subject_and_scopes(env: dict[str, str]) -> None:
    result = lakehouse(
        "token", "--scope", "write:events", "--scope", "admin", "--subject", "me", "--ttl", "1h", env=env
    )
    claims = jwt.decode(result.stdout.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["scope"]) == ("me", "write:events admin")
    assert claims["exp"] - claims["iat"] == 3600


def test_a_users_token_names_the_user(env: dict[str, str]) -> None:
    result = lakehouse("token", "--scope", "read:users", "--user", "u7", env=env)
    assert jwt.decode(result.stdout.strip(), options={"verify_signature": False})["user_id"] == "u7"
    assert "a user has 1 to 300 characters" in lakehouse("token", "--scope", "admin", "--user", "", env=env).stderr


def test_keys_are_rotated_listed_and_retired_and_never_printed(env: dict[str, str]) -> None:
    def listed() -> list[tuple[str, bool]]:
        return [(k["kid"], k["signs"]) for k in json.loads(lakehouse("token", "--keys", "--json", env=env).stdout)]

    ((first, _),) = listed()
    second = lakehouse("token", "--rotate", env=env).stdout.strip()
    assert listed() == [(second, True), (first, False)]
    said = lakehouse("token", "--keys", env=env).stdout
    assert said.splitlines() == [f"{second}  0 days old  signs", f"{first}  0 days old"]
    printed = lakehouse("token", "--scope", "admin", env=env).stdout.strip()
    assert jwt.get_unverified_header(printed)["kid"] == second
    refused = lakehouse("token", "--retire", second, env=env)
    assert refused.exit_code == 1 and "--rotate` first" in refused.stderr
    assert lakehouse("token", "--retire", first, env=env).exit_code == 0 and listed() == [(second, True)]


@pytest.mark.parametrize("verb", [("token", "--scope", "admin"), ("serve", "--port", "0")])
def test_on_a_cluster_the_api_wants_a_secret(verb: tuple[str, ...], env: dict[str, str]) -> None:
    result = lakehouse(*verb, env={**env, "LAKEHOUSE_PROFILE": "cluster"})
    assert result.exit_code == 1 and "set LAKEHOUSE_API__SECRETS" in result.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "in the clear"),
        ({"LAKEHOUSE_API__BEHIND_PROXY": "true"}, "set LAKEHOUSE_API__SECRETS"),
        (
            {"LAKEHOUSE_API__BEHIND_PROXY": "true", "LAKEHOUSE_API__SECRETS": '{"k": "' + "changeme" * 5 + '"}'},
            "holds a word of a default",
        ),
    ],
)
def test_an_address_that_others_reach_is_refused_in_one_line(
    more: dict[str, str], words: str, env: dict[str, str]
) -> None:
    result = lakehouse("serve", "--host", "0.0.0.0", "--port", "0", env=env | more)
    assert result.exit_code == 1 and words in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_taken_port_is_one_line(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = lakehouse("serve", "--port", str(taken.getsockname()[1]), env=env)
    assert result.exit_code == 1 and "cannot listen on 127.0.0.1:" in result.stderr


def test_a_shipper_says_what_is_wrong_with_how_it_was_called(env: dict[str, str]) -> None:
    assert "--period 10: give a number and s, m, h or d" in lakehouse("ship", "metrics", "--period", "10").output
    done = lakehouse("ship", "logs", "--begins", "(", env=env)
    assert done.exit_code == 1 and done.output.startswith("error: '(' can't begin a record: ")
    done = lakehouse("ship", "logs", env=env | {"LAKEHOUSE_COLLECT__BEATS": "5044"})
    assert done.exit_code == 1 and "setting collect.beats" in done.output and "give host:port" in done.output


@pytest.mark.parametrize("verb", ["card", "hindsight"])
def test_what_is_told_of_models_needs_their_registry(env: dict[str, str], verb: str) -> None:
    said = lakehouse(verb, "recommender", env={**env, "LAKEHOUSE_MLFLOW__URI": "http://127.0.0.1:1"})
    assert said.exit_code == 1 and "MLflow does not answer at http://127.0.0.1:1" in said.stderr


def test_alerts_need_mongodb_and_say_so(env: dict[str, str]) -> None:
    for arguments in (("alerts",), ("alerts", "silences"), ("alerts", "unsilence", "x")):
        result = lakehouse(*arguments, env=env)
        assert result.exit_code == 1 and "MongoDB does not answer" in result.stderr, arguments
        assert "lakehouse up" in result.stderr and "Traceback" not in result.output


def test_what_is_silenced_is_a_rule_of_the_file_for_a_reason(env: dict[str, str]) -> None:
    wrong = lakehouse("alerts", "silence", "pipeline lag", "--why", "moving", env=env)
    assert wrong.exit_code == 1 and "did you mean 'pipeline lags'?" in wrong.stderr
    assert lakehouse("alerts", "silence", "pipeline lags", env=env).exit_code == 2
    odd = lakehouse("alerts", "silence", "pipeline lags", "--why", "moving", "--for", "soon", env=env)
    assert odd.exit_code == 2
