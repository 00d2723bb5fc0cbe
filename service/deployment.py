"""The checks on all servers of an address before the service uses them: each node alone, and all together."""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from service.address import Address
from service.preflight import PreflightError, ServerReport, address_of, connect, inspect_server, look, trouble

SENTINELS_MINIMUM = 3  # of two, neither can outvote the other when one is lost
CLOCKS_APART_S = 1.0


class Deployment(msgspec.Struct, frozen=True):
    """What was found, for people: where it is in a few words, a line about each node, what is worth a warning.

    `replicas` are those of the primary that has the fewest.
    """

    place: str
    nodes: tuple[str, ...]
    persistence: str
    replicas: int
    warnings: tuple[str, ...]


class _Node(msgspec.Struct, frozen=True):
    """One server and what it has to do: `clock_s` is how far its clock is from ours."""

    report: ServerReport
    role: str
    clock_s: float

    @property
    def line(self) -> str:
        report = self.report
        return (
            f"node {report.address}: {self.role}, {report.kind} {report.version}, "
            f"maxmemory-policy {report.policy or 'hidden'}, {report.persistence}"
        )


def inspect(url: str, wait_replicas: int = 0, *, where: str = "") -> Deployment:
    """Look at every server of an address. `where` says more of a single server than its address.

    Raises PreflightError where a server will not do (see `inspect_server`), where there is no primary, and where slots
    of a cluster are not served. A replica that is out of reach or out of sync is a warning.
    """
    address = Address.parse(url)
    if address.kind == "sentinel":
        return _behind_sentinels(address, wait_replicas)
    if address.kind == "cluster":
        return _in_cluster(address, wait_replicas)
    report = inspect_server(url, wait_replicas)
    return Deployment(
        f"{report.kind} {report.version}, {where or f'at {report.address}'}",
        (f"role: {report.role}", f"maxmemory-policy: {report.policy or 'hidden'}"),
        report.persistence,
        report.replicas,
        report.warnings,
    )


def primaries(url: str) -> list[str]:
    """A URL for each server that holds data and takes changes. Raises PreflightError where one is missing."""
    address = Address.parse(url)
    if address.kind == "sentinel":
        return [_named_by_sentinels(address)]
    if address.kind == "cluster":
        _, shards, _ = _map_of(address)
        return [_leader(address, shard) for shard in shards if shard["slots"]]
    return [url]


def _named_by_sentinels(address: Address) -> str:
    troubles = []
    for url in address.urls:
        with connect(url) as client:
            try:
                if named := client.sentinel_get_master_addr_by_name(address.service):
                    return address.node_url(*named)
            except redis.RedisError as error:
                troubles.append(_sentinel_trouble(f"the Sentinel at {address_of(client)}", error))
    raise PreflightError(troubles[0] if troubles else _unknown(address.service))


def _behind_sentinels(address: Address, wait_replicas: int) -> Deployment:
    lines: list[str] = []
    warnings: list[str] = []
    states: list[dict[str, Any] | None] = []
    replicas: list[dict[str, Any]] = []
    for url in address.urls:
        with connect(url) as client:
            who = f"the Sentinel at {address_of(client)}"
            try:
                masters = client.sentinel_masters()
                states.append(masters.get(address.service))
                if not replicas and address.service in masters:
                    replicas = client.sentinel_slaves(address.service)
            except redis.RedisError as error:
                warnings.append(_sentinel_trouble(who, error))
            else:
                lines.append(f"sentinel {address_of(client)}: knows {', '.join(sorted(masters)) or 'no primary'}")
    if not states:
        raise PreflightError(warnings[0])
    state = _agreed(address.service, [each for each in states if each is not None])
    if state["num-other-sentinels"] + 1 < SENTINELS_MINIMUM:
        warnings.append(
            f"{state['num-other-sentinels'] + 1} Sentinels watch {address.service}: with fewer than "
            f"{SENTINELS_MINIMUM}, the loss of one leaves no majority to name another primary"
        )
    primary = _primary(address.node_url(state["ip"], state["port"]), f"primary of {address.service}", wait_replicas)
    urls = [address.node_url(each["ip"], each["port"]) for each in replicas]
    followers = [_replica(url, primary, warnings) for url in urls]
    if not followers:
        warnings.append(_no_replica(primary))
    nodes = [primary, *filter(None, followers)]
    return _found(f"{address.service} and {len(nodes) - 1} replicas, watched by Sentinels", nodes, lines, warnings)


def _sentinel_trouble(who: str, error: redis.RedisError) -> str:
    if isinstance(error, redis.AuthenticationError):
        return (
            f"{who} refuses the user or password: correct sentinel_username and sentinel_password in MATINEE_REDIS_URL"
        )
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"{who} forbids SENTINEL to this user: allow it (ACL SETUSER … +sentinel|masters +sentinel|slaves)"
    if isinstance(error, redis.ResponseError):
        return f"{who} is none: name Sentinels in MATINEE_REDIS_URL"
    return trouble(who, error)


def _agreed(service: str, states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a Sentinel says of a primary that is up. Raises PreflightError where none does."""
    if not states:
        raise PreflightError(_unknown(service))
    for state in states:
        if state["is_master"] and not state["is_sdown"] and not state["is_odown"]:
            return state
    raise PreflightError(
        f"{service} has no primary: its Sentinels see {states[0]['ip']}:{states[0]['port']} as down and have not "
        "named another"
    )


def _unknown(service: str) -> str:
    return f"no Sentinel knows a primary named {service}: correct the name in MATINEE_REDIS_URL"


def _in_cluster(address: Address, wait_replicas: int) -> Deployment:
    state, shards, warnings = _map_of(address)
    nodes: list[_Node] = []
    primaries = served = 0
    for shard in shards:
        if slots := sum(high - low + 1 for low, high in _ranges(shard["slots"])):
            nodes += _in_shard(address, shard, slots, wait_replicas, warnings)
            primaries, served = primaries + 1, served + slots
    if served < REDIS_CLUSTER_HASH_SLOTS:
        raise PreflightError(
            f"the cluster serves only {served} of {REDIS_CLUSTER_HASH_SLOTS} slots: give the others to a node"
        )
    if state != "ok":
        raise PreflightError(f"the cluster is down: its cluster_state is {state}")
    return _found(f"cluster of {primaries} primaries and {len(nodes) - primaries} replicas", nodes, [], warnings)


def _in_shard(
    address: Address, shard: dict[str, Any], slots: int, wait_replicas: int, warnings: list[str]
) -> list[_Node]:
    leader = _leader(address, shard)
    primary = _primary(leader, f"primary of {slots} slots", wait_replicas)
    members = [_url_of(address, each) for each in shard["nodes"]]
    replicas = [_replica(url, primary, warnings) for url in members if url != leader]
    if not replicas:
        warnings.append(_no_replica(primary))
    return [primary, *filter(None, replicas)]


def _leader(address: Address, shard: dict[str, Any]) -> str:
    for node in shard["nodes"]:
        if node["role"] == "master" and node["health"] == "online":
            return _url_of(address, node)
    slots = sum(high - low + 1 for low, high in _ranges(shard["slots"]))
    raise PreflightError(f"{slots} slots of the cluster have no primary that is online: start it, or wait for one")


def _map_of(address: Address) -> tuple[str, list[dict[str, Any]], list[str]]:
    """The state of the cluster and its shards, by the first node that answers; and what others answered instead."""
    troubles, found = [], None
    for url in address.urls:
        with connect(url) as client:
            who = f"the server at {address_of(client)}"
            try:
                client.execute_command("ASKING")
                client.cluster("SLOTS")
                found = found or (client.cluster("INFO")["cluster_state"], client.cluster("SHARDS"))
            except redis.exceptions.NoPermissionError as error:
                raise PreflightError(
                    f"{who} forbids CLUSTER or ASKING to this user: allow it "
                    "(ACL SETUSER … +asking +cluster|slots +cluster|shards +cluster|info)"
                ) from error
            except redis.ResponseError as error:
                raise PreflightError(
                    f"{who} is no node of a cluster: set MATINEE_REDIS_URL to redis://{address_of(client)}"
                ) from error
            except redis.RedisError as error:
                troubles.append(trouble(who, error))
    if found is None:
        raise PreflightError(troubles[0])
    return *found, troubles


def _ranges(slots: Sequence[Any]) -> Iterable[tuple[int, int]]:
    """The ranges of slots, flat or in pairs as redis-py's protocols have them."""
    flat = [int(slot) for each in slots for slot in (each if isinstance(each, list | tuple) else (each,))]
    return zip(flat[::2], flat[1::2], strict=True)


def _url_of(address: Address, node: dict[str, Any]) -> str:
    """Where clients reach a node: the name or IP address that it announces, and its port for TLS where that is used."""
    tls = address.urls[0].startswith("rediss:")
    return address.node_url(node.get("endpoint") or node["ip"], node["tls-port" if tls else "port"])


def _primary(url: str, role: str, wait_replicas: int) -> _Node:
    report, info = look(url, wait_replicas)
    if info["role"] != "master":
        raise PreflightError(
            f"the server at {report.address} is named as a primary and is a replica: wait until the failover is over"
        )
    return _Node(report, role, _clock_s(info))


def _replica(url: str, primary: _Node, warnings: list[str]) -> _Node | None:
    """A replica that answers; one that does not is worth a warning only, and so is one that is behind."""
    with connect(url) as client:
        try:
            client.ping()
        except redis.RedisError as error:
            warnings.append(f"the replica at {address_of(client)} is out of reach: {' '.join(str(error).split())}")
            return None
    report, info = look(url)
    in_sync = info.get("master_link_status") == "up"
    if not in_sync:
        warnings.append(
            f"the replica at {report.address} is not in sync: if it had to take over now, tickets would be lost"
        )
    role = f"replica of {primary.report.address}, {'in sync' if in_sync else 'out of sync'}"
    return _Node(report, role, _clock_s(info))


def _clock_s(info: dict[str, Any]) -> float:
    return float(info.get("server_time_usec", 0)) / 1e6 - time.time()


def _no_replica(primary: _Node) -> str:
    return f"the primary at {primary.report.address} has no replica: nothing takes over when it is lost"


def _found(place: str, nodes: Sequence[_Node], lines: Sequence[str], warnings: Sequence[str]) -> Deployment:
    """All of it for people; what several nodes are warned of is said once."""
    alike: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for warning in node.report.warnings:
            alike[warning].append(node.report.address)
    warned = [f"{', '.join(addresses)}: {warning}" for warning, addresses in alike.items()]
    clocks = [node.clock_s for node in nodes]
    if max(clocks) - min(clocks) > CLOCKS_APART_S:
        warned.append(
            f"the clocks of the servers are {max(clocks) - min(clocks):.0f} s apart, and each decides by its own when "
            "a film begins: keep them together (NTP)"
        )
    first = nodes[0].report
    return Deployment(
        f"{first.kind} {first.version}, {place}",
        (*lines, *(node.line for node in nodes)),
        "; ".join(sorted({node.report.persistence for node in nodes})),
        min(node.report.replicas for node in nodes if node.role.startswith("primary")),
        (*warnings, *warned),
    )
