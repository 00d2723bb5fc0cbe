"""The command behind `make load`: crowds against a service of its own, then the check of its books.

For each scenario it starts `python -m service serve` with its embedded Valkey in a temporary folder and on a
free port of the loopback interface, lets locust run against it for a bounded time, writes its HTML report,
holds the receipts of the clients against the database, and prints a summary. The exit code is 0 only if no
request failed, some bookings were accepted, and the books agree.
"""

import argparse
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec
import redis

from loadtests.books import Receipts, Report, audit
from loadtests.starter import ROOT, STOPPED_WITHIN_S, LoadError, Service, running, started, tail
from service.settings import CAPACITY_MAX

LOCUSTFILE = ROOT / "loadtests" / "locustfile.py"
REPORTS = ROOT / "loadtests" / "reports"

ARRIVALS_SHARE = 0.1  # of the time, in which all users come
LAST_ANSWERS_WITHIN_S = 15
# A request whose client has gone may still be at work in the service, at most for its own deadline.
SETTLED_AFTER_S = 3

SPARE_DESCRIPTORS = 200
SHOWN_DISAGREEMENTS = 20


class Scenario(msgspec.Struct, frozen=True):
    """A user class of the locustfile and the programme that suits it.

    A user tries `bookings_per_user_s`; there are seats for `seats_per_booking` of all that are tried.
    """

    user_class: str
    theatres: tuple[str, ...]
    timings: tuple[str, ...]
    bookings_per_user_s: float
    seats_per_booking: float

    def capacity(self, users: int, seconds: int) -> int:
        """Seats per showtime."""
        seats = users * seconds * self.bookings_per_user_s * self.seats_per_booking
        return min(max(1, round(seats / (len(self.theatres) * len(self.timings)))), CAPACITY_MAX)


SCENARIOS = {
    # Half of the crowd comes too late.
    "rush": Scenario("OnSaleRush", ("main", "studio"), ("18:00", "21:00"), 0.8, 0.5),
    # Seats for all, but not at the popular showtimes.
    "day": Scenario("MixedDay", ("main", "studio", "open-air"), ("11:00", "14:00", "17:00", "20:00"), 4 / 19, 1.2),
}


class Line(msgspec.Struct):
    """One line of locust's statistics: `response_times` maps milliseconds to how many answers took them."""

    name: str
    method: str
    num_requests: int
    num_failures: int
    response_times: dict[int, int]

    def percentile_ms(self, share: float) -> int:
        """The time within which `share` (0 to 1) of the answers came."""
        rank, seen = math.ceil(share * self.num_requests), 0
        for time_ms in sorted(self.response_times):
            seen += self.response_times[time_ms]
            if seen >= rank:
                return time_ms
        return 0


class Result(msgspec.Struct, frozen=True):
    """What a scenario came to: locust's lines, its exit code, and the books."""

    lines: list[Line]
    locust_code: int
    books: Report

    def count(self, name: str) -> int:
        """How many answers were filed under a name, such as `book: sold out`."""
        return sum(line.num_requests for line in self.lines if line.name == name)

    @property
    def total(self) -> Line:
        """All lines in one."""
        times: Counter[int] = Counter()
        for line in self.lines:
            times.update(line.response_times)
        requests = sum(line.num_requests for line in self.lines)
        failures = sum(line.num_failures for line in self.lines)
        return Line("all", "", requests, failures, dict(times))

    @property
    def good(self) -> bool:
        """Whether nothing failed, something was booked, and the books agree."""
        accepted = self.count("book: accepted")
        return self.locust_code == 0 and self.total.num_failures == 0 and accepted > 0 and not self.books.disagreements


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios asked for: 0 if all were good, 1 if one was not, 2 if there could be no load."""
    options = _parse(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ["no_proxy"] = "127.0.0.1"  # a proxy of the caller's has no business on loopback
    try:
        _make_room_for(options.users)
        chosen = SCENARIOS if options.scenario == "all" else {options.scenario: SCENARIOS[options.scenario]}
        results = [_run(name, scenario, options) for name, scenario in chosen.items()]
    except LoadError as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("load: interrupted; the service and locust have been stopped", file=sys.stderr)
        return 130
    return 0 if all(result.good for result in results) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m loadtests.load", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=_positive, default=2000, help="simultaneous users (default: 2000)")
    parser.add_argument(
        "--seconds",
        type=_positive,
        default=30,
        help="how long each scenario runs, arrivals included (default: 30)",
    )
    parser.add_argument("--scenario", choices=(*SCENARIOS, "all"), default="all", help="default: all, in turn")
    parser.add_argument("--seed", type=int, default=1, help="seed of the users' choices (default: 1)")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder for the HTML reports")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, 1 or more")
    return int(text)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _make_room_for(users: int) -> None:
    """Raise the limit of open files, which the children inherit: each user keeps one connection open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = users + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise LoadError(f"{users} users need {needed} open files, this machine allows {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed) if hard == resource.RLIM_INFINITY else hard, hard))
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if ports.exists():
        first, last = map(int, ports.read_text().split())
        if users > last - first:
            raise LoadError(f"{users} users need as many ports, this machine lends {last - first}")


def _run(name: str, scenario: Scenario, options: argparse.Namespace) -> Result:
    capacity = scenario.capacity(options.users, options.seconds)
    showtimes = len(scenario.theatres) * len(scenario.timings)
    print(f"{name}: {options.users:,} users, {options.seconds} s, {showtimes} showtimes of {capacity:,} seats")
    options.reports.mkdir(parents=True, exist_ok=True)
    report = options.reports.resolve() / f"{name}.html"
    with _temporary_folder() as folder:
        programme = folder / "programme.toml"
        programme.write_text(_programme(scenario, capacity), encoding="utf-8")
        with started(folder, MATINEE_PROGRAMME=str(programme)) as service:
            lines, receipts, code = _locust(folder, service, scenario, options, report)
            if receipts.unanswered or receipts.unsure:
                time.sleep(SETTLED_AFTER_S)
            with redis.Redis.from_url(service.redis_url) as client:
                books = audit(client, dict.fromkeys(scenario.theatres, capacity), receipts)
    result = Result(lines, code, books)
    _show(result, report)
    return result


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="matinee-load-") as folder:
        yield Path(folder)


def _programme(scenario: Scenario, capacity: int) -> str:
    timings = ", ".join(f'"{timing}"' for timing in scenario.timings)
    facts = f'timezone = "UTC"\ncapacity = {capacity}\ntimings = [{timings}]\n'
    return "\n".join(f'[[theatre]]\nid = "{theatre}"\n{facts}' for theatre in scenario.theatres)


def _locust(
    folder: Path, service: Service, scenario: Scenario, options: argparse.Namespace, report: Path
) -> tuple[list[Line], Receipts, int]:
    """Let locust run in a process of its own, as it patches the standard library; return what it wrote."""
    receipts, statistics, log = folder / "receipts.json", folder / "statistics", folder / "locust.log"
    arrivals_per_s = math.ceil(options.users / (ARRIVALS_SHARE * options.seconds))
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary"]
    command += ["--locustfile", str(LOCUSTFILE), scenario.user_class, "--host", service.url]
    command += ["--users", str(options.users), "--spawn-rate", str(arrivals_per_s)]
    command += ["--run-time", f"{options.seconds}s", "--stop-timeout", str(LAST_ANSWERS_WITHIN_S)]
    command += ["--html", str(report), "--json-file", str(statistics)]
    command += ["--seed", str(options.seed), "--receipts", str(receipts)]
    with running(command, log, dict(os.environ)) as process:
        try:
            code = process.wait(options.seconds + LAST_ANSWERS_WITHIN_S + STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            raise LoadError(f"locust does not end; the end of its log:\n{tail(log)}") from None
    if not receipts.exists():
        raise LoadError(f"locust stopped with code {code}; the end of its log:\n{tail(log)}")
    if code:
        print(tail(log), file=sys.stderr)
    lines = msgspec.json.decode(statistics.with_suffix(".json").read_bytes(), type=list[Line])
    return lines, msgspec.json.decode(receipts.read_bytes(), type=Receipts), code


def _show(result: Result, report: Path) -> None:
    print(f"  {'':24}{'requests':>10}{'failures':>10}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}")
    for line in [*sorted(result.lines, key=lambda line: line.name), result.total]:
        times = "".join(f"{line.percentile_ms(share):>8,}" for share in (0.50, 0.95, 0.99))
        print(f"  {line.name:24}{line.num_requests:>10,}{line.num_failures:>10,}{times}")
    accepted, sold_out, closed = (result.count(f"book: {answer}") for answer in ("accepted", "sold out", "closed"))
    failures = result.total.num_failures
    print(f"  accepted {accepted:,} · sold out {sold_out:,} · closed {closed:,} · failures {failures:,}")
    print(f"  {result.books.line}")
    for disagreement in result.books.disagreements[:SHOWN_DISAGREEMENTS]:
        print(f"    {disagreement}")
    print(f"  report: {report}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
