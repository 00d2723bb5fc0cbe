"""The pages of the box office: signing in, the door, a person looked up, the tickets of a showtime."""

import datetime
import time
from typing import Any

import msgspec
from aiohttp import web

from service import edge, fields, problems
from service.edge import Form
from service.errors import AlreadyAdmitted, FieldError, InvalidInput, MatineeError, StoreTrouble
from service.handlers import showtimes
from service.handlers.desk import Desk
from service.handlers.pages import private_page, see_other
from service.lean import Answer
from service.model import Ticket
from service.rendering import moment
from service.security import CHALLENGE, COOKIE, check_same_site
from service.sessions import LIFE_S
from service.wire import TicketAnswer

HOME = "/box-office"
ONE_DAY = datetime.timedelta(days=1)

_SIGN_IN = {"token": str}
_TICKET = {"ticket_id": fields.ticket_id}

# What the door says of a ticket that is not let in.
_REFUSALS = {
    "ticket_not_found": "No such ticket. It may have been cancelled.",
    "ticket_expired": "This ticket is over.",
    "invalid_input": "That is no ticket's id. One looks like main-7KQ2M8ZT41XVDRNB.",
}


class Verdict(msgspec.Struct, frozen=True):
    """What the door says of a ticket: `kind` is `yes`, `already` or `no`. The ticket is there when it is let in."""

    status: int
    kind: str
    title: str
    ticket_id: str
    ticket: Ticket | None = None
    words: str = ""


async def sign_in(desk: Desk, request: web.Request) -> Answer:
    """Sign the box office in at this browser, with the staff token."""
    check_same_site(request)
    sessions = desk.gate.sessions
    if sessions is None:  # protected mode: there is nothing to sign in with
        return see_other(HOME)
    form = await Form.read(request, _SIGN_IN)
    cookie = await sessions.sign_in(form.written["token"], int(time.time()))
    if cookie is None:
        wrong = "This is not the staff token."
        body = desk.pages.render("sign_in.html", wrong=wrong)
        return private_page(body, status=401, headers=tuple(CHALLENGE.items()))
    return see_other(HOME, (_cookie(request, cookie, LIFE_S),))


async def sign_out(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """Sign the box office out at this browser."""
    check_same_site(request)
    return see_other(HOME, (_cookie(request, "", 0),))


async def door(desk: Desk, request: web.Request) -> Answer:
    """The door: let tickets in, look them up, choose a showtime."""
    desk.gate.require_signed_in(request)
    return await _door(desk, request)


async def admit(desk: Desk, request: web.Request) -> Answer:
    """Let a ticket in at the door, and say so in a word: yes, already, or no."""
    desk.gate.require_signed_in(request)
    check_same_site(request)
    form = await Form.read(request, _TICKET)
    try:
        if form.errors:
            raise InvalidInput([])
        ticket = await desk.box_office.admit(form.kept["ticket_id"])
    except StoreTrouble:
        raise
    except MatineeError as error:
        verdict = _refusal(form.written["ticket_id"], error)
    else:
        desk.metrics.tickets["admitted"] += 1
        verdict = Verdict(200, "yes", "Let in", ticket.ticket_id, ticket)
    return await _door(desk, request, verdict)


async def look_up(desk: Desk, request: web.Request) -> Answer:
    """The person a ticket was booked for, by the ticket's id."""
    desk.gate.require_signed_in(request)
    ticket_id = edge.field("ticket_id", fields.ticket_id, request.query.get("ticket_id", ""))
    found = await desk.box_office.ticket(ticket_id)
    ticket = TicketAnswer.of(found, masked=False)
    return private_page(desk.pages.render("person.html", ticket=ticket, showtime=found.showtime, **_frame(desk)))


async def cancel(desk: Desk, request: web.Request) -> Answer:
    """Cancel a ticket for its holder, and show the tickets that are left."""
    desk.gate.require_signed_in(request)
    check_same_site(request)
    form = await Form.read(request, _TICKET)
    if form.errors:
        raise InvalidInput([FieldError(name, message) for name, message in form.errors.items()])
    ticket = await desk.box_office.cancel(form.kept["ticket_id"], None)
    desk.metrics.tickets["cancelled"] += 1
    return see_other(f"{HOME}/{ticket.showtime.theatre.id}/{ticket.showtime.label}#cancelled")


async def tickets(desk: Desk, request: web.Request) -> Answer:
    """The tickets of a showtime, to look at or to print."""
    desk.gate.require_signed_in(request)
    theatre, label = await desk.showtime(request)
    seats = await desk.box_office.showtime(theatre, label)
    found = await desk.box_office.tickets(theatre, label)
    body = desk.pages.render(
        "tickets.html",
        seats=seats,
        tickets=[TicketAnswer.of(ticket, masked=False) for ticket in found],
        admitted=sum(ticket.status == "admitted" for ticket in found),
        **_frame(desk),
    )
    return private_page(body)


async def tickets_csv(desk: Desk, request: web.Request) -> Answer:
    """The tickets of a showtime as CSV."""
    desk.gate.require_signed_in(request)
    return await showtimes.tickets_csv(desk, *await desk.showtime(request))


def _refusal(written: str, error: MatineeError) -> Verdict:
    problem, _ = problems.describe(error)
    if isinstance(error, AlreadyAdmitted):
        return Verdict(problem.status, "already", "Already let in", written, words=f"At {moment(error.admitted_at)}.")
    return Verdict(problem.status, "no", "No", written, words=_REFUSALS.get(problem.code, problem.detail))


async def _door(desk: Desk, request: web.Request, verdict: Verdict | None = None) -> Answer:
    written = edge.query(request, {"theatre": fields.theatre_id, "date": fields.date})
    theatre = desk.programme.theatre(written.get("theatre"))
    today = datetime.datetime.fromtimestamp(desk.store.now_ms() / 1000, theatre.timezone).date()
    date = written.get("date", today)
    body = desk.pages.render(
        "door.html",
        theatre=theatre,
        several=len(desk.programme.theatres) > 1,
        date=date,
        today=today,
        before=date - ONE_DAY,
        after=date + ONE_DAY,
        showtimes=await desk.box_office.showtimes(theatre, date),
        verdict=verdict,
        **_frame(desk),
    )
    return private_page(body, status=200 if verdict is None else verdict.status)


def _frame(desk: Desk) -> dict[str, Any]:
    """What every page of the box office shows at its head."""
    return {"protected": desk.gate.protected}


def _cookie(request: web.Request, value: str, life_s: int) -> tuple[str, str]:
    """The session's cookie. The browser itself says whether it came by HTTPS: in the Origin of its form."""
    secure = "; Secure" if request.headers.get("Origin", "").startswith("https://") else ""
    return ("Set-Cookie", f"{COOKIE}={value}; Path={HOME}; Max-Age={life_s}; HttpOnly; SameSite=Strict{secure}")
