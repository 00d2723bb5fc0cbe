"""`make bench-path PARTS=1`: where the microseconds of a booking go, by taking its parts away one at a time.

It runs on the gate of `path.py`. In a batch one part of the way is replaced by next to nothing; what the batch is
cheaper than one of whole bookings is what the part costs. Parts may contain each other, and share caches, so the
figures do not add up.
"""

import argparse
import asyncio
import itertools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import uvloop
from aiohttp import web

from loadtests.path import (
    BARE,
    CONNECTIONS,
    NOW_MS,
    Client,
    InstantRedis,
    Side,
    at_least_two,
    counted,
    one_batch,
    servers,
    sides,
)
from service import lean
from service.booking_form import BookingForm
from service.box_office import Booking, BoxOffice
from service.edge import Reader
from service.handlers import tickets
from service.lean import Answer
from service.model import Ticket
from service.store import Booked, Store
from service.wire import BookRequest

TICKET_ID = "main-7KQ2M8ZT41XVDRNB"
NAME, PHONE = "Asha Rao", "+919812345678"
BODY = b"x" * 300
HEAD = (
    b"HTTP/1.1 201 Created\r\nServer: Matinee\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
    b"Location: /v1/tickets/main-7KQ2M8ZT41XVDRNB\r\nContent-Length: 300\r\nDate: Tue, 24 Nov 2026 18:00:00 GMT\r\n\r\n"
)
CALL = b"*2\r\n$7\r\nEVALSHA\r\n$300\r\n%b\r\n" % (b"x" * 300)

WHOLE = "a whole booking"


async def _no_reading(_reader: Reader[BookRequest], _request: web.Request) -> BookRequest:
    return BookRequest(NAME, PHONE, "18:00")


async def _no_use_case(office: BoxOffice, theatre: Any, timing: str, name: str, phone: str, _key: Any) -> Booking:
    showtime = office._programme.resolve(theatre, timing, NOW_MS)
    return Booking(Ticket(TICKET_ID, showtime, name, phone, NOW_MS))


async def _no_redis(*_: Any) -> Booked:
    return Booked(7, NOW_MS)


def _no_json(_ticket: Ticket, *, masked: bool, status: int, headers: Any) -> Answer:  # noqa: ARG001  as ticket_answer
    return Answer(BODY, status=status, headers=(("Cache-Control", "no-store"), *headers))


async def _no_head(answer: Answer, request: web.BaseRequest) -> Any:
    answer._keep_alive = answer._eof_sent = True
    request.protocol.transport.write(HEAD + answer._whole)
    answer._payload_writer = request._payload_writer
    return answer._payload_writer


PARTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    WHOLE: nullcontext,
    "the body read, decoded and checked": lambda: patch.object(Reader, "read", _no_reading),
    "of that, the rules of name, phone and timing": lambda: patch.object(tickets._book_request, "_rules", {}),
    "the use case and all below it": lambda: patch.object(BoxOffice, "book", _no_use_case),
    "of that, Redis: pack, write, wait, read": lambda: patch.object(Store, "book", _no_redis),
    "of that, the call packed": lambda: patch.object(BookingForm, "fill", lambda *_: CALL),
    "the ticket as JSON": lambda: patch.object(tickets, "ticket_answer", _no_json),
    "head and body written": lambda: patch.object(Answer, "prepare", _no_head),
    "of that, the request's name": lambda: patch.object(
        lean, "_name", lambda _: "X-Request-ID: of-them-all-the-same\r\n"
    ),
}


async def measure(rounds: int) -> dict[str, Side]:
    """What a bare request, a whole booking and a booking without each part cost."""
    loop = asyncio.get_running_loop()
    bare, book = sides()[:2]
    measured = {name: Side(name, book.requests, book.status, book.reply) for name in PARTS} | {BARE: bare}
    async with servers() as by_name:
        clients = {
            side.server: [
                Client(by_name[side.server], itertools.cycle(side.requests), loop) for _ in range(CONNECTIONS)
            ]
            for side in (bare, book)
        }
        for _ in counted(rounds):
            for name, side in measured.items():
                InstantRedis.reply = side.reply
                with PARTS.get(name, nullcontext)():
                    await one_batch(side, clients[side.server])
    return measured


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make bench-path PARTS=1", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=at_least_two, default=150, help="batches of each part (150)")
    measured = uvloop.run(measure(parser.parse_args().rounds))
    bare_us, whole_us = measured[BARE].cost_us, measured[WHOLE].cost_us
    print(f"{BARE}: {bare_us:.1f} µs; {WHOLE}: {whole_us:.1f} µs, {whole_us / bare_us:.2f} times as much")
    for name, side in measured.items():
        if name not in (BARE, WHOLE):
            saved_us = whole_us - side.cost_us
            print(f"{saved_us:6.1f} µs  {saved_us / bare_us:5.2f}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
