"""The pages of moviegoers: the showtimes with the form that books, and the ticket with the forms that change it."""

from aiohttp import web

from service import fields, problems
from service.directory import Cursor
from service.edge import MISSING, Form, query
from service.errors import MatineeError, StoreTrouble, TicketExpired, TicketNotFound
from service.handlers import tickets
from service.handlers.desk import Desk, path_ticket_id
from service.handlers.front import Day, coming_days, new_key
from service.handlers.pages import WORDS, common_page, private_page, see_other
from service.lean import Answer
from service.model import Theatre
from service.negotiation import takes_gzip
from service.rendering import qr_code
from service.security import check_same_site
from service.wire import TicketAnswer

THEATRES = 50  # on one page

# An empty field, in the words of the page; whatever else is wrong with one is told by its rule.
_MISSING = {"name": "Enter your name.", "phone": "Enter your phone number.", "timing": "Choose a showtime."}

# Beside which field a problem is told; the others stand above the form.
_PLACE = {
    "sold_out": "timing",
    "showtime_closed": "timing",
    "showtime_not_found": "timing",
    "wrong_phone": "phone",
    "booking_cancelled": "form",
}

_BOOKING = {"timing": fields.showtime, "name": fields.name, "phone": fields.phone}
_MOVE = {"timing": fields.showtime, "phone": fields.phone}
_CANCEL = {"phone": fields.phone}


async def theatres(desk: Desk, request: web.Request) -> Answer:
    """The theatres to choose from, a page of them at a time, searched by name."""
    wish = query(request, {"name": str, "cursor": Cursor.read})
    name = wish.get("name", "").strip()
    found = desk.programme.directory.page(THEATRES, name, wish.get("cursor"))
    return common_page(desk.pages.render("theatres.html", found=found, name=name))


async def theatre(desk: Desk, request: web.Request) -> Answer:
    """The showtimes of a theatre with their seats, and the form that books one."""
    return await front(desk, request, desk.theatre(request))


async def front(desk: Desk, request: web.Request, theatre: Theatre) -> Answer:
    """The page of a theatre."""
    packed = takes_gzip(request.headers.get("Accept-Encoding"))
    return common_page(await desk.fronts.page(theatre, packed=packed), packed=packed)


async def book(desk: Desk, request: web.Request) -> Answer:
    """Book a seat by the form of the page, and lead on to the ticket."""
    check_same_site(request)
    theatre = desk.theatre(request)
    form = await Form.read(request, _BOOKING)
    refusal: MatineeError | None = None
    if not form.errors:
        kept = form.kept
        try:
            key = _key(form)
            booking = await tickets.booked(desk, theatre, kept["timing"], kept["name"], kept["phone"], key)
            return see_other(f"/tickets/{booking.ticket.ticket_id}#booked")
        except StoreTrouble as trouble:
            return _refused_booking(desk, theatre, [], form, trouble)
        except MatineeError as error:
            refusal = error
            form.written.pop("key", None)  # what it stood for has been answered
    try:
        days = coming_days(await desk.box_office.coming_showtimes(theatre))
    except StoreTrouble as trouble:
        return _refused_booking(desk, theatre, [], form, trouble)
    return _refused_booking(desk, theatre, days, form, refusal)


async def ticket(desk: Desk, request: web.Request) -> Answer:
    """The ticket with its code for the door, for whoever has its address."""
    return await _ticket_page(desk, path_ticket_id(request))


async def move(desk: Desk, request: web.Request) -> Answer:
    """Move a ticket by the form of its page."""
    check_same_site(request)
    ticket_id = path_ticket_id(request)
    form = await Form.read(request, _MOVE)
    if form.errors:
        return await _ticket_page(desk, ticket_id, moving=form)
    try:
        await desk.box_office.move(ticket_id, form.kept["timing"], form.kept["phone"])
    except (TicketNotFound, TicketExpired, StoreTrouble):
        raise
    except MatineeError as error:
        status, _ = _tell(form, error)
        return await _ticket_page(desk, ticket_id, moving=form, status=status)
    desk.metrics.tickets["moved"] += 1
    return see_other(f"/tickets/{ticket_id}#moved")


async def cancel(desk: Desk, request: web.Request) -> Answer:
    """Cancel a ticket by the form of its page."""
    check_same_site(request)
    ticket_id = path_ticket_id(request)
    form = await Form.read(request, _CANCEL)
    if form.errors:
        return await _ticket_page(desk, ticket_id, cancelling=form)
    try:
        cancelled = await desk.box_office.cancel(ticket_id, form.kept["phone"])
    except (TicketNotFound, TicketExpired, StoreTrouble):
        raise
    except MatineeError as error:
        status, _ = _tell(form, error)
        return await _ticket_page(desk, ticket_id, cancelling=form, status=status)
    desk.metrics.tickets["cancelled"] += 1
    return see_other(f"/theatres/{cancelled.showtime.theatre.id}#cancelled")


async def _ticket_page(
    desk: Desk, ticket_id: str, *, moving: Form | None = None, cancelling: Form | None = None, status: int | None = None
) -> Answer:
    """The ticket's page; with the form that was refused, if one was."""
    found = await desk.box_office.ticket(ticket_id)
    refused = moving or cancelling
    if refused is not None:
        _word(refused)
    seats = await desk.box_office.coming_showtimes(found.showtime.theatre)
    body = desk.pages.render(
        "ticket.html",
        ticket=TicketAnswer.of(found, masked=True),
        showtime=found.showtime,
        qr=qr_code(ticket_id),
        begun=found.showtime.starts_ms <= desk.store.now_ms(),
        days=coming_days([each for each in seats if each.showtime != found.showtime]),
        moving=moving or Form(dict.fromkeys(_MOVE, "")),
        cancelling=cancelling or Form(dict.fromkeys(_CANCEL, "")),
        is_moving=moving is not None,
        is_cancelling=cancelling is not None,
    )
    return private_page(body, status=status or (200 if refused is None else 422))


def _refused_booking(desk: Desk, theatre: Theatre, days: list[Day], form: Form, refusal: MatineeError | None) -> Answer:
    """The form again, with what was written in it and what was wrong. Without `days` it keeps the showtime chosen."""
    status, headers = (422, {}) if refusal is None else _tell(form, refusal)
    _word(form)
    body = desk.fronts.render(theatre, days, form, form.written.get("key") or new_key())
    return private_page(body, status=status, headers=tuple(headers.items()))


def _key(form: Form) -> str | None:
    """The Idempotency-Key of a booking: the form and what it says. Filled in anew, it is another booking."""
    written = form.written.get("key")
    if not written:
        return None
    return tickets.digest("\n".join((written, *(form.kept[name] for name in _BOOKING))))


def _tell(form: Form, error: MatineeError) -> tuple[int, dict[str, str]]:
    """Write a problem beside its field; return its status and headers."""
    problem, headers = problems.describe(error)
    form.errors[_PLACE.get(problem.code, "form")] = WORDS.get(problem.code, problem.detail)
    headers.pop("Cache-Control")
    return problem.status, headers


def _word(form: Form) -> None:
    """Make sentences of what the rules say."""
    for name, message in form.errors.items():
        if message == MISSING:
            form.errors[name] = _MISSING[name]
        elif message.startswith("must "):
            form.errors[name] = f"It {message}."
