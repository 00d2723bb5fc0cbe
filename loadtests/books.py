"""The invariant check after a load: the service's own audit, and what the clients were told besides.

report = audit(redis.Redis.from_url(url), capacities={"main": 20}, receipts=receipts)
print(report.line)
"""

from collections.abc import Iterator, Mapping
from zoneinfo import ZoneInfo

import msgspec
import redis

from service.audit import Disagreement
from service.audit import audit as audit_database
from service.keys import showtime_keys
from service.model import Theatre
from service.programme import Programme
from service.settings import Settings


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


def audit(client: redis.Redis, capacities: Mapping[str, int], receipts: Receipts | None = None) -> Report:
    """Read the whole database and report every disagreement in it and with the receipts.

    `client` answers in bytes (redis-py's default); `capacities` are the seats per showtime, by theatre id; all theatres
    are in UTC and their tickets live as long as by default. With receipts, nobody may book meanwhile.
    Raises redis.RedisError where the server can't be read.
    """
    theatres = [Theatre(name, name, ZoneInfo("UTC"), seats, ("00:00",)) for name, seats in capacities.items()]
    programme = Programme(theatres, Settings.from_environment({}).ticket_life_ms)
    seats: dict[str, str] = {}  # of each stored ticket: the key of the showtime that lists it
    found = audit_database(client, programme, seen=seats.__setitem__)
    disagreements = [*found.disagreements, *(_wrong_by_receipts(seats, receipts) if receipts else ())]
    return Report(found.showtimes, found.tickets, len(receipts.held) if receipts else 0, disagreements)


def _wrong_by_receipts(seats: Mapping[str, str], receipts: Receipts) -> Iterator[Disagreement]:
    for ticket_id, label in receipts.held.items():
        seat, _ = showtime_keys(ticket_id.rpartition("-")[0], label)
        if ticket_id not in receipts.unsure and seats.get(ticket_id) != seat:
            yield Disagreement(ticket_id, f"accepted for {seat}, but {_place(seats, ticket_id)}")
    for ticket_id in sorted(receipts.cancelled & seats.keys()):
        yield Disagreement(ticket_id, f"cancelled, but {_place(seats, ticket_id)}")
    known = receipts.held.keys() | receipts.cancelled | receipts.unsure
    strangers = sorted(seats.keys() - known)
    if len(strangers) > receipts.unanswered:
        yield Disagreement(
            ", ".join(strangers[:3]),
            f"{len(strangers)} stored without a receipt, {receipts.unanswered} bookings went unanswered",
        )


def _place(seats: Mapping[str, str], ticket_id: str) -> str:
    return f"listed by {seats[ticket_id]}" if ticket_id in seats else "no showtime lists such a ticket"
