"""The servers as data: commands, configurations, and what a cluster of them agrees on."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lakehouse import stack
from lakehouse.settings import CLUSTER, Local, Settings, load
from lakehouse.stack import StackError, control, servers


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("LAKEHOUSE_HOME", str(tmp_path / "home"))
    return load(profile=CLUSTER)


def place(settings: Settings, name: str) -> servers.Place:
    ports = {port: number for one in servers.local_servers(settings) for port, number in one.ports.items()}
    return servers.Place(settings, settings.home / "conf" / name, settings.home / "data" / name, ports)


def cluster_id(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(servers, "_kafka", lambda place, *main: list(main))
    command = servers._kafka_format(servers.Place(settings, settings.home, settings.home, {}))
    return command[command.index("-t") + 1]


def test_the_brokers_of_a_home_share_an_id_that_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = [Path(f"/home/{number}") for number in range(300)]  # one in 64 would begin with a dash
    ids = {cluster_id(Settings(home=home), monkeypatch) for home in homes}
    assert len(ids) == len(homes) and not any(found.startswith("-") for found in ids)
    assert cluster_id(Settings(home=homes[0]), monkeypatch) in ids


def test_a_single_server_of_a_kind_has_the_plain_name() -> None:
    names = [server.name for server in servers.local_servers(Settings())]
    assert names == ["kafka", "namenode", "datanode", "elasticsearch", "mongodb", "redis"]


def test_no_two_servers_of_a_cluster_share_a_port(cluster: Settings) -> None:
    ports = [port for server in servers.local_servers(cluster) for port in server.ports.values()]
    assert len(ports) == len(set(ports))


def test_three_brokers_agree_on_who_votes_and_keep_three_copies(cluster: Settings) -> None:
    found = {}
    for server in servers.local_servers(cluster):
        if server.name.startswith("kafka"):
            text = server.files(place(cluster, server.name))["server.properties"]
            found[server.name] = dict(re.findall(r"^([\w.]+)=(.*)$", text, re.MULTILINE))
    assert [conf["node.id"] for conf in found.values()] == ["1", "2", "3"]
    assert len({conf["controller.quorum.voters"] for conf in found.values()}) == 1
    for conf in found.values():
        assert {v for k, v in conf.items() if k.endswith("replication.factor")} == {"3"}
        assert {v for k, v in conf.items() if k.endswith(("min.isr", "insync.replicas"))} == {"2"}


def test_each_datanode_has_a_folder_and_ports_of_its_own(cluster: Settings) -> None:
    own = []
    for server in servers.local_servers(cluster):
        if server.name.startswith("datanode"):
            root = ElementTree.fromstring(server.files(place(cluster, server.name))["hdfs-site.xml"])
            conf = {row.findtext("name"): row.findtext("value") for row in root.iter("property")}
            assert conf["dfs.replication"] == "2"
            own += [conf[f"dfs.datanode.{key}"] for key in ("data.dir", "address", "http.address", "ipc.address")]
    assert len(own) == len(set(own)) == 12


def test_addresses_of_several_servers_are_one_settings_list(cluster: Settings) -> None:
    ports = control._default_ports(cluster)
    assert [ports[f"kafka-{n}"] for n in (1, 2, 3)] == [9092, 9094, 9096]
    fewer = cluster.model_copy(update={"local": Local(brokers=2)})
    with pytest.raises(StackError, match=r"kafka.bootstrap_servers names 3 addresses for 2 servers"):
        control._default_ports(fewer)


def test_data_of_another_layout_are_neither_used_nor_lost(cluster: Settings) -> None:
    kept = cluster.home / "data" / "kafka" / "log"
    kept.mkdir(parents=True)
    with pytest.raises(StackError, match=r"holds the data of kafka, which profile local-cluster does not run"):
        stack.up(cluster)
    assert kept.exists()


def test_the_profile_of_a_home_is_remembered_until_another_is_named(
    cluster: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.home.mkdir()
    (cluster.home / "profile").write_text("local-cluster\n")
    assert (load().profile, load().local.brokers) == ("local-cluster", 3)
    monkeypatch.setenv("LAKEHOUSE_PROFILE", "local")
    assert (load().profile, load(profile=CLUSTER).profile) == ("local", "local-cluster")
