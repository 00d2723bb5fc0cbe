"""`make bench-path`: what the way of a request costs, as a ratio to a bare aiohttp handler's, without a socket.

Over sockets the cost of a request differs by up to 30 % between runs of a shared machine. Here one process holds it
all: connections that are no sockets feed the real parser, router and handlers; a Redis that is none answers the
pipeline in real RESP through redis-py's own connection and parser. The sides take turns, batch by batch, and of each
the low percentile of many batches counts, which repeats within 2-3 %.

The ratios of `path.json` are the record: a run that finds a side more than TOLERANCE dearer exits with 1.
`--record` writes them anew, after a change that was meant.
"""

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import math
import random
import re
import statistics
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from aiohttp import web
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from service.app import create_app
from service.model import Theatre
from service.programme import Programme
from service.settings import Settings

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 1.08
CONNECTIONS = 64
BATCH = 64 * 16
LOW = 10  # the percentile that counts: what the path costs while nobody else wants the processor
BARE = "bare aiohttp handler"

NOW_MS = int(time.time() * 1000)
TIMINGS = ("09:00", "12:00", "15:00", "18:00", "21:00", "23:30")
CHAIN = [f"hall-{number:05}" for number in range(10_000)]
TICKET = b'{"name":"Asha Rao","phone":"+919812345678","timing":"18:00"}'


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def _array(*items: bytes | int) -> bytes:
    return b"*%d\r\n" % len(items) + b"".join(
        b":%d\r\n" % item if isinstance(item, int) else _bulk(item) for item in items
    )


# What Redis says to the one script of each side.
REPLIES = {
    "booked": _array(b"booked", 7, NOW_MS),
    "sold out": _array(b"sold_out", NOW_MS),
    "ticket": _array(b"ticket", b"Asha Rao", b"+919812345678", b"20261124T1800", NOW_MS, 0, 0),
    "seats": _array(b"availability", NOW_MS, *([12, 40] * 6)),
    "seats of a week": _array(b"availability", NOW_MS, *([12, 40] * 6 * 8)),  # seven days touch eight dates
}

# And to the commands of the pipeline itself.
_OWN_REPLIES = {
    b"SCRIPT": _bulk(b"0" * 40),
    b"TIME": _array(b"%d" % (NOW_MS // 1000), b"0"),
    b"ROLE": _array(b"master", 0),
}
_COMMAND = re.compile(rb"\*[0-9]+\r\n\$[0-9]+\r\n(EVALSHA|SCRIPT|TIME|ROLE)\r\n")


class Side(msgspec.Struct):
    """One kind of request: what is sent, in turns, what Redis answers to it, and which server is asked."""

    name: str
    requests: Sequence[bytes]
    status: bytes
    reply: bytes = b""
    server: str = "service"
    costs_us: list[float] = []

    @property
    def cost_us(self) -> float:
        """The processor time of one request, microseconds. The first batches, which fill the caches, do not count."""
        rounds = len(self.costs_us)
        warm_up = max(1, rounds // 10, math.ceil(len(self.requests) / BATCH))
        counted = self.costs_us[min(warm_up, rounds - 2) :]
        return statistics.quantiles(counted, n=100, method="inclusive")[LOW - 1]


def _request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class InstantRedis(AbstractConnection):
    """redis-py's connection without a socket: every command has its reply as soon as it is written."""

    reply = b""

    async def _connect(self) -> None:
        self._reader = asyncio.StreamReader()
        self._writer = self

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: ARG002  redis-py's signature
        """Say no HELLO: there is nobody."""
        self._parser.on_connect(self)

    async def disconnect(self, nowait: bool = False) -> None:  # noqa: ARG002  redis-py's signature
        """Forget the streams."""
        self._reader = self._writer = None

    def repr_pieces(self) -> list[tuple[str, Any]]:
        """Nothing tells this connection from another."""
        return []

    def _host_error(self) -> str:
        return "nowhere"

    def writelines(self, packed: list[bytes]) -> None:
        """What redis-py writes to."""
        self.write(b"".join(packed))

    def write(self, packed: bytes) -> None:
        """Answer each command."""
        names = _COMMAND.findall(packed)
        self._reader.feed_data(b"".join([self.reply if name == b"EVALSHA" else _OWN_REPLIES[name] for name in names]))

    async def drain(self) -> None:
        """There is no buffer."""


class Client(asyncio.Transport):
    """A connection of a client who sends the next request as soon as the answer is there."""

    def __init__(self, server: web.Server, requests: Iterator[bytes], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._requests = requests
        self._loop = loop
        self._protocol = server()
        self._protocol.connection_made(self)
        self._left = 0
        self._done: asyncio.Future[None] = loop.create_future()

    async def send(self, side: Side, times: int) -> None:
        """Send the request so many times, one after another."""
        self._side, self._left, self._done = side, times, self._loop.create_future()
        self._protocol.data_received(next(self._requests))
        await self._done

    def write(self, data: bytes) -> None:
        """An answer."""
        if data[9:12] != self._side.status:
            self._done.set_exception(RuntimeError(f"{self._side.name}: {data[:400]!r}"))
            return
        self._left -= 1
        if self._left:
            self._loop.call_soon(self._protocol.data_received, next(self._requests))
        else:
            self._done.set_result(None)

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002  asyncio's signature
        """Not a socket."""
        return default

    def pause_reading(self) -> None:
        """Nothing comes unasked."""

    def resume_reading(self) -> None:
        """As it is."""

    def close(self) -> None:
        """Nothing to close."""


def sides() -> list[Side]:
    """The bare handler, and the requests that matter in a crowd."""
    day = "/v1/theatres/main/showtimes?date=2026-11-24"
    book = _request("POST", "/v1/tickets", TICKET)
    key = "Idempotency-Key: 8e03978e-40d5-43dd-bc93-6894a57f9324"
    page = _request("GET", "/", b"", "Accept: text/html, */*;q=0.8", "Accept-Encoding: gzip, deflate, br")
    return [
        Side(BARE, [_request("POST", "/bare", TICKET)], b"201", server="bare"),
        Side("book", [book], b"201", REPLIES["booked"]),
        Side("book, classic route", [_request("POST", "/booktickets", TICKET)], b"201", REPLIES["booked"]),
        Side("book with a key", [_request("POST", "/v1/tickets", TICKET, key)], b"201", REPLIES["booked"]),
        Side("sold out", [book], b"409", REPLIES["sold out"]),
        Side("view a ticket", [_request("GET", "/v1/tickets/main-7KQ2M8ZT41XVDRNB")], b"200", REPLIES["ticket"]),
        Side("seats of a day", [_request("GET", day)], b"200", REPLIES["seats"]),
        Side("page of a theatre", [page], b"200", REPLIES["seats of a week"]),
        Side("book in a chain", _bookings_of_a_chain(), b"201", REPLIES["booked"], server="chain"),
    ]


def _bookings_of_a_chain() -> list[bytes]:
    """A booking at each timing of each theatre, in an order without a pattern: no cache may count on favourites."""
    bookings = [
        _request("POST", "/v1/tickets", TICKET[:-1].replace(b"18:00", timing.encode()) + b',"theatre":"%s"}' % theatre)
        for theatre in (name.encode() for name in CHAIN)
        for timing in TIMINGS
    ]
    random.Random(1).shuffle(bookings)
    return bookings


@contextlib.asynccontextmanager
async def servers() -> AsyncIterator[dict[str, web.Server]]:
    """By name: the bare handler's server, the service with one theatre, and with the ten thousand of a chain."""

    async def bare(_request: web.Request) -> web.Response:
        return web.Response(body=b"x" * 300, status=201, content_type="application/json")

    plain = web.Application()
    plain.router.add_post("/bare", bare)
    settings = Settings.from_environment({})
    pool = ConnectionPool(connection_class=InstantRedis)
    zone = ZoneInfo("Europe/Berlin")
    apps = {"bare": plain}
    for name, theatres in (("service", ("main",)), ("chain", CHAIN)):
        programme = Programme(
            (Theatre(theatre, theatre, zone, 20, TIMINGS) for theatre in theatres), settings.ticket_life_ms
        )
        apps[name] = create_app(settings, programme, pool)
    runners = {name: web.AppRunner(app, access_log=None) for name, app in apps.items()}
    for runner in runners.values():
        await runner.setup()
    yield {name: runner.server for name, runner in runners.items()}
    for runner in runners.values():
        await runner.cleanup()


async def measure(rounds: int, names: Sequence[str] = ()) -> list[Side]:
    """Let the sides take turns for so many rounds: those of these names and the bare handler, or all."""
    loop = asyncio.get_running_loop()
    measured = [side for side in sides() if not names or side.name in (BARE, *names)]
    async with servers() as by_name:
        clients, turns, due = {}, {}, {}
        for side in measured:
            turns[side.name] = itertools.cycle(side.requests)
            due[side.name] = deque[bytes]()
            requests = iter(due[side.name].popleft, None)
            clients[side.name] = [Client(by_name[side.server], requests, loop) for _ in range(CONNECTIONS)]
        for _ in counted(rounds):
            for side in measured:
                InstantRedis.reply = side.reply
                # Copied together, for a socket's buffer is no cold place either.
                due[side.name].extend([b"%b" % next(turns[side.name]) for _ in range(BATCH)])
                await one_batch(side, clients[side.name])
    return measured


async def one_batch(side: Side, clients: Sequence[Client]) -> None:
    """Send a batch and note what a request of it cost.

    The collector waits until it is over: the service has it run every 50,000 objects. With Python's own 700 it would
    run once more or less in a batch for one object more in a request.
    """
    gc.collect()
    gc.disable()
    began = time.process_time_ns()
    await asyncio.gather(*(client.send(side, BATCH // CONNECTIONS) for client in clients))
    side.costs_us.append((time.process_time_ns() - began) / 1000 / BATCH)
    gc.enable()


def at_least_two(text: str) -> int:
    """A number from the command line of which percentiles are made. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError("must be a number, 2 at the least")
    return int(text)


def counted(rounds: int) -> Iterator[int]:
    """The numbers of the rounds, shown on a terminal as they pass."""
    for number in range(rounds):
        if sys.stderr.isatty():
            print(f"\rround {number + 1} of {rounds}", end="", file=sys.stderr)
        yield number
    if sys.stderr.isatty():
        print(file=sys.stderr)


def report(measured: list[Side], record: dict[str, float]) -> list[str]:
    """Print the table; return the sides that have become dearer than the record allows."""
    bare_us = measured[0].cost_us
    dearer = []
    print(f"{'':24}{'µs':>8}{'ratio':>8}{'record':>8}")
    for side in measured:
        ratio = side.cost_us / bare_us
        known = record.get(side.name)
        print(f"{side.name:24}{side.cost_us:8.1f}{ratio:8.2f}{'' if known is None else f'{known:8.2f}'}")
        if known is not None and ratio > known * TOLERANCE:
            dearer.append(side.name)
    return dearer


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-path", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_two, default=150, help="batches of each side (150)")
    parser.add_argument("--record", action="store_true", help="write the ratios found as the new record")
    parser.add_argument("--side", action="append", default=[], help="measure this one only; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the µs of each side as JSON, and compare nothing")
    options = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415  missing on some platforms

        run = uvloop.run
    except ImportError:
        run = asyncio.run
    measured = run(measure(options.rounds, options.side))
    if options.json:
        print(json.dumps({side.name: side.cost_us for side in measured}))
        return 0
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    dearer = report(measured, record)
    if options.record:
        ratios = {side.name: round(side.cost_us / measured[0].cost_us, 3) for side in measured[1:]}
        RECORD.write_text(json.dumps(ratios, indent=2) + "\n")
        return 0
    for name in dearer:
        print(f"dearer than recorded: {name}", file=sys.stderr)
    return 1 if dearer else 0


if __name__ == "__main__":
    sys.exit(main())
