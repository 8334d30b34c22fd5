"""Asks each server for real work of the smallest kind; each probe raises when the server is not ready."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from lakehouse.stack.errors import StackError

PATIENCE_S = 3.0
"""How long one question may take."""


def listens(host: str, port: int) -> None:
    """Something accepts connections there. Clients below retry for long by themselves, so this is asked first."""
    socket.create_connection((host, port), timeout=PATIENCE_S).close()


def kafka(bootstrap_servers: str, port: int | None = None) -> None:
    """A broker answers a metadata request; ``port``: the one that listens there is among the cluster's."""
    from confluent_kafka.admin import AdminClient

    host, _, first = bootstrap_servers.split(",")[0].strip().rpartition(":")
    listens(host, int(first))
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    brokers = admin.list_topics(timeout=PATIENCE_S).brokers.values()
    if not brokers or (port is not None and port not in {broker.port for broker in brokers}):
        raise StackError("no broker registered")


def jmx(http: str, bean: str) -> dict[str, Any]:
    """The attributes of a bean of Hadoop's, such as ``NameNode,name=NameNodeInfo``."""
    with urllib.request.urlopen(f"http://{http}/jmx?qry=Hadoop:service={bean}", timeout=PATIENCE_S) as answer:
        beans: list[dict[str, Any]] = json.load(answer)["beans"]
    if not beans:
        raise StackError(f"no {bean} yet")
    return beans[0]


def namenode(http: str) -> None:
    """The NameNode is out of safe mode and knows a live DataNode."""
    info = jmx(http, "NameNode,name=NameNodeInfo")
    if info["Safemode"] or not json.loads(info["LiveNodes"]):
        raise StackError("in safe mode" if info["Safemode"] else "no live DataNode")


def datanode(http: str) -> None:
    """The DataNode is registered with its NameNode and hears from it."""
    actors = json.loads(jmx(http, "DataNode,name=DataNodeInfo")["BPServiceActorInfo"])
    if not any(actor["ActorState"] == "RUNNING" and int(actor["LastHeartbeat"]) < 10 for actor in actors):
        raise StackError("not registered with the NameNode")


def _spark(http: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://{http}/json/", timeout=PATIENCE_S) as answer:
        state: dict[str, Any] = json.load(answer)
    return state


def spark_master(http: str) -> None:
    """The master leads: it takes applications."""
    if (status := _spark(http)["status"]) != "ALIVE":
        raise StackError(f"the master is {status}")


def spark_worker(master_http: str, port: int) -> None:
    """The master has heard from the worker of this port and gives it work."""
    if not any(w["port"] == port and w["state"] == "ALIVE" for w in _spark(master_http)["workers"]):
        raise StackError("not registered with the master")


def hdfs(uri: str) -> None:
    """The NameNode accepts connections; a name service without a port is the client's to find."""
    parts = urlsplit(uri)
    if parts.hostname and parts.port:
        listens(parts.hostname, parts.port)


def elasticsearch(url: str) -> None:
    """The root answers and the cluster's health is not red."""
    from elasticsearch import Elasticsearch

    parts = urlsplit(url)
    listens(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    with Elasticsearch(url, request_timeout=PATIENCE_S, max_retries=0) as client:
        client.info()
        if client.cluster.health()["status"] == "red":
            raise StackError("cluster health is red")


def mongodb(uri: str) -> None:
    """The server answers ``hello`` as one that takes writes."""
    from pymongo import MongoClient

    patience: dict[str, Any] = (
        {} if "serverSelectionTimeoutMS" in uri else {"serverSelectionTimeoutMS": int(PATIENCE_S * 1000)}
    )
    with MongoClient[dict[str, Any]](uri, **patience) as client:
        if not client.admin.command("hello").get("isWritablePrimary"):
            raise StackError("takes no writes")


def redis(url: str) -> None:
    """The server answers PING and has its data in memory."""
    from redis import Redis

    with Redis.from_url(url, socket_timeout=PATIENCE_S, socket_connect_timeout=PATIENCE_S) as client:
        client.ping()
