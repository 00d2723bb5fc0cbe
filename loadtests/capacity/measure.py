"""The rounds of `make capacity ARGS=--check`: one web process and two, before one shard and three.

Nobody is pinned: web processes, shards and the crowd share the cores. So what counts is the processor time of each,
by its own clock, per answer; answers per second say what all of them together fit into the cores.
"""

import itertools
import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec
import uvloop

from loadtests.benchmark import servers
from loadtests.benchmark.crowd import Crowd, Requests
from loadtests.benchmark.figures import DISTURBED_ABOVE
from loadtests.benchmark.machine import Machine, Meter, describe
from loadtests.benchmark.servers import NAME, PHONE, WebServer
from loadtests.capacity.cluster import Shards, shards
from loadtests.starter import LoadError
from service.model import Showtime, Theatre
from service.programme import Programme

THEATRES = 1000
SEATS = 20
TIMINGS = ("11:00", "13:30", "16:00", "18:30", "21:00", "23:30")
LANES = 50  # theatres that are booked side by side, so that every shard has its part at every moment
BROWSES_PER_BOOKING = 4  # of the mix
REQUESTS_MAX = 100_000  # of a file: more than a round can send, and wrk reads it in a moment
TOLD_AFTER_S = 1.2  # web processes hand their counts over once a second
TRIES = 3  # of a round that something disturbs

BOOKING, SOLD_OUT, BROWSE, UNCHANGED, MIX, CONNECTION = (
    "booking",
    "sold out",
    "browse",
    "unchanged",
    "mix",
    "browse on a connection of its own",
)


class Side(msgspec.Struct, frozen=True):
    """What takes a turn: what is asked for, by so many connections, of how many web processes and shards."""

    kind: str
    workers: int
    shards: int
    connections: int

    @property
    def name(self) -> str:
        """As the record has it."""
        return f"{self.kind}, {self.workers}, {self.shards}, {self.connections}"


FEW, MANY = 4, 64  # connections to a web process: little to do in a turn, and much

# The costs are taken from one web process. What two of them cost, and the mix, is left for the check. What is compared
# takes its turns next to each other, for the machine's speed changes.
COSTS = tuple(
    Side(kind, 1, count, connections)
    for count in (1, 3)
    for kind in (BOOKING, SOLD_OUT, BROWSE, UNCHANGED)
    for connections in (FEW, MANY)
)
EXTRAS = (Side(CONNECTION, 1, 1, MANY),)
CHECKS = tuple(
    Side(kind, workers, count, MANY * workers)
    for count in (1, 3)
    for kind, workers in ((BOOKING, 2), (MIX, 1), (MIX, 2))
)
_COMPARED = ((BOOKING, 1), (BOOKING, 2), (BROWSE, 1), (MIX, 1), (MIX, 2))
_NEIGHBOURS = (Side(kind, workers, count, MANY * workers) for count in (1, 3) for kind, workers in _COMPARED)
ALL = tuple(dict.fromkeys((*_NEIGHBOURS, *COSTS, *EXTRAS)))


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a side, per answer: processor time in microseconds, and what its web processes wrote to Redis.

    `crowd_us` is the load generator's own. `others` is what everything else on the machine took, in cores.
    """

    answers_per_s: float
    p50_ms: float
    p99_ms: float
    web_us: float
    shard_us: float
    crowd_us: float
    writes: float
    commands: float
    others: float

    @property
    def is_disturbed(self) -> bool:
        """Whether something else ran meanwhile, so that its figures say little."""
        return self.others > DISTURBED_ABOVE


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured. After `budget_s` no round is repeated any more."""

    rounds: int
    seconds: int
    budget_s: float


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run: of each side, by its name, the turns. `web_bytes` is the memory of the largest web process."""

    date: str
    seconds: float
    scale: Scale
    machine: Machine
    web_bytes: int
    samples: dict[str, list[Sample]]


def theatres() -> list[Theatre]:
    """The chain that is measured."""
    zone = ZoneInfo("UTC")
    return [Theatre(f"h{number:03}", "Hall", zone, SEATS, TIMINGS) for number in range(THEATRES)]


def bookings(timings: Sequence[str] = TIMINGS) -> Iterator[bytes]:
    """A booking of every seat of these timings: showtime by showtime, in many theatres side by side."""
    for first in range(0, THEATRES, LANES):
        for timing, _, number in itertools.product(timings, range(SEATS), range(first, first + LANES)):
            yield booking(number, timing)


def booking(theatre: int, timing: str) -> bytes:
    """A booking."""
    wish = {"name": NAME, "phone": PHONE, "timing": timing, "theatre": f"h{theatre:03}"}
    return _whole("POST", "/v1/tickets", body=msgspec.json.encode(wish))


def browses(*headers: str) -> Iterator[bytes]:
    """A look at the seats of a day of every theatre."""
    for path in _days():
        yield _whole("GET", path, *headers)


def mix() -> Iterator[bytes]:
    """Looks and bookings, so many to one."""
    looks = itertools.cycle(browses())
    for booking in bookings():
        yield from itertools.islice(looks, BROWSES_PER_BOOKING)
        yield booking


class Bench:
    """One run. `say` is told of every round."""

    def __init__(self, folder: Path, scale: Scale, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._scale = scale
        self._say = say
        self._no_repeats_after = time.monotonic() + scale.budget_s
        self._cores = tuple(sorted(os.sched_getaffinity(0)))
        self._programme = Programme(theatres(), servers.TICKET_LIFE_MS)

    def run(self, sides: Sequence[Side]) -> Record:
        """Let the sides take turns. Raises LoadError where an answer is not what it should be."""
        began = time.monotonic()
        samples: dict[str, list[Sample]] = {side.name: [] for side in sides}
        with ExitStack() as stack:
            self._start(stack, sides)
            for turn in range(self._scale.rounds):
                for side in sides:
                    for _ in range(TRIES):
                        sample = self._round(side)
                        self._say(f"{turn + 1}/{self._scale.rounds}  {line(side, sample)}")
                        if not sample.is_disturbed or time.monotonic() > self._no_repeats_after:
                            break
                    samples[side.name].append(sample)
            web_bytes = max(_resident_bytes(pid) for web in self._webs.values() for pid in web.pids)
            version = self._stores[min(self._stores)].version
        return Record(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=time.monotonic() - began,
            scale=self._scale,
            machine=describe({"valkey": version}),
            web_bytes=web_bytes,
            samples=samples,
        )

    def _start(self, stack: ExitStack, sides: Iterable[Side]) -> None:
        self._stores: dict[int, Shards] = {}
        self._webs: dict[tuple[int, int], WebServer] = {}
        for count in sorted({side.shards for side in sides}):
            self._say(f"starting {count} shard{'s' if count > 1 else ''}")
            self._stores[count] = stack.enter_context(shards(self._folder / f"shards-{count}", count))
        for workers, count in sorted({(side.workers, side.shards) for side in sides}):
            home = self._folder / f"web-{workers}-{count}"
            service = servers.service(home, self._stores[count].url, self._cores, workers, theatres=theatres())
            self._webs[workers, count] = stack.enter_context(service)
        self._own = {os.getpid()}
        self._own.update(*(store.pids for store in self._stores.values()), *(web.pids for web in self._webs.values()))
        self._requests = {
            kind: Requests.write(self._folder / kind.replace(" ", "-"), itertools.islice(requests, REQUESTS_MAX))
            for kind, requests in (
                (BOOKING, bookings()),
                (SOLD_OUT, bookings(TIMINGS[:1])),
                (BROWSE, browses()),
                (MIX, mix()),
                (CONNECTION, browses("Connection: close")),
            )
        }

    def _round(self, side: Side) -> Sample:
        web, store = self._webs[side.workers, side.shards], self._stores[side.shards]
        self._prepare(side, web, store)
        before = written(web)
        meter = Meter(self._own)
        load = Crowd(web.url, self._requests[side.kind], side.connections, self._scale.seconds, self._cores).wait()
        meter.stop()
        refused = load.answered if side.kind == SOLD_OUT else 0
        if load.rejected != refused or (load.errors and side.kind != CONNECTION):
            raise LoadError(f"{side.name}: {load.rejected} of {load.answered} refused, {load.errors} errors")
        time.sleep(TOLD_AFTER_S)
        writes, commands = (after - b for after, b in zip(written(web), before, strict=True))
        micro = 1e6 / load.answered
        return Sample(
            answers_per_s=load.answered / load.seconds,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            web_us=sum(meter.cpu_s[pid] for pid in web.pids) * micro,
            shard_us=sum(meter.cpu_s[pid] for pid in store.pids) * micro,
            crowd_us=meter.finished_s * micro,
            writes=writes / load.answered,
            commands=commands / load.answered,
            others=meter.others_s / meter.seconds,
        )

    def _prepare(self, side: Side, web: WebServer, store: Shards) -> None:
        """Empty the stores; sell what is to be sold out, and a seat of what is looked at; learn what is known.

        A showtime that has sold nothing has no key, and costs a shard less to look at than people meet.
        """
        store.empty()
        if side.kind == SOLD_OUT:
            uvloop.run(servers.book(store.url, self._programme, self._first_showtimes()))
        elif side.kind in {BROWSE, CONNECTION, UNCHANGED}:
            uvloop.run(servers.book(store.url, self._programme, self._looked_at()))
        if side.kind == UNCHANGED and UNCHANGED not in self._requests:
            requests = [_whole("GET", day, f"If-None-Match: {_etag(web.url + day)}") for day in _days()]
            self._requests[UNCHANGED] = Requests.write(self._folder / UNCHANGED, requests)

    def _first_showtimes(self) -> Iterator[Showtime]:
        """The next showtime of the first timing in each theatre, so often as it has seats."""
        now_ms = time.time_ns() // 1_000_000
        for theatre in self._programme.theatres.values():
            yield from itertools.repeat(self._programme.resolve(theatre, TIMINGS[0], now_ms), SEATS)

    def _looked_at(self) -> Iterator[Showtime]:
        """What the looks are at."""
        for theatre in self._programme.theatres.values():
            yield from (self._programme.showtime(theatre, f"{_tomorrow()}T{timing}") for timing in TIMINGS)


def line(side: Side, sample: Sample) -> str:
    """A round, in a line."""
    where = f"{side.workers} web, {side.shards} shard{'s' if side.shards > 1 else ''}, {side.connections}"
    return (
        f"{side.kind[:18]:18} {where:20}{sample.answers_per_s:8,.0f}/s  web {sample.web_us:6.1f}  "
        f"shards {sample.shard_us:5.1f}  crowd {sample.crowd_us:5.1f} µs  writes {sample.writes:5.3f}  "
        f"others {sample.others:4.0%}{'  disturbed' if sample.is_disturbed else ''}"
    )


def _days() -> Iterator[str]:
    return (f"/v1/theatres/h{number:03}/showtimes?date={_tomorrow()}" for number in range(THEATRES))


def _tomorrow() -> date:
    return (datetime.now() + timedelta(days=1)).date()


def written(web: WebServer) -> tuple[int, int]:
    """Writes to Redis and commands in them, so far."""
    return web.count("matinee_redis_batches_total"), web.count("matinee_redis_commands_total")


def _etag(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.headers["ETag"])


def _whole(method: str, path: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
