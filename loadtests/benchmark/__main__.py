"""The command behind `make bench`: measures, prints the tables, and writes figures and pictures.

A full run is recorded: `docs/performance/runs.json` keeps the last three of one machine, and the tables of
`docs/performance.md` and its pictures are written anew from them. A quick or partial run goes to
`loadtests/reports/`.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from loadtests.benchmark import figures, plots
from loadtests.benchmark.crowd import find_wrk
from loadtests.benchmark.figures import Run, Scale
from loadtests.benchmark.machine import describe
from loadtests.benchmark.plan import FULL, QUICK, Bench
from loadtests.starter import ROOT, LoadError

PAGE = ROOT / "docs" / "performance.md"
RECORD = ROOT / "docs" / "performance" / "runs.json"
REPORT = ROOT / "loadtests" / "reports" / "benchmark" / "runs.json"
RUNS_KEPT = 3
OPEN_FILES = 8192
PARTS = {
    "sides": Bench.sides,
    "connections": Bench.connections,
    "workers": Bench.workers,
    "live-tickets": Bench.live_tickets,
    "reads": Bench.reads,
    "browsing": Bench.browsing,
}
MEMORY = "memory"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write: 0 if all went well, 2 where something does not stand or does not add up."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        if options.pages:
            publish(msgspec.json.decode(RECORD.read_bytes(), type=list[Run]), RECORD, PAGE)
            return 0
        run = measure(QUICK if options.quick else FULL, options.part or [*PARTS, MEMORY], _say)
    except LoadError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; all servers have been stopped", file=sys.stderr)
        return 130
    print(f"\n{figures.report([run])}\n")
    if options.quick or options.part:
        publish([run], REPORT, None)
    else:
        publish([*_earlier(run), run][-RUNS_KEPT:], RECORD, PAGE)
    return 0


def measure(scale: Scale, parts: Sequence[str], say: Callable[[str], None]) -> Run:
    """Run the parts. Raises LoadError where there can be no load, or where the books do not agree."""
    check_machine()
    began, date = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="mb-") as folder:
        bench = Bench(Path(folder), scale, say)
        found = {}
        for name, part in PARTS.items():
            if name in parts:
                with ExitStack() as stack:
                    found[name] = part(bench, stack)
        memory = bench.memory() if MEMORY in parts else {}
    machine = describe(bench.stores)
    return Run(date=date, scale=scale, seconds=time.monotonic() - began, machine=machine, parts=found, memory=memory)


def publish(runs: Sequence[Run], record: Path, page: Path | None) -> None:
    """Write the runs, their pictures beside them, and their tables into the page."""
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_bytes(msgspec.json.format(msgspec.json.encode(runs), indent=1) + b"\n")
    plots.draw(runs[-1], record.parent)
    if page:
        page.write_text(figures.put_in(page.read_text(), figures.report(runs)))
    print(f"written: {record}, the pictures beside it{f', the tables in {page}' if page else ''}")


def _earlier(run: Run) -> list[Run]:
    """The recorded runs that this one may stand beside: of the same machine and the same versions."""
    if not RECORD.exists():
        return []
    runs = msgspec.json.decode(RECORD.read_bytes(), type=list[Run])
    return [earlier for earlier in runs if earlier.machine == run.machine]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("make bench", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--quick", action="store_true", help="less of everything, in under two minutes")
    parser.add_argument("--part", action="append", choices=[*PARTS, MEMORY], help="only this part; may be repeated")
    parser.add_argument("--pages", action="store_true", help="measure nothing; write tables and pictures anew")
    return parser.parse_args(argv)


def check_machine() -> None:
    """Whether this machine can run it; raise the limit of open files, which the children inherit."""
    find_wrk()
    if not Path("/proc/stat").exists():
        raise LoadError("it reads the clocks of processes from Linux's /proc, which is not here")
    os.environ["no_proxy"] = "127.0.0.1"  # a proxy of the caller's has no business on loopback
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise LoadError(f"it needs {OPEN_FILES:,} open files, this machine allows {hard:,} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, OPEN_FILES), hard))


def interrupt(*_: object) -> NoReturn:
    """SIGTERM ends everything as Ctrl-C does."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
