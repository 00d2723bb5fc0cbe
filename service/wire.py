"""What goes over the wire: request and answer structs, and their decoders and encoder, built once."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Annotated, Literal, Self

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service import fields, tracing
from service.model import Availability, ShowtimeStatus, Theatre, Ticket, TicketStatus, rfc3339

encode = msgspec.json.Encoder().encode


def _meta(description: str, *examples: str, **schema: str | int) -> Meta:
    """What the API's document tells of a text. `fields.py` is what checks it, and words the errors."""
    return Meta(description=description, examples=list(examples) or None, extra_json_schema=schema or None)


Name = Annotated[
    str,
    _meta(
        "1 to 80 characters of any script, one of them visible; no control characters.",
        "Asha Rao",
        pattern=fields.NAME,
    ),
]
Phone = Annotated[
    str,
    _meta(
        "7 to 15 digits, a leading + allowed; spaces, dots, dashes and brackets are ignored.",
        "+91 98123 45678",
        pattern=fields.PHONE,
    ),
]
Timing = Annotated[
    str,
    _meta(
        "`HH:MM`: the next showtime at that time; or a full local `YYYY-MM-DDTHH:MM`.",
        "18:00",
        "2026-11-24T18:00",
        pattern=fields.TIMING,
    ),
]
TicketId = Annotated[
    str,
    _meta(
        "The id that the booking answered. Case does not matter, and O, I, L are taken for 0, 1, 1.",
        "main-7KQ2M8ZT41XVDRNB",
        pattern=fields.TICKET_ID,
    ),
]
TheatreId = Annotated[str, _meta("A theatre's id.", "main", pattern=fields.THEATRE_ID)]
Clock = Annotated[str, _meta("A clock time in the theatre's zone.", "18:00", pattern=fields.CLOCK)]
Label = Annotated[str, _meta("A showtime in the theatre's local time.", "2026-11-24T18:00", pattern=fields.SHOWTIME)]
Instant = Annotated[
    str, _meta("RFC 3339, with the theatre's offset then.", "2026-11-24T18:00:00+00:00", format="date-time")
]

RequestId = Annotated[
    str,
    _meta(
        "What this request is called, as in the header X-Request-ID: tell it to the operator, whose log has it too.",
        "b7e23ec29af22b0b-4861",
        pattern=f"^{tracing.REQUEST_ID_PATTERN}$",
    ),
]


class BookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Book a seat. `theatre` may be left out: the first of the programme."""

    name: Name
    phone: Phone
    timing: Timing
    theatre: TheatreId | UnsetType = UNSET


class MoveRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Move a ticket to another timing."""

    timing: Timing


class ClassicBookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /booktickets`."""

    name: Name
    phone: Phone
    timing: Timing


class ClassicUpdateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /update`."""

    ticket_id: TicketId
    phone: Phone
    timing_alter: Timing


class ClassicDeleteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /delete`."""

    ticket_id: TicketId
    phone: Phone


class ClassicTimingRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /viewontime`."""

    timing: Timing


class ClassicTicketRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /viewuser`."""

    ticket_id: TicketId


class TicketAnswer(msgspec.Struct):
    """A ticket. The phone is masked but for its last two digits, unless the box office asks."""

    ticket_id: TicketId
    theatre: TheatreId
    timing: Clock
    showtime: Label
    starts_at: Instant
    expires_at: Instant
    status: TicketStatus
    name: str | None
    phone: str | None
    booked_at: Instant | None
    admitted_at: Instant | None

    @classmethod
    def of(cls, ticket: Ticket, *, masked: bool) -> Self:
        """Tell a ticket to its holder (`masked`) or to the box office."""
        theatre, moment = ticket.showtime.theatre, ticket.showtime.moment
        zone = theatre.timezone
        phone = ticket.phone
        return cls(
            ticket.ticket_id,
            theatre.id,
            moment.timing,
            moment.label,
            moment.starts_at,
            moment.expires_at,
            ticket.status,
            ticket.name,
            mask(phone) if masked and phone is not None else phone,
            None if ticket.booked_ms is None else rfc3339(ticket.booked_ms, zone),
            None if ticket.admitted_ms is None else rfc3339(ticket.admitted_ms, zone),
        )


class TicketsAnswer(msgspec.Struct):
    """Tickets in order of showtime, then of booking."""

    tickets: list[TicketAnswer]


class UserAnswer(msgspec.Struct):
    """The person a ticket was booked for."""

    ticket_id: TicketId
    name: str | None
    phone: str | None
    timing: Clock
    showtime: Label

    @classmethod
    def of(cls, ticket: Ticket) -> Self:
        """Tell the box office who has a ticket."""
        showtime = ticket.showtime
        return cls(ticket.ticket_id, ticket.name, ticket.phone, showtime.timing, showtime.label)


class CancelledAnswer(msgspec.Struct):
    """What `POST /delete` cancelled."""

    ticket_id: TicketId
    timing: Clock
    showtime: Label
    status: Literal["cancelled"] = "cancelled"


class TheatreAnswer(msgspec.Struct):
    """A theatre of the programme. `films` has the title of the film at each timing that names one."""

    id: TheatreId
    name: str
    timezone: str
    capacity: int
    timings: tuple[Clock, ...]
    films: dict[str, str]

    @classmethod
    def of(cls, theatre: Theatre) -> Self:
        """Tell a theatre."""
        return cls(theatre.id, theatre.name, theatre.timezone.key, theatre.capacity, theatre.timings, theatre.films)


class TheatresAnswer(msgspec.Struct):
    """The programme."""

    theatres: list[TheatreAnswer]


class ShowtimeAnswer(msgspec.Struct):
    """A showtime and its seats. `film` is null where the programme names none."""

    theatre: TheatreId
    timing: Clock
    showtime: Label
    starts_at: Instant
    film: str | None
    capacity: int
    booked: int
    available: int
    status: ShowtimeStatus

    @classmethod
    def of(cls, seats: Availability) -> Self:
        """Tell the seats of a showtime."""
        theatre, moment = seats.showtime.theatre, seats.showtime.moment
        return cls(
            theatre.id,
            moment.timing,
            moment.label,
            moment.starts_at,
            seats.showtime.film,
            theatre.capacity,
            seats.booked,
            seats.available,
            seats.status,
        )


class ShowtimesAnswer(msgspec.Struct):
    """Showtimes in order of their start."""

    showtimes: list[ShowtimeAnswer]


def fingerprint(seats: Sequence[Availability]) -> str:
    """What an answer about seats depends on, in 24 characters: ETags and the ids of live events are made of it."""
    parts: list[object] = []
    for each in seats:
        showtime = each.showtime
        parts += (showtime.starts_ms, showtime.film, showtime.theatre.capacity)
        parts += (each.booked, each.version, each.status)
    return blake2b(repr(parts).encode(), digest_size=12).hexdigest()


class WelcomeAnswer(msgspec.Struct):
    """The time slots available: of each timing of the first theatre, the next showtime."""

    service: str
    version: str
    theatre: TheatreAnswer
    showtimes: list[ShowtimeAnswer]
    links: dict[str, str]


class HealthAnswer(msgspec.Struct):
    """`ok`, or why not."""

    status: str


class FieldProblem(msgspec.Struct):
    """One bad field, and what would be right."""

    field: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """RFC 9457 problem details. `code` is stable, for programs; `detail` is for people."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldProblem] = []
    ticket_id: TicketId | None = None
    admitted_at: Instant | None = None
    request_id: RequestId | None = None


def mask(phone: str) -> str:
    """`+919812345678` → `+**********78`: enough to know one's own number by, too little to call it."""
    plus = phone[:1] == "+"
    return ("+" if plus else "") + "*" * (len(phone) - plus - 2) + phone[-2:]
