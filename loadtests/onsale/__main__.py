"""The command behind `make simulate`: a national on-sale against ever more web processes and shards.

Without options it is the one of `docs/scaling.md`, which its tables and pictures are written from: 1,000 theatres, six
showtimes each, 20 seats each, a million people in the first minute. The costs are those of `make capacity`. One on-sale
takes some 20 s of one core; as many at a time are simulated as there are cores. --probe holds the simulator against the
real service on this machine.
"""

import argparse
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import msgspec

from loadtests.benchmark.__main__ import check_machine, interrupt
from loadtests.benchmark.figures import put_in
from loadtests.capacity.__main__ import PAGE, recorded
from loadtests.capacity.measure import BOOKING, BROWSE, SOLD_OUT, Record
from loadtests.capacity.model import PARTS_OF_MIX, connection_us, costs
from loadtests.onsale import probe, report
from loadtests.onsale.crowd import Habits
from loadtests.onsale.messages import USERS_MAX, WEB_MAX
from loadtests.onsale.run import Result, Setting, simulate
from loadtests.onsale.service import Prices
from loadtests.starter import ROOT, LoadError

RECORD = ROOT / "docs" / "performance" / "onsale.json"
PROBE = ROOT / "docs" / "performance" / "onsale-probe.json"
WEBS, SHARDS = (2, 3, 4, 5, 6, 8), (1, 2, 3)
SHED_AT = 2  # shards, where the service is simulated without its bounds too
NARROW = 3  # so many numbers of web processes, from the fewest on


class Simulations(msgspec.Struct, frozen=True):
    """What was simulated: the grid, and of some the same with and without bounds, second by second."""

    date: str
    seconds: float
    results: list[Result]
    pairs: list[Result]


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate and say what came of it: 0, or 2 where the real service does not stand."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if options.probe:
            found = _probe(options.seed)
            PROBE.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
        elif not options.pages:
            simulations = _simulate(options)
            print(f"\n{report.grid(simulations.results)}\n\n{report.shedding(simulations.pairs)}\n")
            if not options.record:
                return 0
            RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(simulations), indent=0) + b"\n")
        write_page()
    except LoadError as error:
        print(f"simulate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("simulate: interrupted", file=sys.stderr)
        return 130
    return 0


def prices(record: Record, shards: int, speed: float = 1.0) -> Prices:
    """The recorded costs before so many shards, times `speed`."""
    found = costs(record, 1 if shards == 1 else 3)
    web, shard = found.web, found.shard
    return Prices(
        web_booking=web[BOOKING].request_us * speed,
        web_sold_out=web[SOLD_OUT].request_us * speed,
        web_browse=web[BROWSE].request_us * speed,
        web_write=web[BROWSE].write_us * speed,
        web_refusal=connection_us(record) * speed,
        shard_booking=shard[BOOKING].request_us * speed,
        shard_sold_out=shard[SOLD_OUT].request_us * speed,
        shard_browse=shard[BROWSE].request_us * speed,
        shard_write=shard[BROWSE].write_us * speed,
    )


def write_page() -> None:
    """The document's tables and pictures, from the records."""
    found = msgspec.json.decode(RECORD.read_bytes(), type=Simulations)
    report.draw(found.results, found.pairs, RECORD.parent)
    page = PAGE.read_text()
    for name, text in (
        ("simulation", report.grid(found.results)),
        ("shedding", report.shedding(found.pairs)),
        ("probe", probe.comparison_table(msgspec.json.decode(PROBE.read_bytes(), type=probe.Probe))),
    ):
        page = put_in(page, text, *mark(name))
    PAGE.write_text(page)
    print(f"written: the tables in {PAGE}, the pictures in {RECORD.parent}")


def mark(name: str) -> tuple[str, str]:
    """The lines between which a table stands in the document."""
    return f"<!-- {name}: written by make simulate -->\n", f"<!-- end of {name} -->\n"


def settings(options: argparse.Namespace) -> Iterator[Setting]:
    """What is to be simulated: the grid, then the narrow ones without bounds."""
    record = recorded()
    habits = Habits(users=options.users, seats=options.seats, skew=options.skew, rush_s=options.rush)
    grid = [(webs, shards, True) for shards, webs in itertools.product(options.shards, options.webs)]
    narrow = [(webs, SHED_AT, False) for webs in sorted(options.webs)[:NARROW] if SHED_AT in options.shards]
    for webs, shards, sheds in [*grid, *narrow]:
        yield Setting(
            webs=webs, shards=shards, habits=habits, prices=prices(record, shards), seed=options.seed, sheds=sheds
        )


def _simulate(options: argparse.Namespace) -> Simulations:
    """All of them, several at a time; each is told as it is done."""
    began = time.monotonic()
    todo = list(settings(options))
    done: dict[Setting, Result] = {}
    with ProcessPoolExecutor(options.processes) as pool:
        futures = [pool.submit(simulate, setting) for setting in todo]
        try:
            for number, future in enumerate(as_completed(futures)):
                result = future.result()
                done[result.setting] = result
                print(f"{number + 1}/{len(todo)}  {_line(result)}  ({time.monotonic() - began:.0f} s)", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    narrow = [setting for setting in todo if not setting.sheds]
    pairs = [done[each] for setting in narrow for each in (msgspec.structs.replace(setting, sheds=True), setting)]
    results = [msgspec.structs.replace(done[setting], seconds=[]) for setting in todo if setting.sheds]
    date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Simulations(date, time.monotonic() - began, results, pairs)


def _line(result: Result) -> str:
    setting = result.setting
    webs = f"{setting.webs} web process{'es' if setting.webs > 1 else ''}"
    shards = f"{setting.shards} shard{'s' if setting.shards > 1 else ''}"
    return (
        f"{webs}, {shards}{'' if setting.sheds else ', no bounds'}: "
        f"p99 {result.p99_ms:,.0f} ms, {result.shed_share:.1%} refused, {result.seats_sold:,} seats sold"
    )


def _probe(seed: int) -> probe.Probe:
    check_machine()
    record = recorded()
    web = costs(record, 1).web

    def web_us(writes: float) -> float:
        return sum(share * web[kind].at(writes) for kind, share in PARTS_OF_MIX.items())

    found = probe.compare(lambda speed: prices(record, 1, speed), web_us, seed, lambda line: print(line, flush=True))
    print(f"\n{probe.comparison_table(found)}\n")
    return found


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make simulate", description=(__doc__ or "").partition(":")[2].split("\n\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000, help="people in the first minute (1000000)")
    parser.add_argument("--seats", type=int, default=20, help="seats of a showtime (20)")
    parser.add_argument("--skew", type=float, default=0.8, help="exponent of Zipf's law over the theatres (0.8)")
    parser.add_argument("--rush", type=float, default=20, help="seconds in which two thirds of them come (20)")
    parser.add_argument("--webs", type=_numbers, default=WEBS, help="numbers of web processes (2,3,4,5,6,8)")
    parser.add_argument("--shards", type=_numbers, default=SHARDS, help="numbers of shards (1,2,3)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is at random (1)")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="at a time (one a core)")
    parser.add_argument(
        "--record", action="store_true", help="write the tables and pictures of docs/scaling.md from it"
    )
    parser.add_argument("--probe", action="store_true", help="hold the simulator against the real service instead")
    parser.add_argument("--pages", action="store_true", help="write tables and pictures anew from the records")
    options = parser.parse_args(argv)
    if not 1 <= options.users < USERS_MAX:
        parser.error(f"--users must be from 1 to {USERS_MAX - 1}")
    if not all(1 <= number < WEB_MAX for number in options.webs):
        parser.error(f"--webs must be from 1 to {WEB_MAX - 1}")
    if options.seats < 1 or options.rush <= 0 or options.skew < 0 or options.processes < 1:
        parser.error("--seats, --rush and --processes must be positive, --skew not negative")
    return options


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(each) for each in text.split(",") if each.isdecimal())
    if not numbers or 0 in numbers or len(numbers) != len(text.split(",")):
        raise argparse.ArgumentTypeError("must be whole numbers above 0, with commas between them")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
