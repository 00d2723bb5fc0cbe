"""The one place where an error becomes an HTTP answer: RFC 9457 problem details with a stable `code`."""

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from service import errors, wire
from service.lean import Answer, Headers
from service.tracing import Identity

CONTENT_TYPE = "application/problem+json"

# Where the docs explain a code; a reference relative to the service, RFC 9457 section 3.1.1.
TYPE_BASE = "/docs/errors#"


# At random between these: all who wait for Redis hear of an outage at once, and must not come back at once.
RETRY_AFTER_S = (1, 3)


class Kind(NamedTuple):
    """One kind of problem: its status and title in the answer; what it means and what to do, for the documents."""

    status: int
    title: str
    meaning: str
    remedy: str


# Every code a client may meet; the documents list them from here.
PROBLEMS: Mapping[str, Kind] = {
    "malformed_body": Kind(
        400,
        "The body cannot be read",
        "The body is not JSON in UTF-8, or not a form of at most 32 fields.",
        "Send what the Content-Type says; percent-encode the fields of a form.",
    ),
    "malformed_request": Kind(
        400,
        "The request is not valid HTTP",
        "The head of the request breaks the rules of HTTP, or one of its lines is longer than 8 KiB.",
        "Use an HTTP client. The connection is closed.",
    ),
    "staff_only": Kind(
        401,
        "This is for the box office",
        "The route is for the box office and no staff token came, or the token that came is wrong.",
        "Send Authorization: Bearer and the service's MATINEE_STAFF_TOKEN; leave the header out where none is needed.",
    ),
    "wrong_phone": Kind(
        403,
        "Wrong phone number",
        "The phone is not the one that the ticket was booked with, or none came.",
        "Send that number in the header Ticket-Phone (classic routes: in the body). In a form, write its + as %2B.",
    ),
    "protected_mode": Kind(
        403,
        "Refused in protected mode",
        "The service has no staff token, so it takes every caller for the box office and serves this machine only: "
        "what another web site or a proxy could have sent is refused.",
        "Set MATINEE_STAFF_TOKEN on the service, or call it from this machine as 127.0.0.1 or localhost.",
    ),
    "cross_site": Kind(
        403,
        "Sent by another web site",
        "The form was sent by a page of another web site, in the name of whoever is signed in here.",
        "Open the page of this service and send the form from there.",
    ),
    "route_not_found": Kind(
        404,
        "No such route",
        "The service has nothing at this path.",
        "Look it up in /docs or /openapi.json; a slash at the end makes another path.",
    ),
    "theatre_not_found": Kind(
        404,
        "No such theatre",
        "The programme has no theatre of that id.",
        "Take an id from GET /v1/theatres.",
    ),
    "showtime_not_found": Kind(
        404,
        "No such showtime",
        "The theatre has no timing at that time of day, or its clock skips that time on that date.",
        "Take a timing or a showtime from GET /v1/theatres/{theatre}/showtimes; the detail names the timings.",
    ),
    "ticket_not_found": Kind(
        404,
        "No such ticket",
        "The ticket never existed, was cancelled, or expired more than a day ago.",
        "Check the id. A cancelled ticket does not come back: book anew.",
    ),
    "method_not_allowed": Kind(
        405,
        "Method not allowed",
        "The path exists, but not with this method.",
        "Use one of the methods that the header Allow names.",
    ),
    "body_timeout": Kind(
        408,
        "The body took too long",
        "The body did not arrive within 10 seconds.",
        "Send it again in one go. The connection is closed; nothing was done.",
    ),
    "sold_out": Kind(
        409,
        "Sold out",
        "No seat is left at that showtime. A ticket that was to be moved stays where it was.",
        "Choose another showtime, or try again later: a cancelled seat is free at once.",
    ),
    "showtime_closed": Kind(
        409,
        "Not open for booking",
        "The showtime has started, or is more than 7 days ahead.",
        "Choose a showtime whose status is open.",
    ),
    "already_admitted": Kind(
        409,
        "Already admitted",
        "The ticket was let in at the door, at admitted_at; it cannot be used, moved or cancelled any more.",
        "At the door: somebody is in with this ticket. Turn the second person away, or look the ticket up.",
    ),
    "booking_cancelled": Kind(
        409,
        "The booking was cancelled",
        "The request repeats, by its Idempotency-Key, a booking that has been cancelled since; it books nothing.",
        "Use a new key for a new booking.",
    ),
    "ticket_expired": Kind(
        410,
        "The ticket has expired",
        "The showtime is long over; the name and the phone of the ticket have been deleted.",
        "Nothing: there is nothing left to see or change.",
    ),
    "body_too_large": Kind(
        413,
        "The body is too large",
        "The body has more than 16,384 bytes.",
        "Send the fields alone. The connection is closed; nothing was done.",
    ),
    "unsupported_media_type": Kind(
        415,
        "Unsupported media type",
        "The Content-Type is not one that the route takes, or the body came with a Content-Encoding.",
        "Send application/json; the classic routes also take application/x-www-form-urlencoded. Do not compress it.",
    ),
    "invalid_input": Kind(
        422,
        "Missing or invalid fields",
        "Fields are missing, wrong or unknown; errors names every one of them, and what would be right.",
        "Correct all the fields that errors names. Nothing was done.",
    ),
    "idempotency_key_reused": Kind(
        422,
        "Idempotency-Key used again",
        "The key came with another request within the last 24 hours.",
        "Use a new key for each booking; repeat a booking with the same key and the same body.",
    ),
    "too_many_guesses": Kind(
        429,
        "Too many wrong staff tokens",
        "Many wrong staff tokens are being tried at the sign-in at the moment, so this one was not looked at.",
        "Try again after the seconds that Retry-After says.",
    ),
    "internal": Kind(
        500,
        "Something went wrong in the service",
        "A defect of the service; its log says more.",
        "Tell the operator when it happened. To repeat a booking is safe with the same Idempotency-Key.",
    ),
    "unavailable": Kind(
        503,
        "Unavailable: nothing was done",
        "Redis is away, too slow or overloaded, or this process is ending. Nothing was done.",
        "Try again after the seconds that Retry-After says.",
    ),
    "outcome_unknown": Kind(
        503,
        "Outcome unknown",
        "The command had gone out to Redis and no answer came back: it may have been done or not.",
        "Ask GET /v1/tickets/{ticket_id} with the ticket_id of the problem, or repeat with the same Idempotency-Key.",
    ),
    "too_many_listeners": Kind(
        503,
        "Too many listeners",
        "As many clients as the process takes follow live seats already.",
        "Come again after Retry-After, or ask for the showtimes with If-None-Match now and then.",
    ),
}

# After these the rest of the body is still on its way; it is thrown away, for 10 s at most, and the connection closed.
CLOSING = frozenset({"body_timeout", "body_too_large"})


_NO_STORE: Headers = (("Cache-Control", "no-store"),)
_SOLD_OUT = PROBLEMS["sold_out"].status


class HttpError(errors.MatineeError):
    """An error of HTTP itself, which the domain knows nothing of; `code` is one of PROBLEMS."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem_code = code
        self.headers = headers or {}


def describe(error: errors.MatineeError) -> tuple[wire.Problem, dict[str, str]]:
    """What HTTP says of an error, and the headers that go with it."""
    code = error.problem_code if isinstance(error, HttpError) else error.code
    kind = PROBLEMS[code]
    problem = wire.Problem(TYPE_BASE + code, kind.title, kind.status, error.detail, code)
    headers = dict(_NO_STORE)
    match error:
        case HttpError():
            headers.update(error.headers)
        case errors.InvalidInput():
            problem.errors = [wire.FieldProblem(bad.field, bad.message) for bad in error.errors]
        case errors.AlreadyAdmitted():
            problem.admitted_at = error.admitted_at
        case errors.StoreTrouble():
            headers["Retry-After"] = str(random.randint(*RETRY_AFTER_S))  # noqa: S311  a jitter is no secret
            if isinstance(error, errors.OutcomeUnknown):
                problem.ticket_id = error.ticket_id
    return problem, headers


def answer(error: errors.MatineeError, called: Identity) -> Answer:
    """The answer that tells a program of an error, at the request that is `called` so."""
    if type(error) is errors.SoldOut:  # what a crowd hears over and over, in the same words but for the last one
        said = f'{_sold_out(error.detail)},"request_id":"{called.request_id}"}}'
        return Answer(said.encode(), status=_SOLD_OUT, media_type=CONTENT_TYPE, headers=_NO_STORE)
    problem, headers = describe(error)
    problem.request_id = called.request_id
    body = wire.encode(problem)
    response = Answer(body, status=problem.status, media_type=CONTENT_TYPE, headers=tuple(headers.items()))
    if problem.code in CLOSING:
        response.force_close()
    return response


@lru_cache(maxsize=1024)
def _sold_out(detail: str) -> str:
    return wire.encode(describe(errors.SoldOut(detail))[0]).decode().removesuffix("}")


def malformed(called: Identity) -> Answer:
    """The answer to what is no HTTP at all. It repeats nothing of what was sent."""
    error = HttpError("malformed_request", "The request is not valid HTTP, or a line of its head is too long.")
    return answer(error, called)


def crowded(called: Identity) -> Answer:
    """The answer to a connection that there is no room for."""
    error = errors.Unavailable("This process holds as many connections as it can; nothing was done.")
    return answer(error, called)


def failed(called: Identity) -> Answer:
    """The answer to a request that failed outside of its handler."""
    return answer(internal(), called)


def internal() -> HttpError:
    """A defect of ours; what it was stands in the log alone."""
    return HttpError("internal", "The service failed at this request; the operator's log says why.")
