"""`make bench-live`: how soon an event follows its booking, and what the listeners take from those who book.

It starts a service with one web process, holds `--listeners` streams in this process, and lets wrk book as fast as the
service answers, in phases that take turns: without listeners, and with all of them. In both kinds of phase the
processor time of the web process and of Valkey is read from /proc. Meanwhile, and in a quiet phase too, a ticket of
another showtime is booked now and then: from its answer to the event in each listener's hands is the delay.

This machine also runs the load and the listeners, so the bookings per second of a phase depend on it; the processor
time per booking much less.
"""

import argparse
import asyncio
import datetime
import os
import random
import re
import resource
import shutil
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec

from loadtests.starter import LoadError, Service, started

PATH = "/v1/theatres/main/showtimes/stream"
QUIET, BUSY = "10:00", ("18:00", "21:00")  # the timings of the tickets that are timed, and of wrk's
PROBE_EVERY_S = (0.2, 0.7)  # at random, so that bookings fall anywhere between two looks
CLIENTS = 32
SPARE_DESCRIPTORS = 200
PROBED = re.compile(rb'"timing":"' + QUIET.encode() + rb'"[^}]*"booked":([1-9][0-9]*)')
TICKS = os.sysconf("SC_CLK_TCK")


class Phase(msgspec.Struct):
    """One stretch of time with wrk at work."""

    listeners: int
    bookings_per_s: float
    web_us: float
    valkey_us: float


class Listener(asyncio.Protocol):
    """One stream, read as cheaply as possible: of each event only the probed showtime's count matters."""

    def __init__(self, address: tuple[str, int], probe: "Probe") -> None:
        self._address = address
        self._probe = probe
        self._unread = b""
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        """Note when an event about a probe has come."""
        events, separator, rest = (self._unread + data).rpartition(b"\n\n")
        self._unread = rest
        if not separator:
            return
        if not self.told.done() and b"event: seats" in events:
            self.told.set_result(None)
        if found := PROBED.search(events):
            self._probe.heard(int(found[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        """A stream that ends early is a failure of the measurement."""
        if not self.told.done():
            self.told.set_exception(exc or ConnectionError("the stream ended"))


class Probe:
    """Books a ticket now and then, and notes how long until each listener knows."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._answered: dict[int, float] = {}
        self._early = 0
        self.booked = 0
        self.delays_s: list[float] = []

    def heard(self, booked: int) -> None:
        """A listener was told that so many seats are booked."""
        if booked in self._answered:
            self.delays_s.append(asyncio.get_running_loop().time() - self._answered[booked])
        else:  # the event was faster than the answer of the booking
            self._early += 1

    def take(self) -> list[float]:
        """The delays since the last time, seconds."""
        taken, self.delays_s = self.delays_s, []
        return taken

    async def keep_booking(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(random.uniform(*PROBE_EVERY_S))
            body = {"name": "Asha", "phone": "1234567", "timing": QUIET}
            async with self._session.post("/v1/tickets", json=body) as answer:
                if answer.status != 201:
                    raise LoadError(f"a booking was answered {answer.status}: {await answer.text()}")
            self.booked += 1
            self._answered[self.booked] = loop.time()
            self.delays_s += [0.0] * self._early
            self._early = 0


@asynccontextmanager
async def listening(service: Service, number: int, probe: Probe) -> AsyncIterator[float]:
    """So many streams, each of which has had its first event; the seconds that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    listeners: list[Listener] = []
    for _ in range(number):
        _, listener = await loop.create_connection(lambda: Listener(service.address, probe), *service.address)
        listeners.append(listener)
    await asyncio.gather(*(listener.told for listener in listeners))
    yield loop.time() - began
    for listener in listeners:
        listener.transport.abort()


class Meter:
    """The processor time of the service's only web process and of its Valkey, from /proc."""

    def __init__(self, service: Service) -> None:
        children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        self._web, self._valkey = sorted(children, key=lambda pid: "valkey" in Path(f"/proc/{pid}/cmdline").read_text())

    def seconds(self) -> tuple[float, float]:
        """Of the web process and of Valkey, so far."""
        return self._of(self._web), self._of(self._valkey)

    @staticmethod
    def _of(pid: str) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_bytes(self) -> int:
        """What the web process holds in memory."""
        return int(Path(f"/proc/{self._web}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def showtimes() -> Iterator[str]:
    """Showtimes to book, a fresh one for each phase so that none is sold out."""
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    for day in range(6):
        for timing in BUSY:
            yield f"{tomorrow + datetime.timedelta(days=day)}T{timing}"


async def book_all_you_can(service: Service, folder: Path, showtime: str, seconds: int) -> float:
    """Let wrk book one showtime; the tickets per second."""
    script = folder / "book.lua"
    body = msgspec.json.encode({"name": "Asha Rao", "phone": "+919812345678", "timing": showtime}).decode()
    script.write_text(
        f"wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '{body}'\n"
        "function done(summary, latency, requests) io.write('booked ', summary.requests - summary.errors.status, "
        "' ', summary.duration, ' ', summary.errors.status, '\\n') end\n"
    )
    wrk = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "-s", str(script), f"{service.url}/v1/tickets"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await wrk.communicate()
    found = re.search(r"^booked (\d+) (\d+) 0$", output.decode(), re.MULTILINE)
    if found is None:
        raise LoadError(f"wrk did not book as it should:\n{output.decode()}")
    return int(found[1]) / (int(found[2]) / 1_000_000)


class Bench:
    """The phases, and what they came to."""

    def __init__(self, service: Service, folder: Path, options: argparse.Namespace, probe: Probe) -> None:
        self._service = service
        self._folder = folder
        self._options = options
        self._probe = probe
        self._meter = Meter(service)
        self._fresh = showtimes()
        self.phases: list[Phase] = []
        self.busy_s: list[float] = []
        self.quiet_s: list[float] = []
        self.all_told_s: list[float] = []
        self.listener_bytes: list[float] = []
        self.quiet_cores: list[tuple[float, float]] = []

    async def round(self) -> None:
        """wrk alone, wrk with the listeners, the listeners alone."""
        number = self._options.listeners
        await self._book(0)
        held = self._meter.memory_bytes()
        async with listening(self._service, number, self._probe) as all_told_s:
            self.all_told_s.append(all_told_s)
            self.listener_bytes.append((self._meter.memory_bytes() - held) / number)
            self._probe.take()
            await self._book(number)
            self.busy_s += self._probe.take()
            before, loop = self._meter.seconds(), asyncio.get_running_loop()
            began = loop.time()
            await asyncio.sleep(self._options.seconds)
            web, valkey = (at - b for at, b in zip(self._meter.seconds(), before, strict=True))
            self.quiet_cores.append((web / (loop.time() - began), valkey / (loop.time() - began)))
            self.quiet_s += self._probe.take()

    async def _book(self, listeners: int) -> None:
        seconds = self._options.seconds
        before = self._meter.seconds()
        rate = await book_all_you_can(self._service, self._folder, next(self._fresh), seconds)
        web, valkey = (at - b for at, b in zip(self._meter.seconds(), before, strict=True))
        millions = rate * seconds / 1_000_000
        self.phases.append(Phase(listeners, rate, web / millions, valkey / millions))
        print(f"{listeners:>10,}{rate:>12,.0f}{web / millions:>9.1f}{valkey / millions:>11.1f}", flush=True)

    def summary(self) -> Iterator[str]:
        """The figures in lines: medians, and ratios of the phases that took turns."""
        number = self._options.listeners
        yield (
            f"{number:,} listeners had their first event within {max(self.all_told_s):.2f} s, "
            f"{max(self.listener_bytes) / 1024:.1f} KiB of memory each"
        )
        yield f"from booking to event, while wrk books: {_percentiles(self.busy_s)}"
        yield f"from booking to event, otherwise: {_percentiles(self.quiet_s)}"
        without, having = self.phases[::2], self.phases[1::2]
        for what, field in (
            ("bookings/s", "bookings_per_s"),
            ("web process, µs", "web_us"),
            ("Valkey, µs", "valkey_us"),
        ):
            first, second = ([getattr(phase, field) for phase in side] for side in (without, having))
            ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
            yield (
                f"{what}: {statistics.median(first):,.1f} without listeners, "
                f"{statistics.median(second):,.1f} with; ratio {ratio:.3f}"
            )
        web, valkey = (statistics.median(side) * 100 for side in zip(*self.quiet_cores, strict=True))
        yield f"listeners and two bookings a second: web process {web:.1f} % of a core, Valkey {valkey:.1f} %"


async def measure(service: Service, folder: Path, options: argparse.Namespace) -> None:
    """Run the rounds and print what they came to."""
    async with aiohttp.ClientSession(service.url) as session:
        probe = Probe(session)
        booking = asyncio.create_task(probe.keep_booking())
        bench = Bench(service, folder, options, probe)
        print(f"{'listeners':>10}{'bookings/s':>12}{'web µs':>9}{'valkey µs':>11}   a booking", flush=True)
        for _ in range(options.rounds):
            await bench.round()
            if booking.done():
                booking.result()
        booking.cancel()
    for line in bench.summary():
        print(line)


def _percentiles(delays_s: Sequence[float]) -> str:
    if len(delays_s) < 2:
        raise LoadError("no event of a probe came")
    cuts = statistics.quantiles(delays_s, n=100)
    shown = ", ".join(f"p{p} {cuts[p - 1] * 1000:.0f} ms" for p in (50, 99))
    return f"{shown}, longest {max(delays_s) * 1000:.0f} ms ({len(delays_s):,} events)"


def check(listeners: int) -> None:
    """Raise LoadError where this machine cannot measure."""
    if shutil.which("wrk") is None:
        raise LoadError("wrk is missing (Debian: apt install wrk; macOS: brew install wrk)")
    if not Path("/proc/self/stat").exists():
        raise LoadError("it reads processor times from /proc, which only Linux has")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < listeners + SPARE_DESCRIPTORS:
        raise LoadError(f"{listeners} listeners need more open files than the {hard} allowed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-live", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--listeners", type=int, default=1000, help="streams held open (1000)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a phase (5)")
    parser.add_argument("--rounds", type=int, default=5, choices=range(1, 7), help="phases of each kind (5)")
    options = parser.parse_args()
    settings = {"WORKERS": "1", "CAPACITY": "100000", "TIMINGS": ",".join((QUIET, "15:00", *BUSY))}
    try:
        check(options.listeners)
        with tempfile.TemporaryDirectory(prefix="matinee-live-") as name:
            folder = Path(name)
            with started(folder, **{f"MATINEE_{key}": value for key, value in settings.items()}) as service:
                asyncio.run(measure(service, folder, options))
    except LoadError as error:
        print(f"bench-live: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
