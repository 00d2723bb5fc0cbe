"""The routes of the original assignment: thin adapters over the same use cases, JSON or form bodies."""

from aiohttp import web

from service import fields
from service.edge import Reader
from service.handlers import tickets
from service.handlers.desk import Desk, private_answer, ticket_answer
from service.lean import Answer
from service.wire import (
    CancelledAnswer,
    ClassicBookRequest,
    ClassicDeleteRequest,
    ClassicTicketRequest,
    ClassicTimingRequest,
    ClassicUpdateRequest,
    TicketAnswer,
    TicketsAnswer,
    UserAnswer,
)

_book_request = Reader(
    ClassicBookRequest, {"name": fields.name, "phone": fields.phone, "timing": fields.timing}, forms=True
)
_update_request = Reader(
    ClassicUpdateRequest,
    {"ticket_id": fields.ticket_id, "phone": fields.phone, "timing_alter": fields.timing},
    forms=True,
)
_delete_request = Reader(ClassicDeleteRequest, {"ticket_id": fields.ticket_id, "phone": fields.phone}, forms=True)
_timing_request = Reader(ClassicTimingRequest, {"timing": fields.timing}, forms=True)
_ticket_request = Reader(ClassicTicketRequest, {"ticket_id": fields.ticket_id}, forms=True)


async def book(desk: Desk, request: web.Request) -> Answer:
    """Book a ticket with name, phone and timing."""
    wish = await _book_request.read(request)
    theatre = desk.programme.theatre(None)
    return await tickets.answer_booking(desk, request, theatre, wish.timing, wish.name, wish.phone)


async def update(desk: Desk, request: web.Request) -> Answer:
    """Change the timing of a ticket."""
    masked = not desk.gate.is_staff(request)
    wish = await _update_request.read(request)
    ticket = await desk.box_office.move(wish.ticket_id, wish.timing_alter, wish.phone)
    desk.metrics.tickets["moved"] += 1
    return ticket_answer(ticket, masked=masked)


async def delete(desk: Desk, request: web.Request) -> Answer:
    """Delete a ticket."""
    desk.gate.is_staff(request)  # the phone is asked of the box office too, but a wrong token is refused as everywhere
    wish = await _delete_request.read(request)
    ticket = await desk.box_office.cancel(wish.ticket_id, wish.phone)
    desk.metrics.tickets["cancelled"] += 1
    return private_answer(CancelledAnswer(ticket.ticket_id, ticket.showtime.timing, ticket.showtime.label))


async def view_on_time(desk: Desk, request: web.Request) -> Answer:
    """All tickets for a particular time."""
    desk.gate.require_staff(request)
    wish = await _timing_request.read(request)
    found = await desk.box_office.tickets_at(desk.programme.theatre(None), wish.timing)
    return private_answer(TicketsAnswer([TicketAnswer.of(ticket, masked=False) for ticket in found]))


async def view_user(desk: Desk, request: web.Request) -> Answer:
    """The user's details, by ticket id."""
    desk.gate.require_staff(request)
    wish = await _ticket_request.read(request)
    return private_answer(UserAnswer.of(await desk.box_office.ticket(wish.ticket_id)))
