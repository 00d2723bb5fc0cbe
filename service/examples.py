"""The examples of the API's document: one evening at one theatre, told by the structs and the errors themselves."""

from collections.abc import Mapping

import msgspec

from service import __version__, wire
from service.errors import (
    AlreadyAdmitted,
    BookingCancelled,
    FieldError,
    IdempotencyKeyReused,
    InvalidInput,
    MatineeError,
    OutcomeUnknown,
    ShowtimeClosed,
    ShowtimeNotFound,
    SoldOut,
    TheatreNotFound,
    TicketExpired,
    TicketNotFound,
    Unavailable,
    WrongPhone,
)
from service.problems import HttpError

TICKET_ID = "main-7KQ2M8ZT41XVDRNB"
PHONE = "+919812345678"
SHOWTIME = "2026-11-24T18:00"
ANOTHER_TIMING = "21:00"
REQUEST_ID = "b7e23ec29af22b0b-4861"
ETAG = '"4881c5b173d11a77e058224a"'

_STARTS, _EXPIRES = "2026-11-24T18:00:00+00:00", "2026-11-25T02:00:00+00:00"
_BOOKED, _ADMITTED = "2026-11-24T17:25:19+00:00", "2026-11-24T17:52:08+00:00"
_FILM = "The Third Man"
_TIMINGS = ("12:00", "15:00", "18:00", "21:00")

_THEATRE = wire.TheatreAnswer("main", "Main theatre", "UTC", 20, _TIMINGS, {"18:00": _FILM})
_SEATS = wire.ShowtimeAnswer("main", "18:00", SHOWTIME, _STARTS, _FILM, 20, 1, 19, "open")
_TICKET = wire.TicketAnswer(
    *(TICKET_ID, "main", "18:00", SHOWTIME, _STARTS, _EXPIRES, "booked"),
    *("Asha Rao", wire.mask(PHONE), _BOOKED, None),
)

# A body or an answer of each struct.
BODIES: Mapping[type[msgspec.Struct], msgspec.Struct] = {
    type(example): example
    for example in (
        wire.BookRequest("Asha Rao", "+91 98123 45678", "18:00"),
        wire.MoveRequest(ANOTHER_TIMING),
        wire.ClassicBookRequest("Asha Rao", "+91 98123 45678", "18:00"),
        wire.ClassicUpdateRequest(TICKET_ID, PHONE, ANOTHER_TIMING),
        wire.ClassicDeleteRequest(TICKET_ID, PHONE),
        wire.ClassicTimingRequest("18:00"),
        wire.ClassicTicketRequest(TICKET_ID),
        _TICKET,
        wire.TicketsAnswer([msgspec.structs.replace(_TICKET, phone=PHONE)]),
        wire.UserAnswer(TICKET_ID, "Asha Rao", PHONE, "18:00", SHOWTIME),
        wire.CancelledAnswer(TICKET_ID, "18:00", SHOWTIME),
        _THEATRE,
        wire.TheatresAnswer([_THEATRE]),
        _SEATS,
        wire.ShowtimesAnswer([_SEATS]),
        wire.WelcomeAnswer("Matinee", __version__, _THEATRE, [_SEATS], {"book": "/v1/tickets"}),
        wire.HealthAnswer("ok"),
    )
}

# What is no struct, by media type.
TEXTS: Mapping[str, str] = {
    "text/csv": "".join(
        ",".join(cells) + "\r\n"
        for cells in (
            wire.TicketAnswer.__struct_fields__,
            (
                TICKET_ID,
                "main",
                "18:00",
                SHOWTIME,
                _STARTS,
                _EXPIRES,
                "admitted",
                "Asha Rao",
                f"'{PHONE}",
                _BOOKED,
                _ADMITTED,
            ),
        )
    ),
    "text/event-stream": "retry: 1877\n\nid: 4881c5b173d11a77e058224a\nevent: seats\ndata: "
    + wire.encode(wire.ShowtimesAnswer([_SEATS])).decode()
    + "\n\n",
    "text/html": "<!doctype html>…",
    "text/plain": 'matinee_bookings_total{outcome="booked"} 1.0\n',
}

# An error of each problem code.
ERRORS: Mapping[str, MatineeError] = {
    error.problem_code if isinstance(error, HttpError) else error.code: error
    for error in (
        HttpError("malformed_body", "The body is not JSON in UTF-8."),
        HttpError("malformed_request", "The request is not valid HTTP, or a line of its head is too long."),
        HttpError(
            "staff_only",
            "Send the staff token as Authorization: Bearer.",
            {"WWW-Authenticate": 'Bearer realm="box office"'},
        ),
        WrongPhone("The phone number is not the one the ticket was booked with."),
        HttpError(
            "protected_mode", "The Host is not this machine. Set MATINEE_STAFF_TOKEN on the service to allow this."
        ),
        HttpError("cross_site", "Another web site sent this form; open the page itself and send it from there."),
        HttpError("route_not_found", "There is nothing here; /openapi.json lists all routes."),
        TheatreNotFound("The programme has no theatre of that id."),
        ShowtimeNotFound("Theatre main has no showtime at 13:00; its timings are 12:00, 15:00, 18:00, 21:00."),
        TicketNotFound("There is no such ticket."),
        HttpError("method_not_allowed", "PUT is not a method of this path; it has GET, HEAD.", {"Allow": "GET, HEAD"}),
        HttpError("body_timeout", "The body did not arrive within 10 seconds."),
        SoldOut(f"No seat is left at {SHOWTIME}."),
        ShowtimeClosed(f"The showtime {SHOWTIME} has started."),
        AlreadyAdmitted(f"The ticket was let in at {_ADMITTED}.", _ADMITTED),
        BookingCancelled("The booking was made and has been cancelled since."),
        TicketExpired(f"The ticket expired at {_EXPIRES}; its name and phone are deleted."),
        HttpError("body_too_large", "The body may have at most 16384 bytes."),
        HttpError("unsupported_media_type", "Send the body as application/json."),
        InvalidInput([FieldError("name", "is missing"), FieldError("seat", "is not a field; the fields are …")]),
        IdempotencyKeyReused("This Idempotency-Key came with another request before; use a new key for a new booking."),
        HttpError(
            "too_many_guesses",
            "Many wrong staff tokens are being tried; this one was not looked at.",
            {"Retry-After": "1"},
        ),
        HttpError("internal", "The service failed at this request; the operator's log says why."),
        Unavailable("Redis is away; nothing was done"),
        OutcomeUnknown("Redis did not answer in time; the outcome is unknown", TICKET_ID),
        HttpError("too_many_listeners", "As many clients listen as this process takes.", {"Retry-After": "10"}),
    )
}
