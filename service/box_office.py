"""The use cases: book, move, cancel, admit, list. No HTTP, no Redis."""

import asyncio
import datetime
import secrets
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import msgspec

from service.errors import (
    BookingCancelled,
    ShowtimeClosed,
    ShowtimeNotFound,
    TheatreNotFound,
    TicketNotFound,
    Unavailable,
    WrongPhone,
)
from service.model import FORGOTTEN_AFTER_MS, HORIZON_MS, Availability, Idempotency, Showtime, Theatre, Ticket, former
from service.programme import THEATRE_ID, Programme
from service.store import Changed, Found, Replayed, Store

# How often a change that lost a race against another change of the same ticket is tried anew.
TRIES = 4

_ANY_ZONE = ZoneInfo("UTC")

# Maps a random byte to one of the 32 letters of Crockford's base32, by its last five bits.
_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ" * 8


class Booking(msgspec.Struct, frozen=True):
    """A booked ticket; `replayed` when an earlier request with the same Idempotency-Key had booked it."""

    ticket: Ticket
    replayed: bool = False


def _random_letters() -> Iterator[str]:
    """Words of 16 random letters, 80 bits each, without end; the system is asked for many at a time.

    One generator belongs to one process: two that inherited the same one would give the same words.
    """
    while True:
        letters = secrets.token_bytes(4096).translate(_CROCKFORD).decode()
        yield from (letters[start : start + 16] for start in range(0, len(letters), 16))


class BoxOffice:
    """Sells, moves, cancels and admits tickets of a programme's theatres.

    Names, phones, timings and ids come in as `fields.py` leaves them. Besides the errors named by each method,
    all raise `Unavailable` when Redis is away, and those that change something `OutcomeUnknown`.
    """

    def __init__(self, store: Store, programme: Programme) -> None:
        self._store = store
        self._programme = programme
        self._letters = _random_letters()

    async def book(
        self, theatre: Theatre, timing: str, name: str, phone: str, idempotency: Idempotency | None = None
    ) -> Booking:
        """Book a seat. Raises ShowtimeNotFound, ShowtimeClosed, SoldOut, and with an Idempotency-Key
        IdempotencyKeyReused, BookingCancelled, TicketExpired.
        """
        ticket_id = f"{theatre.id}-{next(self._letters)}"
        showtime = self._bookable(theatre, timing, self._store.now_ms())
        try:
            done = await self._store.book(ticket_id, showtime, name, phone, idempotency)
        except ShowtimeClosed:
            if _is_full(timing):
                raise
            # The film began between our look at the clock and Redis's: "18:00" now means the next one.
            showtime = self._bookable(theatre, timing, showtime.starts_ms)
            done = await self._store.book(ticket_id, showtime, name, phone, idempotency)
        if isinstance(done, Replayed):
            return Booking(await self._booked_before(theatre, done.ticket_id), replayed=True)
        return Booking(Ticket(ticket_id, showtime, name, phone, done.booked_ms))

    async def ticket(self, ticket_id: str) -> Ticket:
        """Look a ticket up. Raises TicketNotFound, TicketExpired."""
        return (await self._find(ticket_id)).ticket

    async def move(self, ticket_id: str, timing: str, phone: str | None) -> Ticket:
        """Move a ticket to another timing, all or nothing.

        `phone` is None only for the box office. Raises TicketNotFound, TicketExpired, WrongPhone, ShowtimeNotFound,
        ShowtimeClosed, SoldOut, AlreadyAdmitted.
        """
        for _ in range(TRIES):
            found = await self._find(ticket_id)
            _check_phone(found.ticket, phone)
            try:
                to = await self._move_to(found, timing)
            except Changed:
                continue
            return msgspec.structs.replace(found.ticket, showtime=to)
        raise _too_contended()

    async def cancel(self, ticket_id: str, phone: str | None) -> Ticket:
        """Cancel a ticket and return what it was. `phone` is None only for the box office.

        Raises TicketNotFound, TicketExpired, WrongPhone, AlreadyAdmitted.
        """
        for _ in range(TRIES):
            ticket = await self.ticket(ticket_id)
            _check_phone(ticket, phone)
            try:
                await self._store.cancel(ticket)
            except Changed:
                continue
            return ticket
        raise _too_contended()

    async def admit(self, ticket_id: str) -> Ticket:
        """Let a ticket in, once. Raises TicketNotFound, TicketExpired, AlreadyAdmitted."""
        try:
            return await self._store.admit(await self._theatre_of(ticket_id), ticket_id)
        except TicketNotFound:
            # Its hash is gone; whether it expired, the showtimes that were over lately know.
            await self.ticket(ticket_id)
            raise

    async def tickets(self, theatre: Theatre, label: str) -> list[Ticket]:
        """All tickets of a showtime, in order of booking. Raises ShowtimeNotFound."""
        showtime = (await self.showtime(theatre, label)).showtime
        return await self._store.tickets(showtime)

    async def tickets_at(self, theatre: Theatre, timing: str) -> list[Ticket]:
        """All tickets for a timing: of one showtime, or, for a clock time, of every date that still has tickets.

        Raises ShowtimeNotFound where neither the programme nor a ticket knows the timing.
        """
        if _is_full(timing):
            return await self.tickets(theatre, timing)
        now_ms = self._store.now_ms()
        remembered_ms = self._programme.ticket_life_ms + FORGOTTEN_AFTER_MS
        showtimes = self._programme.at_clock_time(theatre, timing, now_ms - remembered_ms, now_ms + HORIZON_MS)
        per_showtime = await asyncio.gather(*map(self._store.tickets, showtimes))
        tickets = [ticket for tickets in per_showtime for ticket in tickets]
        if not tickets:
            self._programme.resolve(theatre, timing, now_ms)
        return tickets

    async def theatre(self, theatre_id: str, label: str) -> Theatre:
        """The theatre of a showtime; also one that has left the programme, while that showtime is remembered.

        Raises TheatreNotFound.
        """
        try:
            return self._programme.theatre(theatre_id)
        except TheatreNotFound:
            if not THEATRE_ID.fullmatch(theatre_id):
                raise
            return await self._store.former_theatre(theatre_id, label)

    async def showtime(self, theatre: Theatre, label: str) -> Availability:
        """The seats of one showtime; also of one that has left the programme, while it is remembered.

        Raises ShowtimeNotFound.
        """
        try:
            showtime = self._programme.resolve(theatre, label, self._store.now_ms())
        except ShowtimeNotFound:
            showtime = self._programme.showtime(theatre, label)
            [seats] = await self._store.availability([showtime])
            if not seats.version:
                raise
            return msgspec.structs.replace(seats, on_sale=False)
        [seats] = await self._store.availability([showtime])
        return seats

    async def showtimes(self, theatre: Theatre, date: datetime.date | None) -> list[Availability]:
        """The seats of all showtimes of a day (None: today at the theatre), all at one moment."""
        if date is None:
            date = datetime.datetime.fromtimestamp(self._store.now_ms() / 1000, theatre.timezone).date()
        return await self._store.availability(self._programme.showtimes_on(theatre, date))

    async def coming_showtimes(self, theatre: Theatre) -> list[Availability]:
        """The seats of every showtime from today at the theatre to the last day that can be booked, at one moment."""
        now_ms = self._store.now_ms()
        first, last = (
            datetime.datetime.fromtimestamp(at_ms / 1000, theatre.timezone).date()
            for at_ms in (now_ms, now_ms + HORIZON_MS)
        )
        dates = [first + datetime.timedelta(days=day) for day in range((last - first).days + 1)]
        return await self._store.availability(
            [showtime for date in dates for showtime in self._programme.showtimes_on(theatre, date)]
        )

    async def next_showtimes(self, theatre: Theatre) -> list[Availability]:
        """The seats of the next showtime of each timing, in order of their start."""
        now_ms = self._store.now_ms()
        showtimes = [self._programme.resolve(theatre, timing, now_ms) for timing in theatre.timings]
        return await self._store.availability(sorted(showtimes, key=lambda showtime: showtime.starts_ms))

    def _bookable(self, theatre: Theatre, timing: str, now_ms: int) -> Showtime:
        showtime = self._programme.resolve(theatre, timing, now_ms)
        if showtime.beyond_horizon(now_ms):
            raise ShowtimeClosed(f"The showtime {showtime.label} opens for booking 7 days before it starts.")
        return showtime

    async def _move_to(self, found: Found, timing: str) -> Showtime:
        """Move a ticket to what `timing` means, and return it. Raises Changed besides what `move` raises."""
        theatre = found.ticket.showtime.theatre
        to = self._bookable(theatre, timing, self._store.now_ms())
        try:
            await self._store.move(found, to)
        except ShowtimeClosed:
            if _is_full(timing):
                raise
            # As in `book`. Should the ticket's own film be what has begun, the next try says so too.
            to = self._bookable(theatre, timing, to.starts_ms)
            await self._store.move(found, to)
        return to

    async def _booked_before(self, theatre: Theatre, ticket_id: str) -> Ticket:
        try:
            return (await self._store.ticket(theatre, ticket_id)).ticket
        except TicketNotFound:
            raise BookingCancelled(
                "The booking made with this Idempotency-Key has been cancelled since; use a new key for a new one."
            ) from None

    async def _find(self, ticket_id: str) -> Found:
        return await self._store.ticket(await self._theatre_of(ticket_id), ticket_id)

    async def _theatre_of(self, ticket_id: str) -> Theatre:
        theatre_id = ticket_id.rpartition("-")[0]
        theatre = self._programme.theatres.get(theatre_id)
        if theatre is not None:
            return theatre
        if not THEATRE_ID.fullmatch(theatre_id):
            raise _no_such_ticket()
        # It has left the programme, or never was: the ticket leads to its showtime, and that knows the time zone.
        found = await self._store.ticket(former(theatre_id, _ANY_ZONE), ticket_id)
        try:
            return await self._store.former_theatre(theatre_id, found.ticket.showtime.label)
        except TheatreNotFound:
            raise _no_such_ticket() from None


def _is_full(timing: str) -> bool:
    return len(timing) > len("18:00")


def _check_phone(ticket: Ticket, phone: str | None) -> None:
    if phone is not None and phone != ticket.phone:
        raise WrongPhone("The phone number is not the one the ticket was booked with.")


def _no_such_ticket() -> TicketNotFound:
    return TicketNotFound("There is no such ticket.")


def _too_contended() -> Unavailable:
    return Unavailable("The ticket keeps being moved by other requests; nothing was done by this one.")
