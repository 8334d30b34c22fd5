"""Where events go: one file an output, named as in Logstash. Each output is called by one thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lakehouse.collect import plugins
from lakehouse.collect.deadletters import Refuse
from lakehouse.collect.options import OutputOptions
from lakehouse.collect.outputs.elasticsearch import ElasticsearchOptions, ElasticsearchOutput
from lakehouse.collect.outputs.file import FileOutput, FileOutputOptions
from lakehouse.collect.outputs.kafka import KafkaOptions, KafkaOutput
from lakehouse.collect.outputs.lumberjack import LumberjackOptions, LumberjackOutput
from lakehouse.collect.outputs.stdout import Stdout, StdoutOptions
from lakehouse.collect.plugins import Output, Plugin

OUTPUTS: dict[str, tuple[type[OutputOptions], Callable[[Any, Plugin, Refuse], Output]]] = {
    "elasticsearch": (ElasticsearchOptions, ElasticsearchOutput),
    "file": (FileOutputOptions, FileOutput),
    "kafka": (KafkaOptions, KafkaOutput),
    "lumberjack": (LumberjackOptions, LumberjackOutput),
    "stdout": (StdoutOptions, Stdout),
}


def opened(plugin: Plugin, refuse: Refuse) -> Output:
    """The output that a pipeline file describes; nothing is connected before events come.

    Args:
        plugin: its name and options.
        refuse: takes events that the output refuses for good.

    Raises:
        ConfigError: there is no such output, or an option is wrong.
    """
    return plugins.opened(plugin, OUTPUTS, refuse)
