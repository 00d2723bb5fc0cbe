"""The simulator beside the real service: browses and bookings at a stated rate, whether it answers or not.

One web process has a core for itself, one shard and the visitors the other. First wrk finds what it can do; then come
visitors at shares of that, who do not wait for each other. The simulator gets the recorded costs, scaled to the speed
that the machine has at the moment, and the same visitors.
"""

import asyncio
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import uvloop

from loadtests.benchmark import servers
from loadtests.benchmark.crowd import Crowd, Requests
from loadtests.benchmark.figures import table
from loadtests.benchmark.machine import Cores, Meter, pinned
from loadtests.capacity import measure
from loadtests.capacity.cluster import shards
from loadtests.capacity.measure import BROWSES_PER_BOOKING, SEATS, THEATRES, TIMINGS
from loadtests.onsale.messages import (
    BOOKING,
    BROWSE,
    SHED,
    Calendar,
    Numbers,
    Times,
    message,
    state_of,
    user_of,
)
from loadtests.onsale.service import Bounds, House, Prices, Service
from loadtests.starter import LoadError

SHARES = (0.3, 0.6, 0.9, 1.3)
SECONDS = 4
CONNECTIONS = 8000
AT_ONCE = 200  # connections that are being made
ANSWERED_WITHIN_S = 10.0
SATURATING = 256
TICK_S = 0.00025  # finer than that of an on-sale: here the single milliseconds count


class Met(msgspec.Struct, frozen=True):
    """What visitors met: medians and p99 of answers other than 503, and the share that was 503."""

    p50_ms: float
    p99_ms: float
    refused: float


class Comparison(msgspec.Struct, frozen=True):
    """One rate: visitors per second, the share of what the service can do, what they met and should have met."""

    per_s: float
    share: float
    measured: Met
    simulated: Met


class Probe(msgspec.Struct, frozen=True):
    """A whole run. `others` is what else the machine did at most, in cores."""

    date: str
    most_per_s: float
    others: float
    comparisons: list[Comparison]


class Visitors:
    """Who comes when, and asks for what: the same for the real service and for the simulated one."""

    def __init__(self, per_s: float, seconds: float, seed: int) -> None:
        random = np.random.default_rng(seed)
        number = int(per_s * seconds)
        # The real ones are let go once in a millisecond.
        self.comes = np.ceil(np.sort(random.random(number)) * seconds * 1000) / 1000
        self.kind = np.where(random.integers(BROWSES_PER_BOOKING + 1, size=number) == 0, BOOKING, BROWSE)
        self.theatre = random.integers(THEATRES, size=number)
        self.showtime = self.theatre * len(TIMINGS) + random.integers(len(TIMINGS), size=number)

    def see(self, users: Numbers, is_open: np.ndarray) -> None:
        """Nobody changes their mind."""

    def still_wait(self, messages: Numbers) -> np.ndarray:
        """Nor do they leave."""
        return np.ones(len(messages), bool)

    def requests(self) -> list[bytes]:
        """What each sends."""
        looks = list(measure.browses())
        wishes = [measure.booking(number, timing) for number, timing in itertools.product(range(THEATRES), TIMINGS)]
        return [
            wishes[showtime] if kind == BOOKING else looks[theatre]
            for kind, theatre, showtime in zip(
                self.kind.tolist(), self.theatre.tolist(), self.showtime.tolist(), strict=True
            )
        ]


def simulated(visitors: Visitors, prices: Prices) -> Met:
    """What the simulator says."""
    number = len(visitors.comes)
    house = House(THEATRES, len(TIMINGS), SEATS, 1, number)
    service = Service(1, 1, prices, Bounds(), house, visitors, TICK_S)
    coming = Calendar(TICK_S)
    users = np.arange(number)
    nought = np.zeros(number, np.int64)
    coming.put(message(users, visitors.kind, nought, nought), visitors.comes)
    waited_s, refused = np.full(number, np.nan), np.zeros(number, bool)
    tick = 0
    while not (coming.is_empty and service.is_idle):
        service.ask(*coming.take(tick))
        answers, at = service.step(tick, tick * TICK_S)
        waited_s[user_of(answers)] = at - visitors.comes[user_of(answers)]
        refused[user_of(answers)] = state_of(answers) >= SHED
        tick += 1
    return _met(waited_s, refused)


def compare(
    prices: Callable[[float], Prices], web_us: Callable[[float], float], seed: int, say: Callable[[str], None]
) -> Probe:
    """Measure and simulate. `web_us` says what an answer of the mix costs by so many writes; `prices` scales all."""
    cores = Cores.here()
    with tempfile.TemporaryDirectory(prefix="mo-") as name, ExitStack() as stack:
        folder = Path(name)
        with pinned(cores.store):
            store = stack.enter_context(shards(folder / "shard", 1))
        with pinned(cores.web):
            web = stack.enter_context(
                servers.service(folder / "web", store.url, (cores.web,), theatres=measure.theatres())
            )
        most_per_s, speed = _saturate(folder, web, web_us, cores)
        say(f"the service answers {most_per_s:,.0f} a second; costs are {speed:.2f} of the recorded ones")
        comparisons, others = [], 0.0
        for share in SHARES:
            store.empty()
            visitors = Visitors(share * most_per_s, SECONDS, seed)
            meter = Meter({os.getpid(), *store.pids, *web.pids})
            with pinned(cores.crowd):
                measured = uvloop.run(_visit(web.url, visitors))
            meter.stop()
            others = max(others, meter.others_s / meter.seconds)
            one = Comparison(share * most_per_s, share, measured, simulated(visitors, prices(speed)))
            comparisons.append(one)
            say(f"{share:.0%}: {measured}, simulated {one.simulated}; others {meter.others_s / meter.seconds:.0%}")
    return Probe(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), most_per_s, others, comparisons)


def _saturate(
    folder: Path, web: servers.WebServer, web_us: Callable[[float], float], cores: Cores
) -> tuple[float, float]:
    """How many a second the service can do, and the time it takes for each to the recorded cost."""
    requests = Requests.write(folder / "mix", itertools.islice(measure.mix(), measure.REQUESTS_MAX))
    rates, speeds = [], []
    for _ in range(3):
        before = measure.written(web)[0]
        load = Crowd(web.url, requests, SATURATING, 2, (cores.crowd,)).wait()
        time.sleep(measure.TOLD_AFTER_S)
        writes = (measure.written(web)[0] - before) / load.answered
        rates.append(load.answered / load.seconds)
        speeds.append(1e6 / rates[-1] / web_us(writes))
    return statistics.median(rates), statistics.median(speeds)


class _Line(asyncio.Protocol):
    """A connection on which one visitor at a time asks."""

    def __init__(self, idle: "list[_Line]", told: Callable[[int, float, bool], None]) -> None:
        self._idle = idle
        self._told = told
        self._asks: tuple[int, float] | None = None

    def connection_made(self, transport: Any) -> None:
        """Keep it: uvloop's is none of asyncio's classes."""
        self._transport = transport

    @property
    def is_open(self) -> bool:
        """Whether the service has left it open: one that idles too long among too many is closed."""
        return not self._transport.is_closing()

    def close(self) -> None:
        """At the end."""
        self._transport.abort()

    def ask(self, visitor: int, request: bytes, since: float) -> None:
        """Send it; the time counts from `since`."""
        self._asks = visitor, since
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Every answer comes in one piece."""
        if self._asks is not None:
            visitor, since = self._asks
            self._asks = None
            refused = data.startswith(b"HTTP/1.1 503")
            self._told(visitor, time.perf_counter() - since, refused)
            if not refused:
                self._idle.append(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """Whoever asked on it hears nothing any more."""
        if self._asks is not None:
            self._told(self._asks[0], math.nan, True)


async def _visit(url: str, visitors: Visitors) -> Met:
    """Ask at the moments, on any connection that is free, else on a new one."""
    loop = asyncio.get_running_loop()
    host, _, port = url.removeprefix("http://").partition(":")
    requests = visitors.requests()
    number = len(requests)
    waited_s, refused, heard = np.full(number, np.nan), np.zeros(number, bool), 0
    idle: list[_Line] = []
    newcomers: set[asyncio.Task[None]] = set()

    def told(visitor: int, seconds: float, is_refused: bool) -> None:
        nonlocal heard
        heard += 1
        waited_s[visitor], refused[visitor] = seconds, is_refused

    async def connect() -> _Line:
        _, line = await loop.create_connection(lambda: _Line(idle, told), host, int(port))
        return line

    async def newcomer(visitor: int, since: float) -> None:
        try:
            line = await connect()
        except OSError:
            told(visitor, math.nan, True)
            return
        line.ask(visitor, requests[visitor], since)

    for _ in range(CONNECTIONS // AT_ONCE):
        idle += await asyncio.gather(*(connect() for _ in range(AT_ONCE)))
    comes = visitors.comes.tolist()
    began, visitor = loop.time(), 0
    while visitor < number:
        now = loop.time() - began
        while visitor < number and comes[visitor] <= now:
            while idle and not idle[-1].is_open:
                idle.pop()
            if idle:
                idle.pop().ask(visitor, requests[visitor], time.perf_counter())
            else:
                task = loop.create_task(newcomer(visitor, time.perf_counter()))
                newcomers.add(task)
                task.add_done_callback(newcomers.discard)
            visitor += 1
        await asyncio.sleep(0.001)
    deadline = loop.time() + ANSWERED_WITHIN_S
    while heard < number:
        if loop.time() > deadline:
            raise LoadError(f"{number - heard} visitors heard nothing within {ANSWERED_WITHIN_S} s")
        await asyncio.sleep(0.05)
    for line in idle:
        line.close()
    return _met(waited_s, refused)


def _met(waited_s: Times, refused: np.ndarray) -> Met:
    served = waited_s[~refused] * 1000
    return Met(float(np.percentile(served, 50)), float(np.percentile(served, 99)), float(refused.mean()))


def comparison_table(probe: Probe) -> str:
    """The simulator beside the service."""
    rows = [
        [
            f"{one.per_s:,.0f} ({one.share:.0%})",
            *(f"{value:,.1f}" for value in (one.measured.p50_ms, one.simulated.p50_ms)),
            *(f"{value:,.1f}" for value in (one.measured.p99_ms, one.simulated.p99_ms)),
            *(f"{value:.1%}" for value in (one.measured.refused, one.simulated.refused)),
        ]
        for one in probe.comparisons
    ]
    head = [
        "requests/s",
        "p50 ms, measured",
        "simulated",
        "p99 ms, measured",
        "simulated",
        "503, measured",
        "simulated",
    ]
    return table(head, rows)
