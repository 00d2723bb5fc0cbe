"""The tickets in Redis: one method per Lua script. The only reader of the scripts' replies."""

import asyncio
import secrets
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from service.booking_form import BookingForm
from service.cluster import Cluster
from service.errors import (
    AlreadyAdmitted,
    BookingCancelled,
    IdempotencyKeyReused,
    OutcomeUnknown,
    ShowtimeClosed,
    SoldOut,
    StoreTrouble,
    TheatreNotFound,
    TicketExpired,
    TicketNotFound,
    Unavailable,
)
from service.keys import CANCELLED_LIFE_MS, keys_of, seats_key, spread, ticket_key
from service.model import (
    FORGOTTEN_AFTER_MS,
    Availability,
    Idempotency,
    Showtime,
    Theatre,
    Ticket,
    compact,
    former,
    rfc3339,
)
from service.pipeline import Pipeline
from service.programme import Programme
from service.scripts import (
    ADMIT,
    AVAILABILITY,
    BOOK,
    CANCEL,
    MOVE,
    SHOWTIME_TICKETS,
    SHOWTIME_ZONE,
    TICKET,
    Script,
)

T = TypeVar("T")

# How often a look at something that others keep changing is repeated before we are content with what we have.
LOOKS = 4

# Look-ups of expired tickets cover this much more at both ends: our estimate of Redis's clock may be wrong, and what
# was found for one minute serves the whole minute.
MINUTE_MS = 60_000

FORMS_KEPT = 16_384  # moments whose bookings are packed but for theatre and ticket, some 1,000 bytes each
FULL_KEPT = 4096  # showtimes known to have been full


class Found(msgspec.Struct, frozen=True):
    """A live ticket, and how often it has moved: what a change of it compares before it sets."""

    ticket: Ticket
    moves: int


class Booked(msgspec.Struct, frozen=True):
    """What a booking did: the showtime's new version and the time on the Redis server's clock."""

    version: int
    booked_ms: int


class Replayed(msgspec.Struct, frozen=True):
    """The Idempotency-Key had booked this ticket before."""

    ticket_id: str


class Moved(msgspec.Struct, frozen=True):
    """The new versions of the showtime a ticket left and of the one it went to."""

    from_version: int
    to_version: int


class Changed(Exception):
    """Somebody else moved the ticket between our look and our change: the caller looks again."""


class _Question(Generic[T]):
    """A question to Redis that several share: whoever comes before it is written waits for its answer too.

    The answer is as good as one to a question of their own, for it tells of a moment after they came. Nobody who
    leaves spoils it for the others.
    """

    __slots__ = ("batches", "waiting")

    def __init__(self, batches: int) -> None:
        self.batches = batches  # that the pipeline had written when it was asked: as long as it writes no more, join
        self.waiting: list[asyncio.Future[T]] = []

    def join(self) -> asyncio.Future[T]:
        """Wait for the answer."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def tell(self, answer: T) -> None:
        """Give the answer to all who wait; nobody joins from here on."""
        self.batches = -1
        for future in self.waiting:
            if not future.done():
                future.set_result(answer)
        self.waiting.clear()

    def fail(self, error: BaseException) -> None:
        """Tell all who wait that there is no answer."""
        self.batches = -1
        for future in self.waiting:
            if not future.done():
                future.set_exception(error)
        self.waiting.clear()


class Store:
    """Tickets and seats of all theatres of a programme.

    Every method raises `Unavailable` when nothing was done, and those that change something `OutcomeUnknown`
    when the command had gone out and no answer came back.
    """

    def __init__(self, pipeline: Pipeline | Cluster, programme: Programme) -> None:
        self._pipeline = pipeline
        self._programme = programme
        self._form = lru_cache(maxsize=FORMS_KEPT)(lambda moment: BookingForm(BOOK, moment))
        # Showtimes that were full when last asked, by theatre and label, with the question whether they are still.
        self._full: dict[tuple[str, str], _Question[bool]] = {}
        self._looks: dict[tuple[str, ...], _Question[list[Availability]]] = {}
        self._over = lru_cache(maxsize=1024)(self._showtimes_over)

    @property
    def ready(self) -> bool:
        """Whether Redis answered lately."""
        return self._pipeline.ready

    def now_ms(self) -> int:
        """The Redis server's clock, as near as it is known here."""
        return self._pipeline.now_ms()

    async def book(
        self, ticket_id: str, showtime: Showtime, name: str, phone: str, idempotency: Idempotency | None = None
    ) -> Booked | Replayed:
        """Take a seat. Raises SoldOut, ShowtimeClosed, IdempotencyKeyReused, BookingCancelled."""
        theatre, moment = showtime.theatre, showtime.moment
        which = theatre.id, moment.label
        full = self._full.get(which) if idempotency is None else None  # with a key it may repeat an accepted one
        if full is not None and full.batches == self._pipeline.batches:
            if await full.join():
                raise _sold_out(showtime)
            full = None
        key = ticket_key(theatre.id, ticket_id)
        call = self._form(moment).fill(theatre, ticket_id, name, phone, idempotency)
        question = None
        if full is not None:
            question = self._full[which] = _Question[bool](self._pipeline.batches)
        is_full = False
        try:  # as `_change` does, which would be a coroutine more
            reply: list[Any] = await self._pipeline.run(BOOK, (key,), call, mutates=True)
            is_full = reply[0] == b"sold_out"
        except StoreTrouble as trouble:
            if question is not None:  # to ask anew would take those who wait twice their time
                question.fail(Unavailable("Redis does not say whether a seat is left; nothing was done"))
            if isinstance(trouble, OutcomeUnknown):
                trouble.ticket_id = ticket_id
            raise
        finally:
            if question is not None:
                question.tell(is_full)
        if is_full:
            self._note_full(which)
        elif self._full and reply[0] == b"booked":
            self._full.pop(which, None)
        return _booked(showtime, reply)

    async def ticket(self, theatre: Theatre, ticket_id: str) -> Found:
        """Look a ticket up. Raises TicketNotFound, and TicketExpired while its showtime is still remembered."""
        key = ticket_key(theatre.id, ticket_id)
        reply = await self._pipeline.run(TICKET, [key], [ticket_id], mutates=False)
        over: list[Showtime] = []
        if reply[0] == b"not_found" and theatre.timings:
            # Only now, for few ask for an expired ticket: a dozen keys more would make every look-up dearer.
            over, ids_keys = self._over(theatre.id, self.now_ms() // MINUTE_MS)
            reply = await self._pipeline.run(TICKET, [key, *ids_keys], [ticket_id], mutates=False)
        match reply[0]:
            case b"ticket":
                _, name, phone, showtime, booked_ms, admitted_ms, moves = reply
                found = self._showtime(theatre, showtime)
                return Found(Ticket(ticket_id, found, name.decode(), phone.decode(), booked_ms, admitted_ms), moves)
            case b"expired":
                expired_at = over[reply[1] - 2].moment.expires_at
                raise TicketExpired(f"The ticket expired at {expired_at}; its name and phone are deleted.")
            case b"not_found":
                raise TicketNotFound("There is no such ticket.")
        raise _unexpected(TICKET.name, reply)

    async def move(self, found: Found, to: Showtime) -> Moved:
        """Move a ticket to another showtime of its theatre.

        Raises TicketNotFound, Changed, AlreadyAdmitted, ShowtimeClosed, SoldOut.
        """
        ticket = found.ticket
        here, theatre = ticket.showtime, to.theatre
        keys = [ticket_key(theatre.id, ticket.ticket_id), *keys_of(here), *keys_of(to)]
        args: list[str | int] = [ticket.ticket_id, here.moment.stored, to.moment.stored]
        args += [found.moves, here.starts_ms, *_terms(to)]
        reply = await self._change(MOVE, ticket.ticket_id, keys, args)
        match reply[0]:
            case b"moved":
                return Moved(reply[1], reply[2])
            case b"not_found":
                raise TicketNotFound("There is no such ticket.")
            case b"changed":
                raise Changed
            case b"already_admitted":
                raise _already_admitted(theatre, reply[1])
            case b"started":
                raise _closed(here)
            case b"closed":
                raise _closed(to)
            case b"sold_out":
                raise SoldOut(f"No seat is left at {to.label}; the ticket stays at {here.label}.")
        raise _unexpected(MOVE.name, reply)

    async def cancel(self, ticket: Ticket) -> int:
        """Cancel a ticket; return the showtime's new version. Raises TicketNotFound, Changed, AlreadyAdmitted."""
        showtime = ticket.showtime
        theatre = showtime.theatre
        keys = [ticket_key(theatre.id, ticket.ticket_id), *keys_of(showtime)]
        args: list[str | int] = [ticket.ticket_id, showtime.moment.stored, secrets.token_hex(8), CANCELLED_LIFE_MS]
        reply = await self._change(CANCEL, ticket.ticket_id, keys, args)
        match reply[0]:
            case b"cancelled":
                version: int = reply[1]
                return version
            case b"not_found":
                raise TicketNotFound("There is no such ticket.")
            case b"changed":
                raise Changed
            case b"already_admitted":
                raise _already_admitted(theatre, reply[1])
        raise _unexpected(CANCEL.name, reply)

    async def admit(self, theatre: Theatre, ticket_id: str) -> Ticket:
        """Let a ticket in. Raises TicketNotFound (also for an expired one), AlreadyAdmitted."""
        args = [secrets.token_hex(8)]
        reply = await self._change(ADMIT, ticket_id, [ticket_key(theatre.id, ticket_id)], args)
        match reply[0]:
            case b"admitted":
                _, admitted_ms, name, phone, showtime, booked_ms = reply
                found = self._showtime(theatre, showtime)
                return Ticket(ticket_id, found, name.decode(), phone.decode(), booked_ms, admitted_ms)
            case b"already_admitted":
                raise _already_admitted(theatre, reply[1])
            case b"not_found":
                raise TicketNotFound("There is no such ticket.")
        raise _unexpected(ADMIT.name, reply)

    async def tickets(self, showtime: Showtime) -> list[Ticket]:
        """All tickets of a showtime in order of booking, as they are at one moment.

        While others keep changing the showtime faster than we can look, the tickets seen last that are still there.
        """
        theatre = showtime.theatre
        ids: list[str] = []
        version = "0"
        for look in range(LOOKS):
            keys = [*keys_of(showtime), *(ticket_key(theatre.id, ticket_id) for ticket_id in ids)]
            seen_at = version if look < LOOKS - 1 else "any"
            reply = await self._pipeline.run(SHOWTIME_TICKETS, keys, [seen_at, *ids], mutates=False)
            if reply[0] == b"tickets":
                return [_listed(showtime, row) for row in reply[2:]]
            if reply[0] != b"changed":
                break
            version, ids = str(reply[1]), [ticket_id.decode() for ticket_id in reply[2:]]
        raise _unexpected(SHOWTIME_TICKETS.name, reply)

    async def availability(self, showtimes: Sequence[Showtime]) -> list[Availability]:
        """The seats of showtimes of one theatre, all at one moment, in their order.

        Those who ask for the same at the same time share one look, and get the same list: leave it as it is.
        """
        keys = tuple([seats_key(showtime.theatre.id, showtime.moment.stored) for showtime in showtimes])
        if not keys:
            return []
        look = self._looks.get(keys)
        if look is None or look.batches != self._pipeline.batches:
            look = self._looks[keys] = _Question(self._pipeline.batches)
            reply = self._pipeline.run(AVAILABILITY, keys, [], mutates=False)
            reply.add_done_callback(partial(self._looked, look, keys, showtimes))
        return await look.join()

    def _looked(
        self,
        look: _Question[list[Availability]],
        keys: tuple[str, ...],
        showtimes: Sequence[Showtime],
        answer: asyncio.Future[Any],
    ) -> None:
        """Tell all who wait for a look what it found."""
        if self._looks.get(keys) is look:
            del self._looks[keys]
        trouble = answer.exception()
        if trouble is None and answer.result()[0] != b"availability":
            trouble = _unexpected(AVAILABILITY.name, answer.result())
        if trouble is not None:
            look.fail(trouble)
            return
        reply = answer.result()
        now_ms, booked, versions = reply[1], reply[2::2], reply[3::2]
        look.tell(
            [
                Availability(showtime, seats, version, now_ms)
                for showtime, seats, version in zip(showtimes, booked, versions, strict=True)
            ]
        )

    async def former_theatre(self, theatre_id: str, label: str) -> Theatre:
        """A theatre that has left the programme, as its showtime tells of it. Raises TheatreNotFound."""
        key = seats_key(theatre_id, compact(label))
        reply = await self._pipeline.run(SHOWTIME_ZONE, [key], [], mutates=False)
        match reply[0]:
            case b"zone":
                return former(theatre_id, ZoneInfo(reply[1].decode()))
            case b"unknown":
                raise TheatreNotFound("The programme has no theatre of that id.")
        raise _unexpected(SHOWTIME_ZONE.name, reply)

    def _note_full(self, which: tuple[str, str]) -> None:
        if which not in self._full:
            if len(self._full) >= FULL_KEPT:
                del self._full[next(iter(self._full))]  # the one that came first
            self._full[which] = _Question(-1)  # nobody can join it: the next who comes asks

    async def _change(self, script: Script, ticket_id: str, keys: list[str], args: Sequence[str | int]) -> list[Any]:
        try:
            reply: list[Any] = await self._pipeline.run(script, keys, args, mutates=True)
            return reply
        except OutcomeUnknown as unknown:
            unknown.ticket_id = ticket_id
            raise

    def _showtimes_over(self, theatre_id: str, minute: int) -> tuple[list[Showtime], list[str]]:
        """The showtimes whose tickets have expired and that are still remembered, and the keys of their ids."""
        expired_ms = minute * MINUTE_MS - self._programme.ticket_life_ms
        over = self._programme.starting_between(
            self._programme.theatres[theatre_id],
            expired_ms - FORGOTTEN_AFTER_MS - MINUTE_MS,
            expired_ms + 2 * MINUTE_MS,
        )
        return over, [keys_of(showtime)[1] for showtime in over]

    def _showtime(self, theatre: Theatre, stored: bytes) -> Showtime:
        return self._programme.showtime(theatre, spread(stored.decode()))


def _listed(showtime: Showtime, row: list[Any]) -> Ticket:
    ticket_id = row[0].decode()
    if len(row) == 1:
        return Ticket(ticket_id, showtime)
    _, name, phone, booked_ms, admitted_ms = row
    return Ticket(ticket_id, showtime, name.decode(), phone.decode(), booked_ms, admitted_ms)


def _terms(showtime: Showtime) -> tuple[str, ...]:
    """Capacity, start, expiry, when it is forgotten, and the zone, for the scripts."""
    moment = showtime.moment
    numbers = (showtime.theatre.capacity, moment.starts_ms, moment.expires_ms, moment.forgotten_ms)
    return (*map(str, numbers), moment.zone)  # hiredis takes four times as long to write a number as a text


def _booked(showtime: Showtime, reply: list[Any]) -> Booked | Replayed:
    """What the script replied to a booking; raises what it refused it for."""
    match reply[0]:
        case b"booked":
            return Booked(reply[1], reply[2])
        case b"sold_out":
            raise _sold_out(showtime)
        case b"closed":
            raise _closed(showtime)
        case b"replayed":
            return Replayed(reply[1].decode())
        case b"key_reused":
            raise IdempotencyKeyReused(
                "This Idempotency-Key came with another request before; use a new key for a new booking."
            )
        case b"cancelled":
            raise BookingCancelled("The booking was made and has been cancelled since.")
    raise _unexpected(BOOK.name, reply)


def _sold_out(showtime: Showtime) -> SoldOut:
    return SoldOut(f"No seat is left at {showtime.label}.")


def _closed(showtime: Showtime) -> ShowtimeClosed:
    return ShowtimeClosed(f"The showtime {showtime.label} has started.")


def _already_admitted(theatre: Theatre, admitted_ms: int) -> AlreadyAdmitted:
    admitted_at = rfc3339(admitted_ms, theatre.timezone)
    return AlreadyAdmitted(f"The ticket was let in at {admitted_at}.", admitted_at)


def _unexpected(script: str, reply: list[Any]) -> RuntimeError:
    # Only the status word: the rest of a reply may hold a name or a phone.
    return RuntimeError(f"{script}.lua replied {reply[0]!r}")
