"""Real clusters on loopback: three primaries with a replica each, and a primary with two replicas under Sentinels.

They are started from a server's binary, whole and in sync before a test sees them: `master_link_status:up` on every
replica and `cluster_state:ok` on every node, for a replica that is only "online" may still miss writes. Tests kill
nodes, hand over primaries and move slots, then call `heal`; which node has which role is theirs to ask.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from tests.replication import Link

LOST_AFTER_MS = 1000  # of silence
WHOLE_WITHIN_S = 30  # a bound for a hang: a Sentinel looks at its replicas only every ten seconds
SERVICE = "boxes"


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now, each another.

    Below those that the kernel gives to outgoing connections: a server that is killed must find its port free.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < count:
            port = secrets.choice(range(10_000, 32_768))
            with contextlib.suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def until(condition: Callable[[], Any], what: str, within_s: float = WHOLE_WITHIN_S) -> None:
    """Wait until `condition` is true; a server that is away for the moment makes it false."""
    deadline = time.monotonic() + within_s
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s: {what}")
        time.sleep(0.02)


def slot_of(theatre: str) -> int:
    """The slot of all keys of a theatre."""
    return int(key_slot(theatre.encode()))


class Node:
    """One server process with an append-only file, which can be killed and started again."""

    def __init__(self, binary: str, folder: Path, port: int, *options: str) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.folder = folder
        self._command = [binary, *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self._log = folder / "log"
        self.client = redis.Redis(port=port, retry=Retry(NoBackoff(), 1), socket_timeout=2, decode_responses=True)
        self.start()

    def start(self, *options: str) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*self._command, *options], stdout=log, stderr=log)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would end it."""
        self._process.kill()
        self._process.wait(10)
        self.client.connection_pool.disconnect()

    def ask(self, *words: str | int) -> Any:
        return self.client.execute_command(*words)

    @property
    def is_primary(self) -> bool:
        return self.ask("ROLE")[0] == "master"

    @property
    def in_sync(self) -> bool:
        """Whether it is a primary, or a replica that has all of its primary's data."""
        replication = self.client.info("replication")
        return replication["role"] == "master" or replication["master_link_status"] == "up"


class _Servers:
    """The processes of one deployment and their folder."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        # In memory where that can be had: a disk that is busy for a second would look like a lost server.
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="mt-", dir=memory))
        self.nodes: list[Node] = []
        self.sentinels: list[Node] = []

    def _start(self, port: int, *options: str) -> Node:
        folder = self._folder / str(port)
        folder.mkdir()
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        node = Node(self.binary, folder, port, *options, *quick, "--save", "", "--appendonly", "yes")
        self.nodes.append(node)
        return node

    def stop(self) -> None:
        """End all servers, and forget their data."""
        for node in (*self.sentinels, *self.nodes):
            node.kill()
        shutil.rmtree(self._folder)

    def primaries(self) -> list[Node]:
        return [node for node in self.nodes if node.alive and node.is_primary]

    def at(self, port: int) -> Node:
        return next(node for node in self.nodes if node.port == port)

    def replicas(self) -> list[Node]:
        return [node for node in self.nodes if node.alive and not node.is_primary]

    def replicas_of(self, primary: Node) -> list[Node]:
        """Those that follow a primary."""
        return [self.at(int(port)) for _, port, _ in primary.ask("ROLE")[2]]

    def _wait_for_diverted(self, replicas: list[Node], link: Link) -> None:
        def follows(node: Node) -> bool:
            replication = node.client.info("replication")
            return replication["master_port"] == link.port and replication["master_link_status"] == "up"

        until(lambda: all(map(follows, replicas)), "the replicas follow over the link")

    def clear(self) -> None:
        """Empty all servers; every replica has followed when this returns."""
        until(self._is_emptied, "the replicas follow")

    def _is_emptied(self) -> bool:
        primaries = self.primaries()  # now, for a busy machine may change them
        followers = (len(self.nodes) - len(primaries)) // len(primaries)
        for node in primaries:
            node.client.flushall()
            node.client.script_flush()
        return all(node.ask("WAIT", followers, 100) == followers for node in primaries)


class ClusterOfSix(_Servers):
    """Three primaries, each with a replica, and all slots served."""

    def __init__(self, binary: str) -> None:
        super().__init__(binary)
        self._moved: set[int] = set()
        ports = free_ports(12)
        for port, bus in zip(ports[:6], ports[6:], strict=True):
            self._start(
                port,
                *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                *("--cluster-node-timeout", str(LOST_AFTER_MS)),
                *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            )
        until(lambda: all(node.client.ping() for node in self.nodes), "all nodes answer")
        first, *others = self.nodes

        def have_met() -> bool:
            if all(len(self._known(node)) == 6 for node in self.nodes):
                return True
            for node, bus in zip(others, ports[7:], strict=True):  # again and again: a slow handshake is given up
                first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
            return False

        until(have_met, "all nodes know each other")
        ranges = ((0, 5460), (5461, 10922), (10923, 16383))
        for (low, high), primary, replica in zip(ranges, self.nodes[:3], self.nodes[3:], strict=True):
            primary.ask("CLUSTER", "ADDSLOTSRANGE", low, high)
            replica.ask("CLUSTER", "REPLICATE", self.id_of(primary))
        self.heal()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes[:3])}"

    def heal(self, within_s: float = WHOLE_WITHIN_S) -> None:
        """Start what was killed, wait until three pairs in sync serve all slots, and bring back those that moved."""
        self.require_full_coverage("yes")
        for node in self.nodes:
            if not node.alive:
                node.start()
        until(lambda: all(self._sees_a_whole(node) for node in self.nodes), "every node sees a whole cluster", within_s)
        until(self._agree, "the nodes agree who serves what", within_s)
        for slot in self._moved:
            source, home = self._serving(slot), self._serving(slot - 1)
            if source is not home:
                migration = Migration(self, slot, source, home)
                migration.begin()
                migration.finish()
        self._moved.clear()

    def id_of(self, node: Node) -> str:
        return str(node.ask("CLUSTER", "MYID"))

    def owner(self, theatre: str) -> Node:
        """The primary that serves a theatre, as it says itself."""
        return self._serving(slot_of(theatre))

    def _serving(self, slot: int) -> Node:
        return next(node for node in self.primaries() if any(low <= slot <= high for low, high in self._own(node)))

    def replica_of(self, primary: Node) -> Node:
        """The one replica of a primary."""
        [replica] = self.replicas_of(primary)
        return replica

    def divert(self, primary: Node) -> Link:
        """Have the replica of a primary follow it over a link that can be held; return the link."""
        link = Link(primary.port)
        primary.client.config_set("cluster-announce-port", link.port)  # whoever asks the cluster goes there too
        self._wait_for_diverted(self.replicas_of(primary), link)
        return link

    def hand_over(self, theatre: str) -> None:
        """Have a theatre's replica take the place of its primary, without a loss: writes rest while it catches up.

        The others do not vote for the same pair twice within twice LOST_AFTER_MS, so a replica may have to be asked
        again: it gives up after five seconds.
        """
        replica = self.replica_of(self.owner(theatre))
        while not replica.is_primary:
            replica.ask("CLUSTER", "FAILOVER")
            with contextlib.suppress(TimeoutError):
                until(lambda: replica.is_primary, "the replica is the primary", within_s=6)

    @contextlib.contextmanager
    def at_odds(self, theatre: str) -> Iterator[None]:
        """A primary sends on whoever asks for a theatre, to one that sends back; there must be no tickets.

        Only the first half of a migration is begun. Two primaries that each name the other as the owner would send
        in a circle too, but the other nodes hear of it, and Redis 7 may lose the slot by the next failover.
        """
        slot, owner = slot_of(theatre), self.owner(theatre)
        [other, *_] = [node for node in self.primaries() if node is not owner]
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(other))
        try:
            yield
        finally:
            owner.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    def kill_shard(self, theatre: str) -> None:
        """Kill the primary that serves a theatre, and its replica first, so that nothing takes over."""
        primary = self.owner(theatre)
        self.replica_of(primary).kill()
        primary.kill()

    def require_full_coverage(self, answer: str) -> None:
        """Whether a node refuses everything while the slots of others are not served: "yes" by default, or "no"."""
        for node in self.nodes:
            if node.alive:
                node.client.config_set("cluster-require-full-coverage", answer)

    @contextlib.contextmanager
    def migrating(self, theatre: str) -> Iterator["Migration"]:
        """Move a theatre's slot to the next primary, key by key, as `redis-cli --cluster reshard` does."""
        source = self.owner(theatre)
        others = [node for node in self.primaries() if node is not source]
        migration = Migration(self, slot_of(theatre), source, others[0])
        self._moved.add(migration.slot)
        migration.begin()
        try:
            yield migration
        finally:
            migration.finish()

    def _own(self, node: Node) -> list[tuple[int, int]]:
        """The ranges of slots that a node says it serves."""
        [me] = [one for one in node.client.cluster("NODES").values() if "myself" in one["flags"]]
        return [(int(span[0]), int(span[-1])) for span in me["slots"]]

    def _known(self, node: Node) -> dict[str, Any]:
        known: dict[str, Any] = node.client.cluster("NODES")
        return {address: one for address, one in known.items() if "handshake" not in one["flags"]}

    def _agree(self) -> bool:
        """Whether all nodes have the same map of slots, and it is whole."""
        maps = [
            sorted((low, high, primary[1]) for low, high, primary, *_ in node.ask("CLUSTER", "SLOTS"))
            for node in self.nodes
        ]
        return all(each == maps[0] for each in maps) and sum(high - low + 1 for low, high, _ in maps[0]) == 16384

    def _sees_a_whole(self, node: Node) -> bool:
        known = self._known(node).values()
        primaries = [one for one in known if "master" in one["flags"] and one["slots"]]
        return (
            len(known) == 6
            and not any("fail" in one["flags"] for one in known)
            and len(primaries) == 3
            and {one["master_id"] for one in known} == {"-", *(one["node_id"] for one in primaries)}
            and node.client.cluster("INFO")["cluster_state"] == "ok"
            and node.in_sync
        )


class Migration:
    """One slot on its way from a primary to another."""

    def __init__(self, cluster: ClusterOfSix, slot: int, source: Node, target: Node) -> None:
        self.slot, self.source, self.target = slot, source, target
        self._cluster = cluster
        self._ids = cluster.id_of(source), cluster.id_of(target)

    def begin(self) -> None:
        """From now on the source sends to the target whoever asks for keys that are not there."""
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self._ids[0])
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self._ids[1])

    def move(self, *keys: str) -> None:
        """Carry these keys over."""
        self.source.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)

    def keys_left(self, most: int = 1000) -> list[str]:
        """Keys of the slot that are still at the source."""
        found: list[str] = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, most)
        return found

    def trickle(self, pieces: int = 1000) -> None:
        """Carry up to so many small pieces over, so that the theatre is split for a while."""
        for _ in range(pieces):
            keys = self.keys_left(5)
            if not keys:
                return
            self.move(*keys)
            time.sleep(0.01)

    def finish(self) -> None:
        """Carry over what is left, and give the slot to the target."""
        while keys := self.keys_left():
            self.move(*keys)
        for node in (self.target, self.source, *self._cluster.primaries()):
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self._ids[1])


class PrimaryOfTwo(_Servers):
    """A primary and two replicas, and three Sentinels that watch them."""

    def __init__(self, binary: str) -> None:
        super().__init__(binary)
        ports = free_ports(6)
        self._start(ports[0])
        for port in ports[1:3]:
            self._start(port, "--replicaof", f"127.0.0.1 {ports[0]}")
        ids = [secrets.token_hex(20) for _ in range(3)]
        for port, own in zip(ports[3:], ids, strict=True):
            known = [f"sentinel known-replica {SERVICE} 127.0.0.1 {replica}" for replica in ports[1:3]]
            known += [
                f"sentinel known-sentinel {SERVICE} 127.0.0.1 {other_port} {other}"
                for other_port, other in zip(ports[3:], ids, strict=True)
                if other != own
            ]
            self._start_sentinel(port, own, ports[0], known)
        self.heal()

    def _start_sentinel(self, port: int, own_id: str, primary: int, known: list[str]) -> None:
        """A Sentinel that knows the others from the beginning, and need not find them."""
        folder = self._folder / str(port)
        folder.mkdir()
        lines = [
            f"sentinel myid {own_id}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2",
            f"sentinel down-after-milliseconds {SERVICE} {LOST_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 3000",
            f"sentinel parallel-syncs {SERVICE} 2",
            *known,
        ]
        configuration = folder / "sentinel.conf"
        configuration.write_text("\n".join([*lines, ""]))
        self.sentinels.append(Node(self.binary, folder, port, str(configuration), "--sentinel"))

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{SERVICE}"

    @property
    def failovers(self) -> int:
        """How many there have been: their epoch."""
        return int(self.sentinels[0].client.sentinel_master(SERVICE)["config-epoch"])

    def owner(self, _theatre: str) -> Node:
        """The primary, whatever the theatre."""
        return self.primary

    @property
    def primary(self) -> Node:
        """The primary that the Sentinels name."""
        return self.at(self.sentinels[0].client.sentinel_master(SERVICE)["port"])

    def hand_over(self) -> None:
        """Have another server made the primary, without a loss: writes rest while it catches up.

        Valkey 9's Sentinels see to that; elsewhere the primary is paused first.
        """
        how = ["COORDINATED"] if "valkey" in self.binary else []
        if not how:
            self.primary.ask("CLIENT", "PAUSE", 10_000, "WRITE")
        # They refuse while they are not done with the failover before.
        until(lambda: self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE, *how), "the Sentinels take the order")

    def divert(self, primary: Node) -> Link:
        """Have the replicas follow the primary over a link that can be held; return the link.

        Sentinels put up with it as long as a failover may take them.
        """
        link, replicas = Link(primary.port), self.replicas_of(primary)
        for node in replicas:
            node.ask("REPLICAOF", "127.0.0.1", link.port)
        self._wait_for_diverted(replicas, link)
        return link

    def lose(self) -> None:
        """Kill the primary."""
        self.primary.kill()

    def change(self, how: Callable[[], object]) -> None:
        """Have the primary changed by `hand_over` or `lose`; return when the Sentinels name another one."""
        former = self.primary
        how()
        until(lambda: self.primary is not former and self.primary.is_primary, "another server is the primary")

    def heal(self, within_s: float = WHOLE_WITHIN_S) -> None:
        """Start what was killed, a former primary as a replica, and wait until all is watched and in sync."""
        for sentinel in self.sentinels:
            if not sentinel.alive:
                sentinel.start()
        until(lambda: self.primary.alive and self.primary.is_primary, "there is a primary")
        for node in self.nodes:
            if not node.alive:
                node.start("--replicaof", f"127.0.0.1 {self.primary.port}")
        until(lambda: all(node.client.ping() for node in self.nodes), "all servers answer")
        for node in self.nodes:
            if node is not self.primary and node.is_primary:
                node.ask("REPLICAOF", "127.0.0.1", self.primary.port)  # Sentinels would, in ten seconds
        until(lambda: all(map(self._sees_all, self.sentinels)), "every Sentinel sees all servers", within_s)
        until(lambda: all(node.in_sync for node in self.nodes), "the replicas are in sync", within_s)
        for node in self.nodes:
            node.ask("CLIENT", "UNPAUSE")

    def _sees_all(self, sentinel: Node) -> bool:
        master = sentinel.client.sentinel_master(SERVICE)
        replicas = sentinel.client.sentinel_slaves(SERVICE)
        return (
            master["port"] == self.primary.port
            and not master["is_sdown"]
            and master["num-other-sentinels"] == 2
            and len(replicas) == 2
            and not any(each["is_sdown"] or each["is_disconnected"] for each in replicas)
        )
