"""The command behind `make capacity`: says what a demand takes; with --check it measures first.

The costs come from `docs/performance/capacity.json`. --check takes them anew on this machine (some five minutes), and
holds what they predict of two web processes, three shards and a mix of requests against the measurement.
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from loadtests.benchmark import __main__ as bench
from loadtests.benchmark.figures import Run, put_in
from loadtests.capacity import tables
from loadtests.capacity.measure import ALL, BOOKING, BROWSE, SOLD_OUT, UNCHANGED, Bench, Record, Scale
from loadtests.capacity.model import Demand, Plan, costs, plan
from loadtests.starter import ROOT, LoadError

PAGE = ROOT / "docs" / "scaling.md"
RECORD = ROOT / "docs" / "performance" / "capacity.json"
FULL = Scale(rounds=4, seconds=1, budget_s=150)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure if asked to, and answer: 0, or 2 where something does not stand."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, bench.interrupt)
    try:
        if options.check:
            record(measure(FULL))
        elif options.pages:
            write_page()
        print(answer(options))
    except LoadError as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("capacity: interrupted; all servers have been stopped", file=sys.stderr)
        return 130
    return 0


def measure(scale: Scale) -> Record:
    """Let all sides take their turns."""
    bench.check_machine()
    with tempfile.TemporaryDirectory(prefix="mc-") as folder:
        return Bench(Path(folder), scale, lambda line: print(line, flush=True)).run(ALL)


def recorded() -> Record:
    """The costs as they were measured last."""
    return msgspec.json.decode(RECORD.read_bytes(), type=Record)


def bytes_per_ticket() -> float:
    """What `make bench` found last, in Valkey."""
    return msgspec.json.decode(bench.RECORD.read_bytes(), type=list[Run])[-1].memory["valkey"].bytes_per_ticket


def record(found: Record) -> None:
    """Keep it, and show it in the document."""
    RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    write_page()
    print(f"\n{tables.prices(found)}\n\n{tables.check(found)}\n\nwritten: {RECORD}, the tables in {PAGE}\n")


def write_page() -> None:
    """The document's tables, from the record."""
    found = recorded()
    page = PAGE.read_text()
    for name, text in (
        ("answers", tables.answers(found, bytes_per_ticket())),
        ("costs", tables.prices(found)),
        ("check", tables.check(found)),
    ):
        page = put_in(page, text, *tables.mark(name))
    PAGE.write_text(page)


def answer(options: argparse.Namespace) -> str:
    """What the demand takes, in lines for people."""
    per_s = {
        BOOKING: options.bookings,
        SOLD_OUT: options.sold_out,
        BROWSE: options.browses,
        UNCHANGED: options.unchanged,
    }
    demand = Demand(per_s, options.tickets, options.hottest)
    found = plan(costs(recorded(), 3), demand, options.utilisation, bytes_per_ticket())
    asked = ", ".join(f"{number:,.0f} {kind}/s" for kind, number in per_s.items() if number)
    return (
        f"{asked}; none used beyond {options.utilisation:.0%}:\n"
        f"  web processes  {found.web_processes}, a core each\n"
        f"  shards         {_shards(found, options.hottest)}\n"
        f"  memory         {found.shard_bytes / 1e6:,.0f} MB of tickets on each shard, {options.tickets:,} in all;"
        " give a server twice as much"
    )


def _shards(found: Plan, hottest: float) -> str:
    if found.shards is None:
        return f"no number is enough: the theatre with {hottest:.0%} of it fills a shard alone"
    return f"{found.shards}, a core each{'; one is a single server' if found.shards == 1 else ''}"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make capacity", description=(__doc__ or "").partition(":")[2].split("\n\n")[0])
    parser.add_argument("--bookings", type=float, default=2000, help="accepted bookings per second (2000)")
    parser.add_argument("--sold-out", type=float, default=0, help="bookings refused as sold out per second (0)")
    parser.add_argument("--browses", type=float, default=20_000, help="looks at the seats of a day per second (20000)")
    parser.add_argument("--unchanged", type=float, default=0, help="the same that find nothing new, per second (0)")
    parser.add_argument("--tickets", type=int, default=1_000_000, help="tickets kept at a time (1000000)")
    parser.add_argument("--hottest", type=float, default=0, help="share of the most popular theatre, 0 to 1 (0)")
    parser.add_argument("--utilisation", type=float, default=tables.UTILISATION, help="at most so, 0 to 1 (0.6)")
    parser.add_argument("--check", action="store_true", help="measure first, and write the record and its tables")
    parser.add_argument("--pages", action="store_true", help="write the tables anew from the record")
    options = parser.parse_args(argv)
    if not 0 < options.utilisation <= 1:
        parser.error("--utilisation must be above 0 and at most 1")
    if not 0 <= options.hottest <= 1:
        parser.error("--hottest must be from 0 to 1")
    if min(options.bookings, options.sold_out, options.browses, options.unchanged, options.tickets) < 0:
        parser.error("a demand must not be negative")
    return options


if __name__ == "__main__":
    sys.exit(main())
