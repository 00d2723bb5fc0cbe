"""`make bench-release`: replace a service that people use, each way there is, and count the requests that fail.

Each way runs under the same load: clients that book, look and cancel without a pause, half of them on lasting
connections, half with a new connection for each request. Nothing is repeated: a connection that is refused or reset, an
answer that does not come, and every status but the one that is right count as a failure. The other version is a copy of
this one whose Lua scripts differ, so that both kinds of digests run on one database. In the end the receipts of the
clients are held against the database. The exit code is 0 only if nothing failed and the books agree.
"""

import argparse
import asyncio
import contextlib
import datetime
import itertools
import os
import re
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import msgspec
import redis

from loadtests.books import Receipts, Report, audit
from loadtests.starter import ROOT, LoadError, running, tail
from service.embedded import bundled_binary

CLIENTS = 64
CAPACITY = 100_000
TIMINGS = ("12:00", "15:00", "18:00", "21:00")
ANSWER_WITHIN_S = 15
WAIT_S = 60  # a bound for what hangs
READY = "matinee: ready\n"
# A socket is handed over as descriptor 3, to the process that is named.
# https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Tally(msgspec.Struct):
    """What the clients of one way saw: answers, failures by kind, and the longest wait for an answer, seconds."""

    answered: int = 0
    failures: Counter[str] = msgspec.field(default_factory=Counter)
    longest_s: float = 0.0
    receipts: Receipts = msgspec.field(default_factory=Receipts)
    over: bool = False

    async def answers(self, more: int) -> None:
        """Wait for so many more answers."""
        goal = self.answered + more
        async with _bounded("the service does not answer"):
            while self.answered < goal:  # noqa: ASYNC110  an event for each answer would slow the clients
                await asyncio.sleep(0.005)


class Result(msgspec.Struct, frozen=True):
    """What one way came to: the seconds of each replacement, what the clients saw, and the books."""

    way: str
    seconds: list[float]
    tally: Tally
    books: Report

    @property
    def good(self) -> bool:
        """Whether nothing failed and the books agree."""
        return not self.tally.failures and not self.books.disagreements


class Client:
    """One caller, who repeats nothing. With `lasts` the connection is kept until an answer says that it is over."""

    def __init__(self, port: int, tally: Tally, *, lasts: bool) -> None:
        self._port = port
        self._tally = tally
        self._lasts = lasts
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def live(self, showtime: str) -> None:
        """Book, look, and give every other ticket back, until all is over."""
        receipts = self._tally.receipts
        wish = {"name": "Asha Rao", "phone": "+919812345678", "timing": showtime}
        for number in itertools.count():
            if self._tally.over:
                break
            booked = await self._ask(201, "POST", "/v1/tickets", wish)
            if booked is None:
                receipts.unanswered += 1
                continue
            ticket_id = msgspec.json.decode(booked)["ticket_id"]
            receipts.held[ticket_id] = showtime
            await self._ask(200, "GET", f"/v1/tickets/{ticket_id}")
            if number % 2:
                del receipts.held[ticket_id]
                is_gone = await self._ask(204, "DELETE", f"/v1/tickets/{ticket_id}") is not None
                (receipts.cancelled if is_gone else receipts.unsure).add(ticket_id)
        self._close()

    async def _ask(self, right: int, method: str, path: str, fields: dict[str, str] | None = None) -> bytes | None:
        """The body of the right answer; None, and a failure is counted, where anything else became of the request."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, body = await self._exchange(method, path, fields)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self._close()
            self._tally.failures[type(error).__name__] += 1
            return None
        self._tally.longest_s = max(self._tally.longest_s, time.perf_counter() - began)
        self._tally.answered += 1
        if status != right:
            self._tally.failures[f"status {status}"] += 1
            return None
        return body

    async def _exchange(self, method: str, path: str, fields: dict[str, str] | None) -> tuple[int, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        sent = msgspec.json.encode(fields) if fields else b""
        head = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(sent)}"]
        head += ["Content-Type: application/json"] if fields else ["Ticket-Phone: +919812345678"]
        head += [] if self._lasts else ["Connection: close"]
        writer.write("\r\n".join([*head, "", ""]).encode() + sent)
        told = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = told.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await reader.readexactly(int(length or 0))
        if b"\r\nconnection: close" in told:
            self._close()
        return int(told[9:12]), body

    def _close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.asynccontextmanager
async def load(port: int) -> AsyncIterator[Tally]:
    """Busy clients for as long as the block runs, half of them with a new connection for each request."""
    tally = Tally()
    tomorrow = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
    async with asyncio.TaskGroup() as clients:
        for number in range(CLIENTS):
            showtime = f"{tomorrow}T{TIMINGS[number % len(TIMINGS)]}"
            clients.create_task(Client(port, tally, lasts=number % 8 < 4).live(showtime))
        try:
            yield tally
        finally:
            tally.over = True


def other_version(folder: Path) -> Path:
    """A copy of the service in `folder`, each of whose scripts has another digest and does the same."""
    shutil.copytree(ROOT / "service", folder / "service", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "service" / "lua").mkdir()
    for script in (ROOT / "lua").glob("*.lua"):
        text = script.read_text(encoding="utf-8")
        (folder / "service" / "lua" / script.name).write_text(f"{text}-- Of another version.\n", encoding="utf-8")
    return folder


class Start:
    """One start of `matinee serve` with the code in `tree`; on the socket `given`, where there is one."""

    def __init__(self, tree: Path, log: Path, settings: Mapping[str, str], given: socket.socket | None) -> None:
        command = [sys.executable, "-m", "service", "serve"]
        if given:
            command = [sys.executable, "-c", HAND_OVER, str(given.fileno()), *command]
        # The caller's own settings stay outside: this must never reach a database that somebody uses.
        environment = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")}
        self._log = log
        self.stack = contextlib.ExitStack()
        fds = [given.fileno()] if given else []
        self._process = self.stack.enter_context(
            running(command, log, {**environment, **settings}, folder=tree, pass_fds=fds)
        )

    async def ready(self) -> Self:
        """Wait until all its web processes serve."""
        async with _bounded("the service did not get ready"):
            while READY not in self._log.read_text(errors="replace"):
                if self._process.poll() is not None:
                    raise LoadError(f"the service ended:\n{tail(self._log)}")
                await asyncio.sleep(0.01)
        return self

    async def replace_web_processes(self) -> None:
        """SIGHUP, and wait until none of the old ones is left."""
        old = self._web_processes()
        self._process.send_signal(signal.SIGHUP)
        async with _bounded("the old web processes did not end"):
            while old & self._web_processes():  # noqa: ASYNC110  it has no event for that
                await asyncio.sleep(0.01)

    async def end(self) -> None:
        """SIGTERM, and wait for the end."""
        await asyncio.to_thread(self.stack.close)
        if self._process.returncode:
            raise LoadError(f"the service ended with code {self._process.returncode}:\n{tail(self._log)}")

    def _web_processes(self) -> set[str]:
        found = set()
        for pid in Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "valkey" not in Path(f"/proc/{pid}/cmdline").read_text():
                    found.add(pid)
        return found


class House:
    """Where the starts of one way happen: its folder, ports, store, and the two versions that take turns.

    Clients go to `port`. The starts listen on `ports`: the same, or those behind the balancer.
    """

    def __init__(self, folder: Path, stack: contextlib.AsyncExitStack, way: "Way", other: Path | None) -> None:
        self._folder = folder
        self._stack = stack
        self._numbers = itertools.count(1)
        self._versions = itertools.cycle([ROOT, other or other_version(folder / "other")])
        self._socket: socket.socket | None = None
        if way.handed_over:
            self._socket = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
            self.port: int = self._socket.getsockname()[1]
        else:
            self.port = _free_port()
        self.ports = [_free_port(), _free_port()] if way.balanced else [self.port]
        self._settings = {
            "MATINEE_LOG_FORMAT": "text",
            "MATINEE_CAPACITY": str(CAPACITY),
            "MATINEE_TIMINGS": ",".join(TIMINGS),
            "MATINEE_DATA_DIR": str(folder / "data"),
            "MATINEE_SHARE_PORT": "on" if way.shares_port else "off",
        }
        if way.balanced:
            self._settings["MATINEE_STAFF_TOKEN"] = "not-protected-mode-since-there-is-a-balancer"
        if way.embedded:
            self.store_url = f"unix://{folder / 'data' / 'valkey.sock'}"
        else:
            self.store_url = self._settings["MATINEE_REDIS_URL"] = stack.enter_context(_valkey(folder))

    def start(self, port: int) -> Start:
        """The next start, of the version whose turn it is; it ends with the way, whatever happens."""
        settings = {**self._settings, "MATINEE_PORT": str(port)}
        log = self._folder / f"service-{next(self._numbers)}.log"
        start = Start(next(self._versions), log, settings, self._socket)
        self._stack.callback(start.stack.close)
        return start

    def balance(self) -> None:
        """Have haproxy balance the starts, by the configuration that is in `deploy/`."""
        text = (ROOT / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
        text = text.replace("bind :5000", f"bind 127.0.0.1:{self.port}")
        for name, port in zip("ab", self.ports, strict=True):
            text = re.sub(rf"server {name} \S+", f"server {name} 127.0.0.1:{port}", text)
        self._balancer = self._folder / "haproxy.sock"
        configuration = self._folder / "haproxy.cfg"
        configuration.write_text(f"{text}\nglobal\n    stats socket {self._balancer}\n", encoding="utf-8")
        command = ["haproxy", "-db", "-f", str(configuration)]
        self._stack.enter_context(running(command, self._folder / "haproxy.log", os.environ))

    async def balanced(self) -> None:
        """Wait until the balancer sends requests to both starts."""
        async with _bounded("the balancer does not see both"):
            while await self._seen() < 2:  # noqa: ASYNC110  it has no event for that
                await asyncio.sleep(0.05)

    async def _seen(self) -> int:
        try:
            reader, writer = await asyncio.open_unix_connection(self._balancer)
        except OSError:
            return 0
        writer.write(b"show stat\n")
        rows = (await reader.read()).decode().splitlines()
        writer.close()
        return sum(row.startswith(("matinee,a,", "matinee,b,")) and ",UP," in row for row in rows)


async def by_sighup(_house: House, current: list[Start]) -> list[Start]:
    """The master stays, with the code and the settings it has; its web processes are replaced."""
    await current[0].replace_web_processes()
    return current


async def by_second_start(house: House, current: list[Start]) -> list[Start]:
    """The other version starts beside this one, and this one ends once that is ready."""
    following = await house.start(house.port).ready()
    await current[0].end()
    return [following]


async def by_restart(house: House, current: list[Start]) -> list[Start]:
    """This one ends, then the other version starts; meanwhile connections wait in the socket's queue."""
    await current[0].end()
    return [await house.start(house.port).ready()]


async def one_at_a_time(house: House, current: list[Start]) -> list[Start]:
    """Behind a balancer: one ends and starts anew while the other serves; the next one when the balancer sees both."""
    following = []
    for start, port in zip(current, house.ports, strict=True):
        await start.end()
        following.append(await house.start(port).ready())
        await house.balanced()
    return following


class Way(msgspec.Struct, frozen=True):
    """A way to replace a running service."""

    words: str
    replace: Callable[[House, list[Start]], Awaitable[list[Start]]]
    embedded: bool = False
    handed_over: bool = False
    shares_port: bool = False
    balanced: bool = False


WAYS = {
    "sighup": Way("SIGHUP, embedded server", by_sighup, embedded=True),
    "shared-port": Way("second start, shared port", by_second_start, shares_port=True),
    "shared-socket": Way("second start, socket handed over", by_second_start, handed_over=True),
    "restart": Way("restart, socket handed over, embedded server", by_restart, embedded=True, handed_over=True),
    "balancer": Way("one of two at a time behind haproxy", one_at_a_time, balanced=True),
}


async def perform(name: str, folder: Path, requests: int, rounds: int, other: Path | None) -> Result:
    """Replace the service `rounds` times, one way, while `requests` requests or more are answered."""
    way = WAYS[name]
    seconds: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        house = House(folder, stack, way, other)
        current = [await house.start(port).ready() for port in house.ports]
        if way.balanced:
            house.balance()
            await house.balanced()
        async with load(house.port) as tally:
            for _ in range(rounds):
                await tally.answers(requests // (rounds + 1))
                began = time.perf_counter()
                current = await way.replace(house, current)
                seconds.append(time.perf_counter() - began)
            await tally.answers(requests // (rounds + 1))
        with redis.Redis.from_url(house.store_url) as client:
            books = audit(client, {"main": CAPACITY}, tally.receipts)
        for start in current:
            await start.end()
    return Result(name, seconds, tally, books)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@contextlib.contextmanager
def _valkey(folder: Path) -> Iterator[str]:
    """A server of one's own for as long as the block runs; its URL once it answers."""
    path = folder / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    with running([str(bundled_binary()), *options], folder / "valkey.log", os.environ):
        deadline = time.monotonic() + WAIT_S
        while True:
            with contextlib.suppress(redis.RedisError), redis.Redis.from_url(f"unix://{path}") as client:
                client.ping()
                break
            if time.monotonic() > deadline:
                raise LoadError(f"Valkey does not answer:\n{tail(folder / 'valkey.log')}")
            time.sleep(0.02)
        yield f"unix://{path}"


@contextlib.asynccontextmanager
async def _bounded(otherwise: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WAIT_S):
            yield
    except TimeoutError:
        raise LoadError(f"{otherwise} within {WAIT_S} s") from None


def chosen(ways: Sequence[str] | None) -> list[str]:
    """The ways to go; all that this machine can where none is named. Raises LoadError."""
    if not Path("/proc/self/task").exists():
        raise LoadError("it finds the web processes in /proc, which only Linux has")
    if shutil.which("haproxy"):
        return list(ways or WAYS)
    if ways and "balancer" in ways:
        raise LoadError("haproxy is missing (Debian: apt install haproxy)")
    return [name for name in ways or WAYS if name != "balancer"]


def show(result: Result) -> None:
    """The row of a way, and under it what failed."""
    failed = sum(result.tally.failures.values())
    print(
        f"{WAYS[result.way].words:46}{len(result.seconds):13,}{statistics.median(result.seconds):8.2f}"
        f"{result.tally.answered:10,}{failed:8,}{result.tally.longest_s:17.2f}   {result.books.line}",
        *(f"    {count} x {kind}" for kind, count in result.tally.failures.items()),
        *(f"    {each}" for each in result.books.disagreements[:20]),
        sep="\n",
        flush=True,
    )


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-release", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000, help="of each way, at least (20000)")
    parser.add_argument("--rounds", type=int, default=5, help="replacements, each way (5)")
    parser.add_argument("--way", action="append", choices=WAYS, help="only this one; may be repeated")
    parser.add_argument("--other", type=Path, help="a checkout of the other version (a copy of this one)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    good = True
    try:
        ways = chosen(options.way)
        print(
            f"{'':46}{'replacements':>13}{'s each':>8}{'requests':>10}{'failed':>8}{'longest wait, s':>17}", flush=True
        )
        for name in ways:
            with tempfile.TemporaryDirectory(prefix="mt-") as folder:
                result = asyncio.run(perform(name, Path(folder), options.requests, options.rounds, options.other))
            show(result)
            good &= result.good
    except LoadError as error:
        print(f"bench-release: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-release: interrupted; every process has been stopped", file=sys.stderr)
        return 130
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
