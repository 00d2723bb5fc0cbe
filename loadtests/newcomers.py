"""`make bench-newcomers BEFORE=commit`: how long newcomers wait at a web process that a crowd keeps busy.

Two versions of the service take turns, the commit `--before` and the files as they are here, each with one web process
and a store of its own. So many connections book as fast as they are answered, and into that come newcomers, all at
once, each on a connection of its own, for one small answer: what they wait for is to be let in.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import aiohttp
import msgspec

from loadtests.benchmark.__main__ import check_machine
from loadtests.benchmark.crowd import Crowd, Spread
from loadtests.benchmark.machine import Cores, pinned
from loadtests.benchmark.servers import store_binaries, store_server
from loadtests.chain import BOOKING, TIMINGS, programme
from loadtests.path import at_least_two
from loadtests.starter import ROOT, LoadError, Service, started
from loadtests.versions import unpacked

THEATRES = 100
WARM_UP_S = 1  # of the crowd, before the newcomers come


class Wait(msgspec.Struct):
    """How long the newcomers of a turn waited, and what the crowd got meanwhile."""

    p50_ms: float
    p99_ms: float
    busy_per_s: float
    busy_p99_ms: float


async def newcomers(url: str, count: int) -> list[float]:
    """The seconds that each of so many waited for its answer. Raises LoadError where one got none."""

    async def one() -> float:
        began = time.perf_counter()
        async with client.get(f"{url}/livez", headers={"Connection": "close"}) as answer:
            await answer.read()
        return time.perf_counter() - began

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as client:
        try:
            return await asyncio.gather(*(one() for _ in range(count)))
        except aiohttp.ClientError as error:
            raise LoadError(f"a newcomer got no answer: {error!r}") from error


class Bench:
    """The services of two versions, and their turns."""

    def __init__(self, folder: Path, busy: int, count: int, seconds: int) -> None:
        self._folder = folder
        self._programme = programme(folder, THEATRES)
        self._busy = busy
        self._count = count
        self._seconds = seconds
        self._cores = Cores.here()
        self._asked = 0

    @contextmanager
    def service(self, name: str, root: Path) -> Iterator[Service]:
        """One with a store of its own."""
        folder = self._folder / f"data-{name}"
        settings = {"MATINEE_WORKERS": "1", "MATINEE_PROGRAMME": str(self._programme)}
        with store_server(folder, store_binaries()["valkey"], (self._cores.store,)) as store, ExitStack() as stack:
            with pinned(self._cores.web):
                service = stack.enter_context(started(folder, root, MATINEE_REDIS_URL=store.url, **settings))
            yield service

    def turn(self, service: Service) -> Wait:
        """Let newcomers come to a service that is busy."""
        wanted = Spread(self._asked, THEATRES, "POST", "/v1/tickets", BOOKING, TIMINGS)
        crowd = Crowd(service.url, wanted, self._busy, WARM_UP_S + self._seconds, (self._cores.crowd,))
        time.sleep(WARM_UP_S)
        waits = asyncio.run(newcomers(service.url, self._count))
        load = crowd.wait()
        if load.rejected or load.errors:
            raise LoadError(f"{load.rejected} bookings were refused, {load.errors} met errors of sockets")
        self._asked += load.issued
        percentiles = statistics.quantiles(waits, n=100, method="inclusive")
        return Wait(percentiles[49] * 1000, percentiles[98] * 1000, load.answered / load.seconds, load.p99_ms)


def take_turns(bench: Bench, roots: Mapping[str, Path], rounds: int) -> dict[str, list[Wait]]:
    """The waits at each version, turn by turn."""
    found: dict[str, list[Wait]] = {name: [] for name in roots}
    with ExitStack() as stack:
        services = {name: stack.enter_context(bench.service(name, root)) for name, root in roots.items()}
        for turn in range(rounds):
            for name, service in services.items():
                wait = bench.turn(service)
                found[name].append(wait)
                print(
                    f"{turn + 1}/{rounds}  {name:7} newcomers p50 {wait.p50_ms:7,.0f}  p99 {wait.p99_ms:7,.0f} ms   "
                    f"crowd {wait.busy_per_s:7,.0f}/s  p99 {wait.busy_p99_ms:5.0f} ms",
                    flush=True,
                )
    return found


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if all went well, 2 where something fails or can't be measured here."""
    parser = argparse.ArgumentParser(prog="make bench-newcomers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the version to compare with")
    parser.add_argument("--busy", type=int, default=1024, help="connections that book all the time (1024)")
    parser.add_argument("--newcomers", type=at_least_two, default=500, help="who come at once, 2 at the least (500)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each version (5)")
    parser.add_argument("--seconds", type=int, default=4, help="how long the crowd goes on once they have come (4)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        check_machine()
        with tempfile.TemporaryDirectory(prefix="mn-") as name:
            folder = Path(name)
            roots = {"before": unpacked(options.before, folder / "before"), "after": ROOT}
            bench = Bench(folder, options.busy, options.newcomers, options.seconds)
            found = take_turns(bench, roots, options.rounds)
    except LoadError as error:
        print(f"bench-newcomers: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-newcomers: interrupted; all servers have been stopped", file=sys.stderr)
        return 130
    print(f"\n{'medians':24}{'before':>10}{'after':>10}{'change':>8}{'spread':>14}")
    for label, field in (
        ("newcomers, p50 ms", "p50_ms"),
        ("newcomers, p99 ms", "p99_ms"),
        ("crowd, bookings a second", "busy_per_s"),
        ("crowd, p99 ms", "busy_p99_ms"),
    ):
        before, after = ([getattr(wait, field) for wait in found[name]] for name in ("before", "after"))
        changes = [now / then for then, now in zip(before, after, strict=True)]
        print(
            f"{label:24}{statistics.median(before):10,.0f}{statistics.median(after):10,.0f}"
            f"{statistics.median(changes):8.2f}{f'{min(changes):.2f}-{max(changes):.2f}':>14}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
