"""`make bench-durability`: what it costs that an answered booking survives, as ratios within one run.

Four services stand side by side and take turns: the embedded server flushing once a second and before every answer, and
a primary with one replica that is waited for or not. Each answers bookings from 1 connection and from 64. The figures
belong to the disk of `--folder` and to a replica on the same machine: the flush time is printed with them.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import redis

from service.embedded import bundled_binary

ROOT = Path(__file__).parent.parent
CONNECTIONS = (1, 64)
TIMINGS = tuple(f"{hour:02}:00" for hour in range(24))
DAYS = 6
WAIT_S = 30
HEAD_END = b"\r\n\r\n"


class BenchError(Exception):
    """No figures: a service did not start, or did not answer as it should. The message is for people."""


class Mode(msgspec.Struct):
    """One way to be durable, its service's port, and per number of connections what each turn measured."""

    name: str
    port: int
    rates: dict[int, list[float]]
    latencies_ms: dict[int, list[float]]

    def rate(self, connections: int) -> float:
        """Bookings per second, the median of the turns."""
        return statistics.median(self.rates[connections])


class Customer(asyncio.Protocol):
    """One connection that books again as soon as it has its answer."""

    def __init__(self, request: bytes, latencies_ms: list[float]) -> None:
        self._request = request
        self._latencies_ms = latencies_ms
        self._buffer = b""
        self._ends_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def book_until(self, ends_at: float) -> None:
        """Begin; `done` tells the end."""
        self._ends_at = ends_at
        self._send()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._buffer += data
        head, found, body = self._buffer.partition(HEAD_END)
        if not found or len(body) < int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 201"):
            self.done.set_exception(BenchError(f"a booking was answered {self._buffer.decode(errors='replace')}"))
            return
        self._latencies_ms.append((time.perf_counter() - self._sent_at) * 1000)
        if time.perf_counter() < self._ends_at:
            self._send()
        else:
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Too early, or at the end."""
        if not self.done.done():
            self.done.set_exception(BenchError(f"the service closed a connection ({error})"))

    def _send(self) -> None:
        self._buffer = b""
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def leave(self) -> None:
        """Close the connection."""
        self._transport.abort()


async def turn(mode: Mode, connections: int, seconds: float, label: str) -> None:
    """Book at one service for so many seconds and note rate and latencies."""
    body = msgspec.json.encode({"name": "Asha Rao", "phone": "+919812345678", "timing": label})
    head = (
        f"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    request = head.encode() + HEAD_END + body
    latencies_ms: list[float] = []
    loop = asyncio.get_running_loop()
    customers = [
        (await loop.create_connection(lambda: Customer(request, latencies_ms), "127.0.0.1", mode.port))[1]
        for _ in range(connections)
    ]
    began = time.perf_counter()
    for customer in customers:
        customer.book_until(began + seconds)
    try:
        await asyncio.gather(*(customer.done for customer in customers))
    finally:
        for customer in customers:
            customer.leave()
    mode.rates[connections].append(len(latencies_ms) / (time.perf_counter() - began))
    mode.latencies_ms[connections] += latencies_ms


async def measure(modes: Sequence[Mode], rounds: int, seconds: float) -> None:
    """Let the modes take turns; the first turn of each fills the caches and does not count."""
    tomorrow = datetime.now(UTC).date() + timedelta(days=1)
    labels = [f"{tomorrow + timedelta(days=day)}T{timing}" for day in range(DAYS) for timing in TIMINGS]
    for number in range(rounds + 1):
        for connections in CONNECTIONS:
            for mode in modes:
                if sys.stderr.isatty():
                    print(f"\rround {number} of {rounds}, {mode.name} …\033[K", end="", file=sys.stderr)
                await turn(mode, connections, seconds if number else 0.5, labels[number % len(labels)])
        if number == 0:
            for mode in modes:
                for connections in CONNECTIONS:
                    mode.rates[connections].clear()
                    mode.latencies_ms[connections].clear()
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)


@contextlib.contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run a process for as long as the block lasts."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(WAIT_S)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(folder: Path, name: str, variables: Mapping[str, str]) -> Iterator[Mode]:
    """A service with one web process."""
    port = free_port()
    environment = {key: text for key, text in os.environ.items() if not key.startswith("MATINEE_")} | {
        "MATINEE_PORT": str(port),
        "MATINEE_WORKERS": "1",
        "MATINEE_CAPACITY": "100000",
        "MATINEE_TIMINGS": ",".join(TIMINGS),
        **variables,
    }
    log = folder / f"{port}.log"
    with running([sys.executable, "-m", "service", "serve"], log, environment):
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                break
            if time.monotonic() > deadline:
                raise BenchError(f"the service {name} did not get ready:\n{log.read_text()}")
            time.sleep(0.05)
        yield Mode(name, port, {n: [] for n in CONNECTIONS}, {n: [] for n in CONNECTIONS})


@contextlib.contextmanager
def primary_and_replica(folder: Path) -> Iterator[str]:
    """Two servers with append-only files; the primary's URL once the replica has its first copy."""
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        for port, more in zip(ports, ([], ["--replicaof", f"127.0.0.1 {ports[0]}"]), strict=True):
            data = folder / str(port)
            data.mkdir()
            options = [
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(data),
                "--save",
                "",
                "--appendonly",
                "yes",
            ]
            stack.enter_context(running([str(bundled_binary()), *options, *more], data / "log"))
        deadline = time.monotonic() + WAIT_S
        with redis.Redis(port=ports[1]) as client:
            while True:
                with contextlib.suppress(redis.RedisError):
                    if client.info("replication")["master_link_status"] == "up":
                        break
                if time.monotonic() > deadline:
                    raise BenchError("the replica did not get its first copy")
                time.sleep(0.05)
        yield f"redis://127.0.0.1:{ports[0]}"


def flush_ms(folder: Path) -> float:
    """What one flush of an appended booking takes here: the median of 200, milliseconds."""
    times = []
    with (folder / "flush").open("ab", buffering=0) as file:
        for _ in range(200):
            file.write(b"x" * 400)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


def report(modes: Sequence[Mode]) -> None:
    """Print the table: rates, ratios to the first mode with the spread of the rounds, latencies."""
    for connections in CONNECTIONS:
        print(
            f"{connections:3} connections{'':13}{'bookings/s':>12}{'ratio':>8}{'spread':>14}{'p50 ms':>9}{'p99 ms':>9}"
        )
        base = modes[0].rates[connections]
        for mode in modes:
            ratios = [rate / other for rate, other in zip(mode.rates[connections], base, strict=True)]
            percentiles = statistics.quantiles(mode.latencies_ms[connections], n=100)
            spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
            print(
                f"  {mode.name:26}{mode.rate(connections):12,.0f}{statistics.median(ratios):8.2f}{spread:>12}"
                f"{percentiles[49]:9.2f}{percentiles[98]:9.2f}"
            )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-durability", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each mode (6)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn (3)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT, help="where the data are put: its disk is what is measured"
    )
    options = parser.parse_args()
    try:
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".durability-", dir=options.folder)))
            print(f"one flush takes {flush_ms(folder):.2f} ms in {options.folder}")
            replicated = stack.enter_context(primary_and_replica(folder))
            variables = {
                "everysec": {"MATINEE_DATA_DIR": str(folder / "a"), "MATINEE_DURABILITY": "everysec"},
                "always": {"MATINEE_DATA_DIR": str(folder / "b"), "MATINEE_DURABILITY": "always"},
                "replica, not waited for": {"MATINEE_REDIS_URL": replicated},
                "replica waited for": {"MATINEE_REDIS_URL": replicated, "MATINEE_WAIT_REPLICAS": "1"},
            }
            modes = [stack.enter_context(service(folder, name, given)) for name, given in variables.items()]
            asyncio.run(measure(modes, options.rounds, options.seconds))
    except BenchError as error:
        print(f"bench-durability: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-durability: interrupted; every process has been stopped", file=sys.stderr)
        return 130
    report(modes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
