"""A pipeline file is read as Logstash reads it, and what is wrong in it is named by its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lakehouse.collect.config import Branch, Config, read
from lakehouse.collect.filters import block
from lakehouse.collect.plugins import ConfigError, Plugin


def written(tmp_path: Path, text: str, **environment: str) -> Config:
    path = tmp_path / "pipeline.conf"
    path.write_text(text)
    return read(path, environment)


def filters(tmp_path: Path, text: str) -> Config:
    return written(tmp_path, f"input {{ stdin {{}} }}\nfilter {{\n{text}\n}}\noutput {{ stdout {{}} }}")


def holds(tmp_path: Path, condition: str, event: dict[str, Any]) -> bool:
    """Whether an event passes a condition, which lets all others be dropped."""
    return block(filters(tmp_path, f"if {condition} {{ }} else {{ drop {{ }} }}").filters)(event)


def test_plugins_options_and_codecs_have_their_values_and_lines(tmp_path: Path) -> None:
    config = written(
        tmp_path,
        """input {
          beats { port => 5044 }  # a comment
          tcp { port => "5000"
                codec => multiline { pattern => "^\\s" what => previous } }
        }
        output { stdout { } }
        output { kafka { topic_id => 'a' hosts => ["x", "y"] m => { "k" => 1.5 "l" => true } } }""",
    )
    beats, tcp = config.inputs
    assert (beats.name, beats.line, beats.options) == ("beats", 2, {"port": (5044, 2)})
    codec = tcp.options["codec"][0]
    assert isinstance(codec, Plugin) and (codec.section, codec.name, codec.line) == ("codec", "multiline", 4)
    assert codec.options["pattern"] == ("^\\s", 4), "backslashes stay"
    kafka = config.outputs[1]
    assert isinstance(kafka, Plugin)
    assert {name: value for name, (value, _) in kafka.options.items()} == {
        "topic_id": "a", "hosts": ["x", "y"], "m": {"k": 1.5, "l": "true"},
    }  # fmt: skip


def test_variables_come_from_the_environment_or_their_default(tmp_path: Path) -> None:
    text = 'input { tcp { port => "${PORT}" host => "${HOST:127.0.0.1}" } } output { stdout {} }'
    (tcp,) = written(tmp_path, text, PORT="7").inputs
    assert {name: value for name, (value, _) in tcp.options.items()} == {"port": "7", "host": "127.0.0.1"}
    with pytest.raises(ConfigError, match=r"pipeline\.conf:1: environment variable PORT is not set"):
        written(tmp_path, text)


def test_branches_keep_their_arms(tmp_path: Path) -> None:
    (branch,) = filters(tmp_path, "if [a] { drop {} } else if [b] { } else { drop {} drop {} }").filters
    assert isinstance(branch, Branch)
    assert [(condition is None, len(body)) for condition, body in branch.arms] == [(False, 1), (False, 0), (True, 2)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("input {\n stdin { }\n", "2"),
        ("input {\n stdin { port => }\n }", "2"),
        ("input { stdin {} }\nfilter { if [a] == { drop {} } }\noutput { stdout {} }", "2"),
        ("input { stdin {} }\n output { stdout { a => 1\n a => 2 } }", "3"),
        ("input { stdin {} }\n filter { if [m] =~ /(/ { drop {} } }\n output { stdout {} }", "2"),
        ("input { if [a] { stdin {} } }\n output { stdout {} }", "condition"),
        ("input { stdin {} }", "an input and an output"),
        ("inputs { stdin {} }", "1"),
        ("", "1"),
    ],
)
def test_what_is_not_the_language_is_an_error_at_its_line(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        written(tmp_path, text)
    assert line in str(error.value).split("\n")[0]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("\nnope { }", "4: filter nope: not supported"),
        ("grok { match => { 'm' => 'x' }\n mach => 5 }", "4: filter grok: option 'mach' is not supported"),
        ("grok {\n match => { 'm' => '%{NOPE:x}' } }", "4: filter grok: match: pattern %{NOPE} is not defined"),
        ("grok { match => { 'm' => '(' } }", "3: filter grok: match: '(' is not a regular expression"),
        ("date { match => ['a', 'QQ'] }", "'QQ' has no meaning"),
        ("date { match => ['a'] }", "needs a field and a pattern"),
        ("date { match => ['a', 'ISO8601'] timezone => 'Mars' }", "timezone"),
        ("mutate { convert => { 'a' => 'int' } }", "none of integer"),
        ("mutate { gsub => ['a', 'b'] }", "gsub"),
        ("mutate { lowercase => ['[a'] }", "not a field reference"),
        ("dissect { mapping => { 'm' => 'x' } }", "holds no field"),
        ("dissect { mapping => { 'm' => '%{a}%{b}' } }", "no delimiter after %{a}"),
        ("json { }", "source"),
        ("fingerprint { method => 'CRC' }", "method"),
        ("grok { match => { 'm' => 'x' } ecs_compatibility => v8 }", "ecs_compatibility"),
    ],
)
def test_a_filter_option_or_value_nobody_knows_is_an_error_before_the_start(
    tmp_path: Path, text: str, names: str
) -> None:
    with pytest.raises(ConfigError) as error:
        block(filters(tmp_path, text).filters)
    assert names in str(error.value)


@pytest.mark.parametrize(
    ("condition", "event", "expected"),
    [
        ("[a]", {"a": 0}, True),
        ("[a]", {"a": False}, False),
        ("[a]", {"a": None}, False),
        ("[a]", {}, False),
        ("![a]", {}, True),
        ("[a][b] == 5", {"a": {"b": 5}}, True),
        ("[a][b] == '5'", {"a": {"b": 5}}, False),
        ("[a] != 5", {}, True),
        ("[a] < 5", {"a": 4}, True),
        ("[a] < 5", {"a": "4"}, False),
        ("[a] >= 5", {}, False),
        ("[a] =~ /^x\\/y/", {"a": "x/yz"}, True),
        ("[a] =~ '^x'", {"a": "line\nxy"}, True),
        ("[a] !~ /x/", {}, True),
        ("[a] =~ /5/", {"a": 15}, True),
        ("'x' in [tags]", {"tags": ["x"]}, True),
        ("'x' in [tags]", {}, False),
        ("'x' not in [tags]", {}, True),
        ("[a] in ['u', 'v']", {"a": "v"}, True),
        ("'b' in [a]", {"a": "abc"}, True),
        ("[a] and [b] or [c]", {"c": 1}, True),
        ("[c] or [a] and [b]", {"c": 1}, True),
        ("([c] or [a]) and [b]", {"c": 1}, False),
        ("!([a] and [b])", {"a": 1}, True),
        ("[a] xor [b]", {"a": 1, "b": 1}, False),
        ("[a] nand [b]", {"a": 1}, True),
        ("[tags][0] == 'x'", {"tags": ["x"]}, True),
        ("[@metadata][beat] == 'filebeat'", {"@metadata": {"beat": "filebeat"}}, True),
    ],
)
def test_conditions_hold_as_in_logstash(tmp_path: Path, condition: str, event: dict[str, Any], expected: bool) -> None:
    assert holds(tmp_path, condition, event) is expected
