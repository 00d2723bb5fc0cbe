"""The servers of the benchmark: stores, the service, its rivals. All on loopback, with their data in a folder."""

import asyncio
import itertools
import os
import re
import shutil
import socket
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import msgspec
import redis
import uvloop
from redis.asyncio import RedisCluster

from loadtests.benchmark.figures import Memory
from loadtests.benchmark.machine import pinned
from loadtests.starter import ROOT, LoadError, running, started
from service.box_office import BoxOffice
from service.cluster import Cluster
from service.embedded import bundled_binary
from service.keys import HOUR_MS, showtime_keys
from service.model import Showtime, Theatre
from service.pipeline import Pipeline
from service.pools import pool_for
from service.programme import Programme
from service.store import Store

T = TypeVar("T")

READY_WITHIN_S = 15.0
TOKEN = "token-of-the-box-office"
NAME, PHONE = "Asha Rao", "+919812345678"

# The halls that the crowd books: showtimes of 20 seats, one after another. The house is what visitors look at, the
# arena a full one of 1,000 seats.
SEATS = 20
HALLS = 150
TIMINGS = tuple(f"{minute // 60:02}:{minute % 60:02}" for minute in range(0, 24 * 60, 15))
HOUSE_TIMINGS = ("11:00", "13:30", "16:00", "18:30", "21:00", "23:30")
ARENA_TIMINGS = ("20:00",)
ARENA_SEATS = 1000
ZONE = "Europe/Berlin"
TICKET_LIFE_MS = 8 * HOUR_MS

FILLERS = 4
FILLED_AT_ONCE = 500
FIRST_FILLED_DAY, FILLED_DAYS = 2, 5  # the crowd books within the next 24 hours


class StoreServer(msgspec.Struct):
    """A Redis or Valkey server, in the same settings as the embedded one."""

    kind: str
    version: str
    url: str
    pid: int

    def client(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis.from_url(self.url)

    def empty(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def tickets(self) -> int:
        """How many tickets are stored, counted one by one."""
        with self.client() as client:
            return sum(1 for _ in client.scan_iter("*:ticket:*", count=20_000))


class WebServer(msgspec.Struct, frozen=True):
    """A web server: where it listens, and the processes whose time counts."""

    name: str
    url: str
    pids: tuple[int, ...]

    def booked(self) -> int:
        """How many bookings the service counts as accepted."""
        return self.count('matinee_bookings_total{outcome="booked"}')

    def count(self, counter: str) -> int:
        """What one of the service's counters stands at; its processes tell it once a second."""
        request = urllib.request.Request(f"{self.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found = re.search(rf"^{re.escape(counter)} (\S+)$", answer.read().decode(), re.M)
        return int(float(found[1])) if found else 0


def store_binaries() -> dict[str, str]:
    """The servers that there are: the bundled Valkey, and the system's Redis if it has one."""
    found = {"valkey": str(bundled_binary())}
    if system := shutil.which("redis-server"):
        found["redis"] = system
    return found


@contextmanager
def store_server(folder: Path, binary: str, cores: Sequence[int]) -> Iterator[StoreServer]:
    """A store with append-only persistence, flushed once a second, that never rewrites its file on its own."""
    folder.mkdir()
    path = folder / "s"
    command = [binary, "--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]
    command += ["--maxmemory-policy", "noeviction"]
    with _pinned_start(running(command, folder / "store.log", {}), *cores) as process:
        url = f"unix://{path}"
        about = _wait_for_store(url)
        kind = "valkey" if "valkey_version" in about else "redis"
        yield StoreServer(kind, str(about[f"{kind}_version"]), url, process.pid)


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                raise LoadError("a rival did not get ready") from error
            time.sleep(0.02)


def _wait_for_store(url: str) -> dict[str, object]:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            with redis.Redis.from_url(url) as client:
                return client.info("server")
        except redis.ConnectionError as error:
            if time.monotonic() > deadline:
                raise LoadError(f"a store did not get ready: {error}") from error
            time.sleep(0.02)


@contextmanager
def service(
    folder: Path,
    store_url: str,
    cores: Sequence[int],
    workers: int = 1,
    root: Path = ROOT,
    theatres: Iterable[Theatre] | None = None,
) -> Iterator[WebServer]:
    """Matinee itself, its code in `root`, as it serves the public: with a staff token, all routes, metrics."""
    folder.mkdir()
    settings = {
        "MATINEE_REDIS_URL": store_url,
        "MATINEE_WORKERS": str(workers),
        "MATINEE_PROGRAMME": str(_programme_file(folder, theatres or programme().theatres.values())),
        "MATINEE_STAFF_TOKEN": TOKEN,
    }
    with _pinned_start(started(folder, root, **settings), *cores) as process:
        yield WebServer("matinee", process.url, _web_processes(process.pid, workers))


@contextmanager
def rival(folder: Path, name: str, store: StoreServer, core: int) -> Iterator[WebServer]:
    """One of `rivals.py`."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "loadtests.benchmark.rivals", name, str(port), store.url]
    with _pinned_start(running(command, folder / "rival.log", os.environ), core) as process:
        _wait_for_port(port)
        yield WebServer(name, f"http://127.0.0.1:{port}", (process.pid,))


def programme() -> Programme:
    """The theatres of the benchmark."""
    zone = ZoneInfo(ZONE)
    halls = [Theatre(f"h{number:03}", "Hall", zone, SEATS, TIMINGS) for number in range(HALLS)]
    house = Theatre("house", "House", zone, SEATS, HOUSE_TIMINGS)
    arena = Theatre("arena", "Arena", zone, ARENA_SEATS, ARENA_TIMINGS)
    return Programme([*halls, house, arena], TICKET_LIFE_MS)


def fill(store: StoreServer, tickets: int) -> None:
    """Book so many tickets in the halls, each showtime full before the next, on days that the crowd does not book."""
    theatres = programme()
    days = range(FIRST_FILLED_DAY, FIRST_FILLED_DAY + FILLED_DAYS)
    showtimes = (
        showtime
        for day in days
        for hall in theatres.theatres.values()
        if hall.capacity == SEATS
        for showtime in theatres.showtimes_on(hall, _day(day))
    )
    seats = (showtime for showtime in showtimes for _ in range(SEATS))
    uvloop.run(book(store.url, theatres, itertools.islice(seats, tickets)))


def fill_arena(store: StoreServer) -> tuple[str, str]:
    """Sell the arena out; return the showtime and the id of one of its tickets."""
    theatres = programme()
    [showtime] = theatres.showtimes_on(theatres.theatres["arena"], _day(1))
    uvloop.run(book(store.url, theatres, itertools.repeat(showtime, ARENA_SEATS)))
    ids = showtime_keys("arena", showtime.label)[1]
    with store.client() as client:
        return showtime.label, client.zrange(ids, 0, 0)[0].decode()


async def book(url: str, theatres: Programme, seats: Iterator[Showtime]) -> None:
    """Book the seats by the service's own way to the store or the cluster, far faster than HTTP allows."""
    pool = pool_for(url)
    pipeline = (Cluster if isinstance(pool, RedisCluster) else Pipeline)(pool, deadline_s=60)
    await pipeline.open()
    box_office = BoxOffice(Store(pipeline, theatres), theatres)

    async def fill() -> None:
        while wanted := list(itertools.islice(seats, FILLED_AT_ONCE)):
            await asyncio.gather(*(box_office.book(each.theatre, each.label, NAME, PHONE) for each in wanted))

    await asyncio.gather(*(fill() for _ in range(FILLERS)))
    await pipeline.close()
    await pool.aclose()


def weigh(store: StoreServer, tickets: int) -> Memory:
    """Fill the store and see what a ticket costs it."""
    fill(store, SEATS)  # the scripts are loaded now
    with store.client() as client:
        client.flushall()
        before = _account(client)
        fill(store, tickets)
        after = _account(client)
        each = {name: (after[name] - before[name]) / tickets for name in after}
        encodings = {}
        for kind, pattern in (("showtime", "*T????"), ("its ids", "*:tickets"), ("ticket", "*:ticket:*")):
            key = next(client.scan_iter(pattern, count=10_000))
            encodings[kind] = f"{client.type(key).decode()} {client.object('encoding', key).decode()}"
    return Memory(
        tickets=tickets,
        bytes_per_ticket=each["memory"],
        commands_per_booking=each["commands"],
        bytes_in_per_booking=each["in"],
        bytes_out_per_booking=each["out"],
        file_bytes_per_booking=each["file"],
        encodings=encodings,
    )


def _account(client: redis.Redis) -> dict[str, int]:
    """What the server has counted until now."""
    about = client.info("everything")
    return {
        "memory": about["used_memory"],
        "commands": sum(stats["calls"] for name, stats in about.items() if name.startswith("cmdstat_")),
        "in": about["total_net_input_bytes"],
        "out": about["total_net_output_bytes"],
        "file": about["aof_current_size"],
    }


def _day(number: int) -> date:
    return datetime.now(ZoneInfo(ZONE)).date() + timedelta(days=number)


def _programme_file(folder: Path, theatres: Iterable[Theatre]) -> Path:
    file = folder / "programme.toml"
    file.write_text(
        "".join(
            f'[[theatre]]\nid = "{theatre.id}"\nname = "{theatre.name}"\ntimezone = "{theatre.timezone.key}"\n'
            f"capacity = {theatre.capacity}\ntimings = {msgspec.json.encode(theatre.timings).decode()}\n"
            for theatre in theatres
        )
    )
    return file


@contextmanager
def _pinned_start(server: AbstractContextManager[T], *cores: int) -> Iterator[T]:
    """Enter `server` pinned to the cores, so that what it starts stays on them."""
    with ExitStack() as stack:
        with pinned(*cores):
            entered = stack.enter_context(server)
        yield entered


def _web_processes(master: int, count: int) -> tuple[int, ...]:
    """The web processes of a master, once all are there: it is ready with the first."""
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
        if len(children) == count:
            return tuple(map(int, children))
        if time.monotonic() > deadline:
            raise LoadError(f"the service has {len(children)} web processes where it should have {count}")
        time.sleep(0.02)
