"""wrk: so many connections, each of which sends its next request as soon as it has its answer."""

import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from loadtests.benchmark.machine import pinned
from loadtests.starter import LoadError

SCRIPT = Path(__file__).with_suffix(".lua")
OVERTIME_S = 20
MARK = "crowd: "


class Load(msgspec.Struct, frozen=True):
    """What wrk counted. `issued` are requests sent, `rejected` answers with 4xx or 5xx, `errors` those of sockets."""

    issued: int
    answered: int
    rejected: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float


class Request(msgspec.Struct, frozen=True):
    """One request, sent again and again."""

    method: str
    path: str
    headers: tuple[str, ...] = ()
    body: str = ""

    def words(self) -> list[str]:
        """As the script takes it."""
        return ["send", self.method, self.path, "\n".join(self.headers), self.body]


class Bookings(msgspec.Struct, frozen=True):
    """Bookings from seat `first` on, so many to a showtime; the timings of one theatre, then of the next."""

    first: int
    seats: int
    timings: Sequence[str]

    def words(self) -> list[str]:
        """As the script takes them."""
        return ["book", str(self.first), str(self.seats), *self.timings]


class Spread(msgspec.Struct, frozen=True):
    """A request for another showtime each time, from number `first` on, spread over the theatres `hall-00000`, ….

    `{theatre}` and `{timing}` stand in path and body.
    """

    first: int
    theatres: int
    method: str
    path: str
    body: str
    timings: Sequence[str]

    def words(self) -> list[str]:
        """As the script takes them."""
        return ["spread", str(self.first), str(self.theatres), self.method, self.path, self.body, *self.timings]


class Requests(msgspec.Struct, frozen=True):
    """The requests of a file in turn, as `write` puts them there; after the last comes the first."""

    file: Path

    @classmethod
    def write(cls, file: Path, requests: Iterable[bytes]) -> "Requests":
        """Write whole requests, heads and bodies, without a zero byte."""
        file.write_bytes(b"\0".join(requests))
        return cls(file)

    def words(self) -> list[str]:
        """As the script takes them."""
        return ["cycle", str(self.file)]


def find_wrk() -> str:
    """Where wrk is. Raises LoadError that says how to get it."""
    found = shutil.which("wrk")
    if found is None:
        raise LoadError(
            "wrk, which makes the load, is missing (Debian, Ubuntu: apt install wrk; Fedora: dnf install wrk)"
        )
    return found


class Crowd:
    """wrk at work; `wait` for what came of it."""

    def __init__(
        self,
        url: str,
        wanted: Request | Bookings | Spread | Requests,
        connections: int,
        seconds: int,
        cores: Sequence[int],
    ) -> None:
        self._seconds = seconds
        command = [find_wrk(), "--threads", "1", "--connections", str(connections)]
        command += ["--duration", f"{seconds}s", "--latency", "--script", str(SCRIPT), url, "--", *wanted.words()]
        with pinned(*cores):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def wait(self) -> Load:
        """Wait for its end. Raises LoadError where it did not end well."""
        try:
            told, _ = self._process.communicate(timeout=self._seconds + OVERTIME_S)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        line = next((line for line in told.splitlines() if line.startswith(MARK)), None)
        if line is None:
            raise LoadError(f"wrk ended with code {self._process.returncode}: {told.strip()}")
        return msgspec.json.decode(line.removeprefix(MARK), type=Load)
