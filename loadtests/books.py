"""The invariant check: do the counters, the lists of ids and the tickets in Redis tell the same story?

    report = audit(redis.Redis.from_url(url), capacities={"main": 20}, receipts=receipts)
    print(report.line)

Of the service it uses the names and lifetimes of the keys and none of the code that books: a check built on
what it checks would share its mistakes. It reads no name and no phone.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import msgspec
import redis

from service.keys import showtime_keys
from service.model import FORGOTTEN_AFTER_MS

BATCH = 500  # keys to a round trip

_SHOWTIME = re.compile(rb"\{[^{}]+\}:showtime:\d{8}T\d{4}")
_LIST = re.compile(_SHOWTIME.pattern + rb":tickets")
_TICKET = re.compile(rb"\{[^{}]+\}:ticket:.+")


class Receipts(msgspec.Struct):
    """What the clients were told, to be held against what is stored.

    `held` maps the id of each accepted ticket to the showtime it was booked for or last moved to
    (`2026-11-24T18:00`). `cancelled` are the ids that were given back. `unsure` are the ids whose move or
    cancel got no clear answer. `unanswered` counts the bookings without a clear answer: each may have left a
    ticket.
    """

    held: dict[str, str] = {}
    cancelled: set[str] = set()
    unsure: set[str] = set()
    unanswered: int = 0


class Disagreement(msgspec.Struct, frozen=True):
    """One thing that is wrong: `where` is a key or the id of a ticket, `what` is what was found there."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """How much was read, and every disagreement found in it."""

    showtimes: int
    tickets: int
    receipts: int
    disagreements: list[Disagreement]

    @property
    def line(self) -> str:
        """The report in one line."""
        read = f"{self.showtimes:,} showtimes, {self.tickets:,} tickets, {self.receipts:,} receipts"
        return f"books: {read}: {len(self.disagreements):,} disagreements"


class _Page(msgspec.Struct):
    """All that is stored about one showtime: its counter, its list of ids, and the tickets that name it."""

    booked: bytes | None = None
    listed: set[str] = msgspec.field(default_factory=set)
    naming: set[str] = msgspec.field(default_factory=set)
    tickets_expired: bool = False


class _Books(msgspec.Struct):
    """The whole database: a page by showtime key, the showtime key of each live ticket, and faulty keys."""

    pages: defaultdict[str, _Page] = msgspec.field(default_factory=lambda: defaultdict(_Page))
    seats: dict[str, str] = msgspec.field(default_factory=dict)
    faults: list[Disagreement] = msgspec.field(default_factory=list)


def audit(client: redis.Redis, capacities: Mapping[str, int], receipts: Receipts | None = None) -> Report:
    """Read the whole database with SCAN and report every disagreement in it.

    `client` answers in bytes (redis-py's default); `capacities` are the seats per showtime, by theatre id.
    Nothing may book meanwhile: the keys of a showtime are not read at one instant.
    Raises redis.RedisError where the server can't be read.
    """
    books = _read(client)
    disagreements = list(books.faults)
    for key in sorted(books.pages):
        disagreements += _wrong_on_page(key, books, capacities)
    if receipts is not None:
        disagreements += _wrong_by_receipts(books, receipts)
    return Report(len(books.pages), len(books.seats), len(receipts.held) if receipts else 0, disagreements)


def _read(client: redis.Redis) -> _Books:
    books = _Books()
    keys = sorted(set(client.scan_iter(count=BATCH)))  # SCAN may name a key twice
    for key, remaining_ms in _fetch(client, keys, books, "PTTL"):
        if remaining_ms == -1:
            books.faults.append(Disagreement(_text(key), "never expires"))
        elif _SHOWTIME.fullmatch(key):
            books.pages[_text(key)].tickets_expired = 0 <= remaining_ms <= FORGOTTEN_AFTER_MS
    for key, booked in _fetch(client, filter(_SHOWTIME.fullmatch, keys), books, "HGET", "booked"):
        books.pages[_text(key)].booked = booked
    for key, ids in _fetch(client, filter(_LIST.fullmatch, keys), books, "ZRANGE", 0, -1):
        books.pages[_text(key).removesuffix(":tickets")].listed.update(map(_text, ids))
    for key, fields in _fetch(client, filter(_TICKET.fullmatch, keys), books, "HMGET", "showtime", "cancelled"):
        showtime, cancelled = fields
        theatre, ticket_id = _text(key).split(":ticket:", 1)
        if showtime is None and cancelled is None:
            books.faults.append(Disagreement(_text(key), "neither a ticket nor the mark of a cancelled one"))
        elif showtime is not None:
            seat = f"{theatre}:showtime:{_text(showtime)}"
            books.seats[ticket_id] = seat
            books.pages[seat].naming.add(ticket_id)
    return books


def _fetch(
    client: redis.Redis, keys: Iterable[bytes], books: _Books, command: str, *arguments: str | int
) -> Iterator[tuple[bytes, Any]]:
    """Send one command for each key, many to a round trip; a key that refuses it is a fault of the books."""
    rest = iter(keys)
    while batch := list(islice(rest, BATCH)):
        with client.pipeline(transaction=False) as pipe:
            for key in batch:
                pipe.execute_command(command, key, *arguments)  # type: ignore[no-untyped-call]  # untyped there
            replies = pipe.execute(raise_on_error=False)
        for key, reply in zip(batch, replies, strict=True):
            if isinstance(reply, redis.ResponseError):
                books.faults.append(Disagreement(_text(key), f"{command} is refused: {reply}"))
            else:
                yield key, reply


def _wrong_on_page(key: str, books: _Books, capacities: Mapping[str, int]) -> Iterator[Disagreement]:
    page = books.pages[key]
    booked = int(page.booked) if page.booked is not None and page.booked.isdigit() else None
    taken = max(booked or 0, len(page.listed))  # a counter too low must not hide a seat sold twice
    theatre = key[1 : key.index("}")]
    if theatre not in capacities:
        yield Disagreement(key, f"the programme has no theatre {theatre!r}")
    elif taken > capacities[theatre]:
        yield Disagreement(key, f"{taken} seats taken, over the capacity of {capacities[theatre]}")
    if booked is None:
        yield Disagreement(key, f"its counter is {page.booked!r}, which is no number")
    elif booked != len(page.listed):
        yield Disagreement(key, f"{booked} booked, but {len(page.listed)} ids are listed")
    for ticket_id in sorted(page.naming - page.listed):
        yield Disagreement(ticket_id, f"stored for {key}, which does not list it")
    if not page.tickets_expired:
        for ticket_id in sorted(page.listed - page.naming):
            yield Disagreement(ticket_id, f"listed by {key}, but {_place(books, ticket_id)}")


def _wrong_by_receipts(books: _Books, receipts: Receipts) -> Iterator[Disagreement]:
    for ticket_id, label in receipts.held.items():
        seat, _ = showtime_keys(ticket_id.rpartition("-")[0], label)
        if ticket_id not in receipts.unsure and books.seats.get(ticket_id) != seat:
            yield Disagreement(ticket_id, f"accepted for {seat}, but {_place(books, ticket_id)}")
    for ticket_id in sorted(receipts.cancelled & books.seats.keys()):
        yield Disagreement(ticket_id, f"cancelled, but {_place(books, ticket_id)}")
    known = receipts.held.keys() | receipts.cancelled | receipts.unsure
    strangers = sorted(books.seats.keys() - known)
    if len(strangers) > receipts.unanswered:
        yield Disagreement(
            ", ".join(strangers[:3]),
            f"{len(strangers)} stored without a receipt, {receipts.unanswered} bookings went unanswered",
        )


def _place(books: _Books, ticket_id: str) -> str:
    return f"stored for {books.seats[ticket_id]}" if ticket_id in books.seats else "no such ticket is stored"


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
