"""A pipeline file runs as it is written: from its inputs through its filters to the outputs of each event."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from lakehouse.collect.collector import check, collector
from lakehouse.collect.plugins import ConfigError
from lakehouse.settings import PROJECT, Settings


def test_events_go_to_the_outputs_whose_conditions_hold(tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("7\n3\nx\nstop\n")
    path = tmp_path / "numbers.conf"
    path.write_text(
        f"""input {{ file {{ path => "{source}" start_position => "beginning" }} }}
        filter {{ grok {{ match => {{ "message" => "%{{INT:n:int}}" }} }} }}
        output {{
          if [n] > 5 {{ file {{ path => "{tmp_path}/large.jsonl" }} }}
          else if [n] {{ file {{ path => "{tmp_path}/small.jsonl" }} }}
          file {{ path => "{tmp_path}/all.jsonl" }}
        }}"""
    )
    settings = Settings(home=tmp_path / "home")
    pipeline = collector(settings, path)

    async def until_all_is_there() -> None:
        running = asyncio.create_task(pipeline.run())
        while pipeline.stats()["outputs"]["file-3"]["events"] < 4 and not running.done():
            await asyncio.sleep(0.02)
        pipeline.stop()
        await running

    asyncio.run(asyncio.wait_for(until_all_is_there(), 30))

    def messages(name: str) -> list[str]:
        return [json.loads(line)["message"] for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]

    assert (messages("large"), messages("small"), messages("all")) == (["7"], ["3"], ["7", "3", "x", "stop"])
    report = json.loads((settings.home / "collect.json").read_text())
    assert set(report["outputs"]) == {"file", "file-2", "file-3"} and report["events"]["in"] == 4


@pytest.mark.parametrize("name", ["service-logs", "loghub"])
def test_our_pipelines_are_in_order(name: str) -> None:
    config = check(Settings(), PROJECT / "conf" / "logstash" / f"{name}.conf")
    assert config.inputs and config.outputs


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("input { beats { prt => 1 } }\noutput { stdout {} }", "1: input beats: option 'prt' is not supported"),
        ("input { stdin {} }\noutput { nope {} }", "2: output nope"),
        ("input { jdbc {} }\noutput { stdout {} }", "1: input jdbc"),
        ("input { tcp { port => x } }\noutput { stdout {} }", "1: input tcp: port"),
        ("input { stdin { codec => avro } }\noutput { stdout {} }", "avro"),
    ],
)
def test_what_nobody_knows_is_an_error_before_the_start(tmp_path: Path, text: str, names: str) -> None:
    path = tmp_path / "pipeline.conf"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        check(Settings(home=tmp_path), path)
    assert names in str(error.value)
