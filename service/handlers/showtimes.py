"""Showtimes and their seats; the ticket list of a showtime for the box office."""

import csv
import io
from collections.abc import Callable, Sequence

import msgspec
from aiohttp import hdrs, web

from service import __version__, edge, fields
from service.handlers import moviegoer
from service.handlers.desk import Desk, Told, json_answer, private_answer
from service.lean import Answer, Headers
from service.model import Availability, Theatre
from service.negotiation import prefers_html
from service.wire import (
    ShowtimeAnswer,
    TheatreAnswer,
    TicketAnswer,
    TicketsAnswer,
    WelcomeAnswer,
    encode,
    fingerprint,
)

# A browser may keep the seats but must ask each time whether they changed; the answer is then a 304.
_REVALIDATE: Headers = (("Cache-Control", "no-cache"),)

# What spreadsheets take for the beginning of a formula (OWASP: CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def welcome(desk: Desk, request: web.Request) -> Answer:
    """The time slots available at the first theatre; the web page for a client that prefers HTML."""
    theatre = desk.programme.theatre(None)
    if prefers_html(request.headers.get("Accept")):
        return await moviegoer.front(desk, request, theatre)
    seats = await desk.box_office.next_showtimes(theatre)
    links = {
        "book": "/v1/tickets",
        "theatres": "/v1/theatres",
        "showtimes": f"/v1/theatres/{theatre.id}/showtimes",
        "openapi": "/openapi.json",
    }
    showtimes = [ShowtimeAnswer.of(each) for each in seats]
    answer = WelcomeAnswer("Matinee", __version__, TheatreAnswer.of(theatre), showtimes, links)
    return json_answer(answer, headers=(*_REVALIDATE, ("Vary", "Accept")))


async def of_day(desk: Desk, request: web.Request) -> Answer:
    """The showtimes of a day with their seats; 304 where nothing has changed."""
    wish = edge.query(request, {"date": fields.date})
    seats = await desk.box_office.showtimes(desk.theatre(request), wish.get("date"))
    if desk.told.seats is not seats:  # nobody who shared the look was here before
        desk.told = Told(seats, _etag(seats))
    told = desk.told
    return _unless_known(request, told.etag, told.body)


async def one(desk: Desk, request: web.Request) -> Answer:
    """One showtime with its seats; 304 where nothing has changed."""
    seats = await desk.box_office.showtime(*await desk.showtime(request))
    return _unless_known(request, _etag([seats]), lambda: encode(ShowtimeAnswer.of(seats)))


async def tickets(desk: Desk, request: web.Request) -> Answer:
    """All tickets of a showtime, as JSON or CSV."""
    desk.gate.require_staff(request)
    theatre, label = await desk.showtime(request)
    if "text/csv" in request.headers.get("Accept", ""):
        return await tickets_csv(desk, theatre, label)
    answers = await _ticket_answers(desk, theatre, label)
    return private_answer(TicketsAnswer(answers), headers=(("Vary", "Accept"),))


async def tickets_csv(desk: Desk, theatre: Theatre, label: str) -> Answer:
    """The tickets of a showtime as a file for spreadsheets."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(TicketAnswer.__struct_fields__)
    answers = await _ticket_answers(desk, theatre, label)
    for answer in answers:  # only what people wrote can be a formula
        answer.name, answer.phone = _cell(answer.name), _cell(answer.phone)
    writer.writerows(map(msgspec.structs.astuple, answers))
    headers = (
        ("Cache-Control", "no-store"),
        ("Vary", "Accept"),
        ("Content-Disposition", f'attachment; filename="tickets-{label.replace(":", "")}.csv"'),
    )
    return Answer(text.getvalue().encode(), media_type="text/csv; charset=utf-8", headers=headers)


async def _ticket_answers(desk: Desk, theatre: Theatre, label: str) -> list[TicketAnswer]:
    found = await desk.box_office.tickets(theatre, label)
    return [TicketAnswer.of(ticket, masked=False) for ticket in found]


def _unless_known(request: web.Request, etag: str, body: Callable[[], bytes]) -> Answer:
    """304 where the client's copy is the current one, without a body."""
    headers: Headers = (("ETag", etag), *_REVALIDATE)
    known = request.headers.get(hdrs.IF_NONE_MATCH)
    if known is not None and (known == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(","))):
        return Answer(status=304, headers=headers)
    return Answer(body(), headers=headers)


def _etag(seats: Sequence[Availability]) -> str:
    return f'"{fingerprint(seats)}"'


def _cell(value: str | None) -> str:
    """A cell that no spreadsheet takes for a formula: those get an apostrophe in front."""
    if value is None:
        return ""
    return f"'{value}" if value.startswith(_FORMULA) else value
