"""`make bench-chain`: what a chain of 10,000 theatres costs beside a single theatre.

Two services take turns, each with two web processes and a store of its own: one with the theatres `hall-00000` to
`hall-09999`, the other with the first of them alone; all have six timings a day. Of both are measured: the time from
the start to readiness; the memory of master and web processes after the start, after a crowd has looked at and booked
every showtime of every theatre, and after reloads; what a booking, a day's seats, and pages of the list of theatres
cost web process and store; and what a reload (SIGHUP) costs a crowd that books on.

Memory is read from smaps_rollup: PSS shares what processes share among them, RSS does not.
"""

import argparse
import itertools
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import date, timedelta
from pathlib import Path
from typing import NoReturn

import msgspec

from loadtests.benchmark.__main__ import check_machine
from loadtests.benchmark.crowd import Crowd, Load, Request, Spread
from loadtests.benchmark.machine import Cores, Meter
from loadtests.benchmark.servers import StoreServer, store_binaries, store_server
from loadtests.starter import LoadError, Service, started
from service.directory import Cursor

TIMINGS = ("09:00", "12:00", "15:00", "18:00", "21:00", "23:30")
CAPACITY = 100_000  # the single theatre sells as many tickets as the chain
WORKERS = 2
CONNECTIONS = 64
RELOADS = 10
ANYWHERE, AT_ONE = "a booking", "a booking at one theatre"  # at another showtime each time; at six of them
REPLACED_WITHIN_S = 60
BEFORE_RELOAD_S, AFTER_RELOAD_S = 1.0, 3
MIB = 1024

BOOKING = '{"name":"Asha Rao","phone":"+919812345678","timing":"{timing}","theatre":"{theatre}"}'
DAY = f"/v1/theatres/{{theatre}}/showtimes?date={date.today() + timedelta(days=1)}"


class House(msgspec.Struct):
    """A service of so many theatres, and its store."""

    name: str
    theatres: int
    service: Service
    store: StoreServer
    asked: int = 0

    def web_processes(self) -> list[int]:
        """Their process ids."""
        master = self.service.pid
        return sorted(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))

    def spread(self, method: str, path: str, body: str = "", theatres: int | None = None) -> Spread:
        """Requests for all showtimes in turn, or those of so many theatres, going on where the last ones were."""
        return Spread(self.asked, theatres or self.theatres, method, path, body, TIMINGS)


class Turn(msgspec.Struct):
    """A stretch of time with a crowd: what an answer cost, how many came, how long half of them took at the most."""

    web_us: float
    store_us: float
    rate: float
    p50_ms: float
    others: float


def programme(folder: Path, theatres: int) -> Path:
    """The file of a programme."""
    file = folder / f"{theatres}.toml"
    timings = msgspec.json.encode(TIMINGS).decode()
    file.write_text(
        "".join(
            f'[[theatre]]\nid = "hall-{number:05}"\nname = "Hall {number} {"Köln" if number % 100 == 0 else "Bonn"}"\n'
            f'timezone = "Europe/Berlin"\ncapacity = {CAPACITY}\ntimings = {timings}\n'
            for number in range(theatres)
        ),
        encoding="utf-8",
    )
    return file


class Bench:
    """One run. Its results are by measure, then by house, round by round."""

    def __init__(self, folder: Path, theatres: int, rounds: int, seconds: int) -> None:
        self._folder = folder
        self._sizes = {"one theatre": 1, "chain": theatres}
        self._files = {name: programme(folder, size) for name, size in self._sizes.items()}
        self._rounds = rounds
        self._seconds = seconds
        self._cores = Cores.here()
        self._numbers = itertools.count()

    def start(self, name: str, stack: ExitStack) -> tuple[House, float]:
        """Start a house; how long it took until it was ready, seconds."""
        folder = self._folder / str(next(self._numbers))
        store = stack.enter_context(store_server(folder, store_binaries()["valkey"], (self._cores.store,)))
        settings = {
            "MATINEE_REDIS_URL": store.url,
            "MATINEE_WORKERS": str(WORKERS),
            "MATINEE_PROGRAMME": str(self._files[name]),
        }
        began = time.perf_counter()
        service = stack.enter_context(started(folder, **settings))
        ready_s = time.perf_counter() - began
        house = House(name, self._sizes[name], service, store)
        _wait(lambda: len(house.web_processes()) == WORKERS, "all web processes")
        return house, ready_s

    def starts(self) -> dict[str, list[float]]:
        """Start the houses in turn."""
        found: dict[str, list[float]] = {name: [] for name in self._sizes}
        for turn in range(self._rounds):
            for name, times in found.items():
                with ExitStack() as stack:
                    times.append(self.start(name, stack)[1])
                _say(f"start {turn + 1}/{self._rounds}  {name:12} {times[-1]:6.2f} s")
        return found

    def fill_caches(self, house: House) -> int:
        """Look at every theatre and book at every showtime, more often than each web process needs; how many booked.

        The single theatre sells as many tickets as the chain, for both stores shall hold the same.
        """
        showtimes = self._sizes["chain"] * len(TIMINGS)
        booked = 0
        for method, path, body, goal in (
            ("GET", DAY, "", 4 * house.theatres),
            ("POST", "/v1/tickets", BOOKING, 3 * showtimes),
        ):
            asked = 0
            while asked < goal:
                load = self._crowd(house, house.spread(method, path, body), self._seconds)[0]
                _expect_no_failures(house, load)
                asked += load.issued
                house.asked += load.issued
                booked += load.answered if body else 0
                if house.theatres == 1 and not body:
                    break
        return booked

    def take_turns(self, houses: Sequence[House]) -> dict[str, dict[str, list[Turn]]]:
        """What the requests cost each house."""
        found: dict[str, dict[str, list[Turn]]] = {}
        for turn in range(self._rounds):
            for house in houses:
                for measure, wanted in _requests(house).items():
                    load, meter = self._crowd(house, wanted, self._seconds)
                    _expect_no_failures(house, load)
                    house.asked += load.issued
                    web_s = sum(meter.cpu_s[pid] for pid in house.web_processes())
                    one = Turn(
                        web_s / load.answered * 1e6,
                        meter.cpu_s[house.store.pid] / load.answered * 1e6,
                        load.answered / load.seconds,
                        load.p50_ms,
                        meter.others_s / meter.seconds,
                    )
                    found.setdefault(measure, {}).setdefault(house.name, []).append(one)
                    _say(
                        f"{measure} {turn + 1}/{self._rounds}  {house.name:12} web {one.web_us:6.1f}  "
                        f"store {one.store_us:5.1f} µs  others {one.others:4.0%}"
                    )
        found[AT_ONE] = {"one theatre": found[ANYWHERE]["one theatre"], **found[AT_ONE]}  # there every booking is
        return found

    def reload(self, house: House) -> tuple[float, Load]:
        """Reload while a crowd books: until all web processes are new ones, seconds; and what the crowd met."""
        with house.store.client() as client:
            client.flushall()  # what is sold out would count as a failure
        crowd = Crowd(
            house.service.url,
            house.spread("POST", "/v1/tickets", BOOKING),
            CONNECTIONS,
            round(BEFORE_RELOAD_S + AFTER_RELOAD_S + self._seconds),
            (self._cores.crowd,),
        )
        time.sleep(BEFORE_RELOAD_S)
        took_s = replace_web_processes(house)
        load = crowd.wait()
        house.asked += load.issued
        return took_s, load

    def _crowd(self, house: House, wanted: Spread | Request, seconds: int) -> tuple[Load, Meter]:
        meter = Meter({os.getpid(), house.service.pid, house.store.pid, *house.web_processes()})
        load = Crowd(house.service.url, wanted, CONNECTIONS, seconds, (self._cores.crowd,)).wait()
        meter.stop()
        return load, meter


def replace_web_processes(house: House) -> float:
    """Send SIGHUP; how long until only new web processes are left, seconds."""
    before = set(house.web_processes())
    began = time.perf_counter()
    os.kill(house.service.pid, signal.SIGHUP)
    _wait(lambda: len(house.web_processes()) == WORKERS and not before & set(house.web_processes()), "new processes")
    return time.perf_counter() - began


def _requests(house: House) -> dict[str, Spread | Request]:
    middle = Cursor(f"hall-{house.theatres // 2:05}").text
    at_one = house.spread("POST", "/v1/tickets", BOOKING, theatres=1)
    return {
        ANYWHERE: house.spread("POST", "/v1/tickets", BOOKING),
        **({AT_ONE: at_one} if house.theatres > 1 else {}),
        "a day's seats": house.spread("GET", DAY),
        "theatres, first page": Request("GET", "/v1/theatres"),
        "theatres, deep cursor": Request("GET", f"/v1/theatres?cursor={middle}"),
        "theatres, by name": Request("GET", "/v1/theatres?name=koln"),
    }


def memory_mib(pid: int) -> tuple[float, float]:
    """PSS and RSS of a process."""
    lines = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    pss, rss = (int(lines[kind].split()[0]) / MIB for kind in ("Pss", "Rss"))
    return pss, rss


class Memory(msgspec.Struct):
    """MiB: PSS and RSS of the master and of its web processes, these on average."""

    when: str
    master: tuple[float, float]
    web: tuple[float, float]

    @classmethod
    def of(cls, house: House, when: str) -> "Memory":
        """As it is now."""
        each = [memory_mib(pid) for pid in house.web_processes()]
        found = cls(
            when, memory_mib(house.service.pid), tuple(statistics.mean(kind) for kind in zip(*each, strict=True))
        )
        _say(f"memory  {house.name:12} {found.line}")
        return found

    @property
    def line(self) -> str:
        """For people."""
        return (
            f"{self.when:26} master {self.master[0]:6.1f} PSS {self.master[1]:6.1f} RSS   "
            f"each web process {self.web[0]:6.1f} PSS {self.web[1]:6.1f} RSS MiB"
        )


def _expect_no_failures(house: House, load: Load) -> None:
    if load.rejected or load.errors:
        raise LoadError(f"{house.name}: {load.rejected} requests were refused, {load.errors} met errors of sockets")


def _wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + REPLACED_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise LoadError(f"waited in vain for {what}")
        time.sleep(0.01)


def _say(line: str) -> None:
    print(line, flush=True)


def measure(folder: Path, theatres: int, rounds: int, seconds: int) -> list[str]:
    """The whole run; the lines of its report. Raises LoadError where something fails."""
    bench = Bench(folder, theatres, rounds, seconds)
    starts = bench.starts()
    lines = [
        f"from the start to readiness, s: one theatre {_median(starts['one theatre']):.2f}, "
        f"chain {_median(starts['chain']):.2f}"
    ]
    with ExitStack() as stack:
        houses = [bench.start(name, stack)[0] for name in starts]
        memories = {house.name: [Memory.of(house, "after the start")] for house in houses}
        booked = {house.name: bench.fill_caches(house) for house in houses}
        for house in houses:
            memories[house.name].append(Memory.of(house, "with full caches"))
        costs = bench.take_turns(houses)
        for house in houses:
            reloads = [bench.reload(house) for _ in range(3)]
            failed = sum(load.rejected + load.errors for _, load in reloads)
            lines.append(
                f"reload of {house.name}, s: {_median([took for took, _ in reloads]):.2f}; of "
                f"{sum(load.answered for _, load in reloads):,} requests meanwhile {failed} failed"
            )
            memories[house.name].append(Memory.of(house, "after 3 reloads, crowd"))
            for _ in range(RELOADS):
                replace_web_processes(house)
            memories[house.name].append(Memory.of(house, f"after {RELOADS} more"))
    lines += [f"memory of {name}, {each.line}" for name, found in memories.items() for each in found]
    lines.append(f"bookings to fill the caches: {', '.join(f'{name} {count:,}' for name, count in booked.items())}")
    return [*lines, *table(costs)]


def table(costs: dict[str, dict[str, list[Turn]]]) -> list[str]:
    """The costs of each house and their ratios, in lines."""
    lines = [f"{'µs of processor time':32}{'one theatre':>12}{'chain':>8}{'ratio':>8}{'spread':>14}"]
    for measure, by_house in costs.items():
        for process in ("web", "store"):
            one, chain = ([getattr(turn, f"{process}_us") for turn in by_house[name]] for name in by_house)
            if process == "store" and "theatres" in measure:
                continue  # it is not asked
            ratios = [more / less for more, less in zip(chain, one, strict=True)]
            lines.append(
                f"{f'{measure}, {process}':32}{_median(one):12.1f}{_median(chain):8.1f}{_median(ratios):8.2f}"
                f"{f'{min(ratios):.2f}-{max(ratios):.2f}':>14}"
            )
    return lines


_median = statistics.median


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if all went well, 2 where something fails or can't be measured here."""
    parser = argparse.ArgumentParser(prog="make bench-chain", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--theatres", type=int, default=10_000, help="of the chain, 5 at the least (10000)")
    parser.add_argument("--rounds", type=int, default=4, help="starts and turns of each (4)")
    parser.add_argument("--seconds", type=int, default=2, help="length of a turn (2)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        check_machine()
        with tempfile.TemporaryDirectory(prefix="mc-") as folder:
            lines = measure(Path(folder), options.theatres, options.rounds, options.seconds)
    except LoadError as error:
        print(f"bench-chain: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-chain: interrupted; all servers have been stopped", file=sys.stderr)
        return 130
    print("", *lines, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
