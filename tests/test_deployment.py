"""The checks on Sentinels and on a cluster: what is told of each node, what is refused, what is warned of."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.deployment import inspect
from service.preflight import PreflightError
from tests.clusters import SERVICE, ClusterOfSix, Node, PrimaryOfTwo, slot_of, until

GOOD = r"(Valkey 9|Redis 7)\S+, maxmemory-policy noeviction, append-only file, flushed once a second: .*"


def refusal(url: str) -> str:
    with pytest.raises(PreflightError) as error:
        inspect(url)
    line = str(error.value)
    assert "\n" not in line
    assert "s3cret" not in line
    return line


@contextmanager
def set_to(node: Node, directive: str, value: str) -> Iterator[None]:
    before = node.client.config_get(directive)[directive]
    node.client.config_set(directive, value)
    try:
        yield
    finally:
        node.client.config_set(directive, before)


# A cluster


def test_tells_every_node_of_a_cluster(cluster: ClusterOfSix) -> None:
    found = inspect(cluster.url)
    assert found.place.endswith(", cluster of 3 primaries and 3 replicas")
    assert found.replicas == 1
    assert found.warnings == ()
    for node in cluster.nodes:
        [line] = [line for line in found.nodes if line.startswith(f"node {node.address}: ")]
        role = r"primary of 546\d slots" if node.is_primary else r"replica of 127.0.0.1:\d+, in sync"
        assert re.fullmatch(rf"node \S+: {role}, {GOOD}", line)


def test_refuses_any_node_that_would_delete_tickets(cluster: ClusterOfSix) -> None:
    replica = cluster.replicas()[0]
    with set_to(replica, "maxmemory-policy", "allkeys-lru"):
        assert f"the server at {replica.address} has maxmemory-policy allkeys-lru" in refusal(cluster.url)


def test_says_once_what_all_nodes_are_warned_of(cluster: ClusterOfSix) -> None:
    first, second = cluster.primaries()[:2]
    with set_to(first, "appendfsync", "no"), set_to(second, "appendfsync", "no"):
        [warning] = inspect(cluster.url).warnings
    assert "appendfsync is no" in warning
    assert first.address in warning
    assert second.address in warning


def test_refuses_a_cluster_that_does_not_serve_all_slots(cluster: ClusterOfSix) -> None:
    slot = slot_of("nobody")
    for node in cluster.nodes:
        node.ask("CLUSTER", "DELSLOTS", slot)
    try:
        assert refusal(cluster.url) == "the cluster serves only 16383 of 16384 slots: give the others to a node"
    finally:
        cluster.primaries()[0].ask("CLUSTER", "ADDSLOTS", slot)


def test_warns_of_a_replica_that_is_out_of_reach(cluster: ClusterOfSix) -> None:
    replica = cluster.replicas()[0]
    replica.kill()
    warnings = inspect(cluster.url).warnings
    assert any(f"the replica at {replica.address} is out of reach: " in warning for warning in warnings)


def test_refuses_a_node_of_a_cluster_that_is_named_as_a_single_server(cluster: ClusterOfSix) -> None:
    address = cluster.primaries()[0].address
    assert f"a node of a cluster: set MATINEE_REDIS_URL to redis+cluster://{address}" in refusal(f"redis://{address}")


def test_goes_on_with_the_nodes_that_answer(cluster: ClusterOfSix) -> None:
    found = inspect(f"redis+cluster://127.0.0.1:1,{cluster.nodes[0].address}")
    assert len(found.nodes) == 6
    [warning] = found.warnings
    assert warning.startswith("cannot reach the server at 127.0.0.1:1: ")
    assert refusal("redis+cluster://clerk:s3cret@127.0.0.1:1,127.0.0.1:2") == warning


@pytest.mark.parametrize("right", ["-asking", "-cluster|slots"])
def test_names_the_rights_that_a_cluster_asks_for(cluster: ClusterOfSix, right: str) -> None:
    node = cluster.nodes[0]
    node.ask("ACL", "SETUSER", "clerk", "on", ">s3cret", "~*", "+@all", right)
    try:
        line = refusal(f"redis+cluster://clerk:s3cret@{node.address}")
    finally:
        node.client.acl_deluser("clerk")
    assert "forbids CLUSTER or ASKING to this user: allow it (ACL SETUSER … +asking +cluster|slots" in line


# Sentinels


def test_tells_every_server_and_every_sentinel(sentinels: PrimaryOfTwo) -> None:
    found = inspect(sentinels.url)
    assert found.place.endswith(f", {SERVICE} and 2 replicas, watched by Sentinels")
    assert found.replicas == 2
    assert found.warnings == ()
    for sentinel in sentinels.sentinels:
        assert f"sentinel {sentinel.address}: knows {SERVICE}" in found.nodes
    for node in sentinels.nodes:
        [line] = [line for line in found.nodes if line.startswith(f"node {node.address}: ")]
        primary = sentinels.primary
        role = f"primary of {SERVICE}" if node is primary else f"replica of {primary.address}, in sync"
        assert re.fullmatch(rf"node \S+: {role}, {GOOD}", line)


def test_refuses_a_name_that_no_sentinel_knows(sentinels: PrimaryOfTwo) -> None:
    url = sentinels.url.replace(SERVICE, "nobody")
    assert refusal(url) == "no Sentinel knows a primary named nobody: correct the name in MATINEE_REDIS_URL"


def test_refuses_a_server_in_the_place_of_a_sentinel(sentinels: PrimaryOfTwo) -> None:
    line = refusal(f"redis+sentinel://{sentinels.primary.address}/{SERVICE}")
    assert line.endswith("is none: name Sentinels in MATINEE_REDIS_URL")


def test_refuses_a_single_server_that_is_named_as_a_cluster(sentinels: PrimaryOfTwo) -> None:
    address = sentinels.primary.address
    line = refusal(f"redis+cluster://{address}")
    assert line == f"the server at {address} is no node of a cluster: set MATINEE_REDIS_URL to redis://{address}"


def test_warns_of_a_sentinel_that_is_out_of_reach(sentinels: PrimaryOfTwo) -> None:
    found = inspect(sentinels.url.replace("//", "//127.0.0.1:1,"))
    [warning] = found.warnings
    assert warning.startswith("cannot reach the Sentinel at 127.0.0.1:1: ")
    assert refusal(f"redis+sentinel://127.0.0.1:1/{SERVICE}?sentinel_password=s3cret") == warning


def test_names_the_password_of_the_sentinels(sentinels: PrimaryOfTwo) -> None:
    line = refusal(f"{sentinels.url}?sentinel_username=usher&sentinel_password=s3cret")
    assert line.endswith("correct sentinel_username and sentinel_password in MATINEE_REDIS_URL")


def test_warns_of_a_replica_that_is_out_of_sync(sentinels: PrimaryOfTwo) -> None:
    replica = sentinels.replicas()[0]
    with set_to(replica, "masterauth", "not the password"), set_to(sentinels.primary, "requirepass", "s3cret"):
        sentinels.primary.ask("CLIENT", "KILL", "TYPE", "replica")
        until(lambda: not replica.in_sync, "the replica has lost its primary")
        warnings = inspect(sentinels.url.replace("//", "//:s3cret@")).warnings
    assert any(f"the replica at {replica.address} is not in sync" in warning for warning in warnings)
