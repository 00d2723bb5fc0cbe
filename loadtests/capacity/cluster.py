"""Primaries of a Valkey Cluster on loopback, without replicas, in the settings of the benchmark's stores."""

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import redis

from loadtests.starter import LoadError, running
from service.embedded import bundled_binary

SLOTS = 16384
WHOLE_WITHIN_S = 30.0


class Shards(msgspec.Struct, frozen=True):
    """Stores that share the theatres: the address for the service, and the ports and processes behind it."""

    url: str
    ports: tuple[int, ...]
    pids: tuple[int, ...]

    @property
    def version(self) -> str:
        """Of the first server."""
        with redis.Redis(port=self.ports[0]) as client:
            return str(client.info("server")["valkey_version"])

    def empty(self) -> None:
        """Forget everything."""
        for port in self.ports:
            with redis.Redis(port=port) as client:
                client.flushall()


@contextmanager
def shards(folder: Path, count: int) -> Iterator[Shards]:
    """One server by itself, or a cluster of several whose slots are shared out evenly.

    Each appends to its file and flushes it once a second. Raises LoadError where they do not become one.
    """
    folder.mkdir()
    ports = _free_ports(2 * count)
    own, bus = ports[:count], ports[count:]
    with ExitStack() as stack:
        pids = []
        for port, bus_port in zip(own, bus, strict=True):
            home = folder / str(port)
            home.mkdir()
            command = [str(bundled_binary()), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home)]
            command += ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
            command += ["--auto-aof-rewrite-percentage", "0", "--maxmemory-policy", "noeviction"]
            if count > 1:
                command += ["--cluster-enabled", "yes", "--cluster-port", str(bus_port)]
            pids.append(stack.enter_context(running(command, home / "log", {})).pid)
        if count == 1:
            _wait_for(own, lambda client: bool(client.ping()))
            yield Shards(f"redis://127.0.0.1:{own[0]}", tuple(own), tuple(pids))
            return
        _join(own, bus)
        addresses = ",".join(f"127.0.0.1:{port}" for port in own)
        yield Shards(f"redis+cluster://{addresses}", tuple(own), tuple(pids))


def _join(ports: Sequence[int], bus: Sequence[int]) -> None:
    """Share the slots out and make the servers one cluster."""
    _wait_for(ports, lambda client: bool(client.ping()))
    bounds = [SLOTS * number // len(ports) for number in range(len(ports) + 1)]
    for number, port in enumerate(ports):
        with redis.Redis(port=port) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            if number:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], bus[0])
    _wait_for(ports, lambda client: client.cluster("INFO")["cluster_state"] == "ok" and _knows(client, len(ports)))


def _knows(client: redis.Redis, count: int) -> bool:
    shares = client.execute_command("CLUSTER", "SLOTS")
    return sum(high - low + 1 for low, high, *_ in shares) == SLOTS and len(shares) == count


def _wait_for(ports: Sequence[int], is_well: Callable[[redis.Redis], bool]) -> None:
    deadline = time.monotonic() + WHOLE_WITHIN_S
    for port in ports:
        with redis.Redis(port=port) as client:
            while True:
                try:
                    if is_well(client):
                        break
                    trouble = "it is not whole"
                except redis.RedisError as error:
                    trouble = str(error)
                if time.monotonic() > deadline:
                    raise LoadError(f"the store at port {port} did not get ready: {trouble}")
                time.sleep(0.02)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in free]
