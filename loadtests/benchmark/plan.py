"""Which rounds are run: the parts of the benchmark, each with servers of its own, whose sides take turns."""

import os
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from loadtests.benchmark import servers
from loadtests.benchmark.crowd import Bookings, Crowd, Request
from loadtests.benchmark.figures import Memory, Part, Round, Scale
from loadtests.benchmark.machine import Cores, Meter
from loadtests.benchmark.servers import HOUSE_TIMINGS, NAME, PHONE, SEATS, TIMINGS, TOKEN, StoreServer, WebServer
from loadtests.starter import ROOT, LoadError

SETTLED_AFTER_S = 0.3  # requests whose client has gone may still be at work
COUNTED_AFTER_S = 5.0  # web processes hand their counts over once a second
TRIES = 3  # of a round that something disturbs
CONNECTIONS = 64
LIST_CONNECTIONS = 8


FULL = Scale(
    warm_up_s=1,
    rounds=5,
    seconds=3,
    growth_rounds=3,
    growth_seconds=2,
    connections=(1, 16, 64, 256, 1024),
    live=(1_000, 10_000, 100_000, 1_000_000),
    memory_tickets=100_000,
    budget_s=360,
)
QUICK = Scale(
    warm_up_s=1,
    rounds=3,
    seconds=1,
    growth_rounds=1,
    growth_seconds=1,
    connections=(1, 64, 1024),
    live=(1_000, 100_000),
    memory_tickets=20_000,
    budget_s=20,
)


class Side(msgspec.Struct):
    """What takes a turn: whom the crowd asks, for what, on how many connections.

    `wanted` is None for bookings, each of a seat of its own. `beside` is asked for meanwhile by as many connections
    more. Where it `empties`, the store is emptied before a turn and its tickets are counted after it.
    """

    name: str
    web: WebServer
    store: StoreServer
    connections: int = CONNECTIONS
    wanted: Request | None = None
    beside: Request | None = None
    empties: bool = True
    seats_taken: int = 0

    @property
    def books(self) -> bool:
        """Whether tickets come of it."""
        return self.wanted is None and self.web.name != "floor"


class Bench:
    """One run. `say` is told of every round."""

    def __init__(self, folder: Path, scale: Scale, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._scale = scale
        self._say = say
        self._cores = Cores.here()
        self._no_repeats_after = time.monotonic() + scale.budget_s
        self._binaries = servers.store_binaries()
        self.stores: dict[str, str] = {}

    # The parts

    def sides(self, stack: ExitStack) -> Part:
        """Matinee beside the floor, the plain way and a SET; and Matinee when there is nothing left to sell."""
        store = self._store(stack)
        matinee = self._service(stack, store)
        wish = {"name": NAME, "phone": PHONE, "timing": HOUSE_TIMINGS[0], "theatre": "house"}
        booking = msgspec.json.encode(wish).decode()
        sides = [Side("matinee", matinee, store)]
        for name in ("floor", "plain", "set"):
            rival = stack.enter_context(servers.rival(self._new_folder(), name, store, self._cores.web))
            sides.append(Side(name, rival, store))
        sides.append(Side("sold out", matinee, store, wanted=Request("POST", "/v1/tickets", (), booking)))
        return self._take_turns("sides", sides, self._scale.rounds, self._scale.seconds)

    def connections(self, stack: ExitStack) -> Part:
        """Bookings on ever more connections."""
        store = self._store(stack)
        matinee = self._service(stack, store)
        sides = [Side(str(number), matinee, store, number) for number in self._scale.connections]
        return self._grow("connections", sides)

    def workers(self, stack: ExitStack) -> Part:
        """One web process and two, nobody pinned: the store and the crowd want their share of the cores too."""
        store = self._store(stack, *os.sched_getaffinity(0))
        sides = [Side(str(number), self._service(stack, store, number), store) for number in (1, 2)]
        return self._grow("workers", sides, os.sched_getaffinity(0))

    def live_tickets(self, stack: ExitStack) -> Part:
        """Bookings where ever more tickets are stored already."""
        sides = []
        for tickets in self._scale.live:
            store = self._store(stack)
            self._say(f"storing {tickets:,} tickets")
            servers.fill(store, tickets)
            sides.append(Side(f"{tickets:,}", self._service(stack, store), store, empties=False))
        part = self._grow("live-tickets", sides)
        for side, tickets in zip(sides, self._scale.live, strict=True):
            stored = side.store.tickets() - tickets
            _check_books(side.name, stored, sum(one.load.answered for one in part[side.name]), side.seats_taken)
        return part

    def reads(self, stack: ExitStack) -> Part:
        """What visitors and the box office look at."""
        store = self._store(stack)
        matinee = self._service(stack, store)
        arena, ticket_id = servers.fill_arena(store)
        day = _day_of_the_house()
        listed = f"/v1/theatres/arena/showtimes/{arena}/tickets"
        staff = f"Authorization: Bearer {TOKEN}"
        requests = {
            "the seats of a day": Request("GET", day),
            "the same, unchanged: 304": Request("GET", day, (f"If-None-Match: {_etag(matinee.url + day)}",)),
            "one ticket": Request("GET", f"/v1/tickets/{ticket_id}"),
            "1,000 tickets as JSON": Request("GET", listed, (staff,)),
            "1,000 tickets as CSV": Request("GET", listed, (staff, "Accept: text/csv")),
        }
        sides = [
            Side(name, matinee, store, LIST_CONNECTIONS if "1,000" in name else CONNECTIONS, request, empties=False)
            for name, request in requests.items()
        ]
        return self._grow("reads", sides)

    def browsing(self, stack: ExitStack) -> Part:
        """Bookings alone, and beside as many connections that look at the seats of a day all the time."""
        store = self._store(stack)
        matinee = self._service(stack, store)
        day = Request("GET", _day_of_the_house())
        sides = [
            Side("bookings alone", matinee, store),
            Side("bookings beside browsing", matinee, store, beside=day),
        ]
        return self._grow("browsing", sides)

    def versions(self, stack: ExitStack, roots: Mapping[str, Path]) -> Part:
        """Bookings by several versions of the service, whose code is in these folders."""
        store = self._store(stack)
        sides = [Side(name, self._service(stack, store, root=root), store) for name, root in roots.items()]
        return self._take_turns("versions", sides, self._scale.rounds, self._scale.seconds)

    def memory(self) -> dict[str, Memory]:
        """What tickets cost each kind of store."""
        found = {}
        for kind, binary in self._binaries.items():
            self._say(f"storing {self._scale.memory_tickets:,} tickets in {kind}")
            with ExitStack() as stack:
                store = self._store(stack, binary=binary)
                found[kind] = servers.weigh(store, self._scale.memory_tickets)
        return found

    # Servers

    def _new_folder(self) -> Path:
        return self._folder / str(sum(1 for _ in self._folder.iterdir()))

    def _store(self, stack: ExitStack, *cores: int, binary: str | None = None) -> StoreServer:
        started = servers.store_server(
            self._new_folder(), binary or self._binaries["valkey"], cores or (self._cores.store,)
        )
        store = stack.enter_context(started)
        self.stores[store.kind] = store.version
        return store

    def _service(
        self, stack: ExitStack, store: StoreServer, workers: int | None = None, root: Path = ROOT
    ) -> WebServer:
        cores = os.sched_getaffinity(0) if workers else (self._cores.web,)
        return stack.enter_context(servers.service(self._new_folder(), store.url, cores, workers or 1, root))

    # Rounds

    def _grow(self, part: str, sides: Sequence[Side], cores: Iterable[int] = ()) -> Part:
        return self._take_turns(part, sides, self._scale.growth_rounds, self._scale.growth_seconds, cores)

    def _take_turns(
        self, part: str, sides: Sequence[Side], rounds: int, seconds: int, cores: Iterable[int] = ()
    ) -> Part:
        cores = tuple(cores) or (self._cores.crowd,)
        own = {os.getpid(), *(pid for side in sides for pid in (side.store.pid, *side.web.pids))}
        found: Part = {}
        for side in sides if self._scale.warm_up_s else ():
            self._round(side, self._scale.warm_up_s, cores, own)
        for turn in range(rounds):
            for side in sides:
                for _ in range(TRIES):
                    measured = self._round(side, seconds, cores, own)
                    disturbed = any(one.is_disturbed for one in measured.values())
                    for name, one in measured.items():
                        self._say(f"{part} {turn + 1}/{rounds}  {line(name, one)}")
                    if not disturbed or time.monotonic() > self._no_repeats_after:
                        break
                for name, one in measured.items():
                    found.setdefault(name, []).append(one)
        return found

    def _round(self, side: Side, seconds: int, cores: Sequence[int], own: Iterable[int]) -> dict[str, Round]:
        """One turn of a side, and of what is asked for beside it."""
        if side.empties:
            side.store.empty()
            side.seats_taken = 0
        is_counted = side.books and side.empties
        booked = side.web.booked() if is_counted and side.web.name == "matinee" else 0
        wanted = side.wanted or Bookings(side.seats_taken, SEATS, TIMINGS)
        meter = Meter(own)
        crowd = Crowd(side.web.url, wanted, side.connections, seconds, cores)
        loads = {}
        if side.beside:
            beside = Crowd(side.web.url, side.beside, side.connections, seconds, cores)
            loads["browsing"] = beside.wait()
        loads[side.name] = load = crowd.wait()
        meter.stop()
        if side.wanted is None:
            side.seats_taken += -(-load.issued // SEATS) * SEATS
            if load.rejected:
                raise LoadError(f"{side.name}: {load.rejected} bookings were refused, though there are seats for all")
        stored = None
        if is_counted:
            stored = _settled(side.store)
            _check_books(side.name, stored, load.answered, load.issued)
            if side.web.name == "matinee":
                _check_count(side, stored + booked)
        answers = sum(each.answered for each in loads.values())
        web_us = sum(meter.cpu_s[pid] for pid in side.web.pids) / answers * 1e6
        store_us = meter.cpu_s[side.store.pid] / answers * 1e6
        others = meter.others_s / meter.seconds
        return {
            name: Round(
                load=each, web_us=web_us, store_us=store_us, others=others, stored=stored if name == side.name else None
            )
            for name, each in loads.items()
        }


def _settled(store: StoreServer) -> int:
    """How many tickets are stored once no more come."""
    before, now = -1, store.tickets()
    while now != before:
        time.sleep(SETTLED_AFTER_S)
        before, now = now, store.tickets()
    return now


def line(side: str, one: Round) -> str:
    """A round, in a line."""
    load = one.load
    return (
        f"{side:26}{one.rate:9,.0f}/s  p50 {load.p50_ms:7.2f}  p99 {load.p99_ms:7.2f} ms  web {one.web_us:6.1f}  "
        f"store {one.store_us:5.1f} µs  others {one.others:4.0%}{'  disturbed' if one.is_disturbed else ''}"
        f"{f'  {load.errors} errors' if load.errors else ''}"
    )


def _check_count(side: Side, stored: int) -> None:
    """The service counts as many bookings as accepted as there are tickets: also those that wrk did not wait for."""
    deadline = time.monotonic() + COUNTED_AFTER_S
    while (accepted := side.web.booked()) != stored:
        if time.monotonic() > deadline:
            raise LoadError(f"{side.name}: {accepted} bookings accepted, but {stored} tickets stored")
        time.sleep(SETTLED_AFTER_S)


def _check_books(side: str, stored: int, answered: int, issued: int) -> None:
    """Every booking that was answered is stored, and nothing that was not asked for.

    The last request of each connection may have been booked though wrk did not wait for its answer.
    """
    if not answered <= stored <= issued:
        raise LoadError(f"{side}: {answered} bookings accepted of {issued} asked for, but {stored} tickets are stored")


def _day_of_the_house() -> str:
    return f"/v1/theatres/house/showtimes?date={(datetime.now() + timedelta(days=1)).date()}"


def _etag(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.headers["ETag"])
