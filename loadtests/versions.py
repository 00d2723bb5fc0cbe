"""`make bench-versions BEFORE=c6e4682~1`: what a change has done to the cost of a request.

Two versions of the service take turns in one run: the commit `--before`, and the commit `--after` or the files as they
are here. First without sockets, by `path.py` on the code of each, a process for every turn; then bookings by wrk over
real sockets, as in `make bench`, with one web process of each version. The installed libraries are the same for both.
"""

import argparse
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from loadtests.benchmark import figures
from loadtests.benchmark.__main__ import check_machine
from loadtests.benchmark.figures import Part, Scale
from loadtests.benchmark.plan import Bench
from loadtests.path import BARE, RECORD
from loadtests.starter import ROOT, LoadError

BATCHES = 40  # of each kind of request, in each turn
# Without those of a chain, which takes sixty batches to ask for every showtime once.
SIDES = ("book", "book, classic route", "book with a key", "sold out", "view a ticket", "seats of a day")
WARM_UP_S = 2
TURN_S = 3

Costs = dict[str, float]  # of each kind of request, µs


def unpacked(commit: str, folder: Path) -> Path:
    """The service as it was at that commit. Raises LoadError where git does not know it."""
    command = ["git", "archive", commit, "service", "lua"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise LoadError(f"git does not give the service of {commit}: {archive.stderr.decode().strip()}")
    folder.mkdir()
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def without_sockets(root: Path) -> Costs:
    """One turn: the costs by the code in `root`. Raises LoadError where that can't serve what `path.py` asks."""
    command = [sys.executable, str(RECORD.with_suffix(".py")), "--rounds", str(BATCHES), "--json"]
    command += [word for side in SIDES for word in ("--side", side)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"the service in {root} could not be measured:\n{done.stderr}")
    costs: Costs = json.loads(done.stdout)
    return costs


def take_turns(roots: Mapping[str, Path], rounds: int) -> dict[str, list[Costs]]:
    """The costs by each version, turn by turn."""
    found: dict[str, list[Costs]] = {name: [] for name in roots}
    for turn in range(rounds):
        for name, root in roots.items():
            found[name].append(without_sockets(root))
            print(f"without sockets {turn + 1}/{rounds}  {name:7} book {found[name][-1]['book']:6.1f} µs", flush=True)
    return found


def report_path(found: Mapping[str, Sequence[Costs]]) -> None:
    """Print, of each kind of request, its ratio to the bare handler before and after, and how that has changed."""
    print(f"\n{'to the bare handler':24}{'before':>8}{'after':>8}{'change':>8}{'spread':>14}")
    for side in SIDES:
        before, after = ([costs[side] / costs[BARE] for costs in found[name]] for name in ("before", "after"))
        changes = [now / then for then, now in zip(before, after, strict=True)]
        print(
            f"{side:24}{statistics.median(before):8.2f}{statistics.median(after):8.2f}{statistics.median(changes):8.2f}"
            f"{f'{min(changes):.2f}-{max(changes):.2f}':>14}"
        )


def report_sockets(part: Part) -> None:
    """Print what a booking over sockets costs before and after, and the ratio."""
    print(f"\n{'bookings over sockets':24}{'before':>8}{'after':>8}{'change':>8}")
    for name, measure in (
        ("per second", figures.rate),
        ("web process, µs", lambda one: one.web_us),
        ("store, µs", lambda one: one.store_us),
        ("p99, ms", lambda one: one.load.p99_ms),
    ):
        before, after = (statistics.median(map(measure, part[side])) for side in ("before", "after"))
        change = figures.ratio(part, "after", "before", measure)
        print(f"{name:24}{before:8,.1f}{after:8,.1f}{change:8.2f}")


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-versions", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--before", required=True, metavar="COMMIT", help="the version to compare with")
    parser.add_argument("--after", metavar="COMMIT", help="the version to compare (the files here)")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each version (6)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    scale = Scale(
        warm_up_s=WARM_UP_S,
        rounds=options.rounds,
        seconds=TURN_S,
        growth_rounds=0,
        growth_seconds=0,
        connections=(),
        live=(),
        memory_tickets=0,
        budget_s=20 * options.rounds,
    )
    try:
        check_machine()
        with tempfile.TemporaryDirectory(prefix="mv-") as name, ExitStack() as stack:
            folder = Path(name)
            roots = {"before": unpacked(options.before, folder / "before")}
            roots["after"] = unpacked(options.after, folder / "after") if options.after else ROOT
            costs = take_turns(roots, options.rounds)
            data = folder / "data"
            data.mkdir()
            part = Bench(data, scale, lambda line: print(line, flush=True)).versions(stack, roots)
    except LoadError as error:
        print(f"bench-versions: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench-versions: interrupted; all servers have been stopped", file=sys.stderr)
        return 130
    report_path(costs)
    report_sockets(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
