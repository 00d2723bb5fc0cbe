"""/v1/tickets: book, look up, move, cancel, admit."""

from hashlib import blake2b

from aiohttp import web
from msgspec import UNSET
from multidict import istr

from service import edge, fields
from service.box_office import Booking
from service.edge import Reader
from service.errors import FieldError, InvalidInput, MatineeError, WrongPhone
from service.handlers.desk import Desk, path_ticket_id, private_answer, ticket_answer
from service.lean import Answer, Headers
from service.model import Idempotency, Theatre
from service.wire import BookRequest, MoveRequest, UserAnswer

_book_request = Reader(
    BookRequest, {"name": fields.name, "phone": fields.phone, "timing": fields.timing, "theatre": fields.theatre_id}
)
_IDEMPOTENCY_KEY = istr("Idempotency-Key")
_move_request = Reader(MoveRequest, {"timing": fields.timing})


async def book(desk: Desk, request: web.Request) -> Answer:
    """Book a seat: 201 with the ticket and its Location."""
    wish = await _book_request.read(request)
    theatre = desk.programme.theatre(None if wish.theatre is UNSET else wish.theatre)
    return await answer_booking(desk, request, theatre, wish.timing, wish.name, wish.phone)


async def answer_booking(
    desk: Desk, request: web.Request, theatre: Theatre, timing: str, name: str, phone: str
) -> Answer:
    """Book and answer, for both families of routes."""
    masked = not desk.gate.is_staff(request)
    key = request.headers.get(_IDEMPOTENCY_KEY)
    if key is not None:
        if len(request.headers.getall(_IDEMPOTENCY_KEY)) > 1:
            raise InvalidInput([FieldError(str(_IDEMPOTENCY_KEY), "must be given once")])
        key = edge.field("Idempotency-Key", fields.idempotency_key, key)
    booking = await booked(desk, theatre, timing, name, phone, key)
    headers: Headers = (("Location", f"/v1/tickets/{booking.ticket.ticket_id}"),)
    if booking.replayed:
        headers += (("Idempotency-Replayed", "true"),)
    return ticket_answer(booking.ticket, masked=masked, status=201, headers=headers)


async def booked(desk: Desk, theatre: Theatre, timing: str, name: str, phone: str, key: str | None) -> Booking:
    """Book, and count what came of it. `key` is the client's Idempotency-Key."""
    idempotency = None
    if key is not None:
        # Only digests reach Redis. The client's key goes into both, so that the fingerprint, which covers a name and a
        # phone, cannot be searched by trying phone numbers.
        request_text = "\n".join((key, theatre.id, timing, name, phone))
        idempotency = Idempotency(digest(key), digest(request_text))
    try:
        booking = await desk.box_office.book(theatre, timing, name, phone, idempotency)
    except MatineeError as error:
        desk.metrics.bookings[error.code] += 1
        raise
    if booking.replayed:
        desk.metrics.bookings["replayed"] += 1
    else:
        desk.metrics.bookings["booked"] += 1
        desk.metrics.tickets["booked"] += 1
    return booking


async def view(desk: Desk, request: web.Request) -> Answer:
    """The ticket, for whoever has its id."""
    masked = not desk.gate.is_staff(request)
    ticket = await desk.box_office.ticket(path_ticket_id(request))
    return ticket_answer(ticket, masked=masked)


async def user(desk: Desk, request: web.Request) -> Answer:
    """The person a ticket was booked for."""
    desk.gate.require_staff(request)
    return private_answer(UserAnswer.of(await desk.box_office.ticket(path_ticket_id(request))))


async def move(desk: Desk, request: web.Request) -> Answer:
    """Move a ticket to another timing."""
    staff = desk.gate.is_staff(request)
    ticket_id = path_ticket_id(request)
    wish = await _move_request.read(request)
    phone = _ticket_phone(request, staff=staff)
    ticket = await desk.box_office.move(ticket_id, wish.timing, phone)
    desk.metrics.tickets["moved"] += 1
    return ticket_answer(ticket, masked=not staff)


async def cancel(desk: Desk, request: web.Request) -> Answer:
    """Cancel a ticket: 204, the seat is free."""
    staff = desk.gate.is_staff(request)
    ticket_id = path_ticket_id(request)
    await desk.box_office.cancel(ticket_id, _ticket_phone(request, staff=staff))
    desk.metrics.tickets["cancelled"] += 1
    return Answer(status=204)


async def admit(desk: Desk, request: web.Request) -> Answer:
    """Let a ticket in at the door, once."""
    desk.gate.require_staff(request)
    ticket = await desk.box_office.admit(path_ticket_id(request))
    desk.metrics.tickets["admitted"] += 1
    return ticket_answer(ticket, masked=False)


def _ticket_phone(request: web.Request, *, staff: bool) -> str | None:
    """The phone a change of a ticket is signed with; only the box office may leave it out."""
    written = request.headers.get("Ticket-Phone")
    if written is not None:
        return edge.field("Ticket-Phone", fields.phone, written)
    if staff:
        return None
    raise WrongPhone("Send the phone number the ticket was booked with in the header Ticket-Phone.")


def digest(text: str) -> str:
    """32 hexadecimal digits that stand for a text."""
    return blake2b(text.encode(), digest_size=16).hexdigest()
