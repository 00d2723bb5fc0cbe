"""The one place where an error becomes an HTTP answer: RFC 9457 problem details with a stable `code`."""

from collections.abc import Mapping

from service import errors, wire
from service.lean import Answer

CONTENT_TYPE = "application/problem+json"

# Where the docs explain a code; a reference relative to the service, RFC 9457 section 3.1.1.
TYPE_BASE = "/docs/errors#"

# code → status, title. Every code a client may meet; the docs list them from here.
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "malformed_body": (400, "The body cannot be read"),
    "malformed_request": (400, "The request is not valid HTTP"),
    "staff_only": (401, "This is for the box office"),
    "wrong_phone": (403, "Wrong phone number"),
    "protected_mode": (403, "Refused in protected mode"),
    "cross_site": (403, "Sent by another web site"),
    "route_not_found": (404, "No such route"),
    "theatre_not_found": (404, "No such theatre"),
    "showtime_not_found": (404, "No such showtime"),
    "ticket_not_found": (404, "No such ticket"),
    "method_not_allowed": (405, "Method not allowed"),
    "body_timeout": (408, "The body took too long"),
    "sold_out": (409, "Sold out"),
    "showtime_closed": (409, "Not open for booking"),
    "already_admitted": (409, "Already admitted"),
    "booking_cancelled": (409, "The booking was cancelled"),
    "ticket_expired": (410, "The ticket has expired"),
    "body_too_large": (413, "The body is too large"),
    "unsupported_media_type": (415, "Unsupported media type"),
    "invalid_input": (422, "Missing or invalid fields"),
    "idempotency_key_reused": (422, "Idempotency-Key used again"),
    "too_many_guesses": (429, "Too many wrong staff tokens"),
    "internal": (500, "Something went wrong in the service"),
    "unavailable": (503, "Unavailable: nothing was done"),
    "outcome_unknown": (503, "Outcome unknown"),
    "too_many_listeners": (503, "Too many listeners"),
}

# After these the rest of the body is still on its way; it is thrown away, for 10 s at most, and the connection closed.
CLOSING = frozenset({"body_timeout", "body_too_large"})


class HttpError(errors.MatineeError):
    """An error of HTTP itself, which the domain knows nothing of; `code` is one of PROBLEMS."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.problem_code = code
        self.headers = headers or {}


def describe(error: errors.MatineeError) -> tuple[wire.Problem, dict[str, str]]:
    """What HTTP says of an error, and the headers that go with it."""
    code = error.problem_code if isinstance(error, HttpError) else error.code
    status, title = PROBLEMS[code]
    problem = wire.Problem(TYPE_BASE + code, title, status, error.detail, code)
    headers = {"Cache-Control": "no-store"}
    match error:
        case HttpError():
            headers.update(error.headers)
        case errors.InvalidInput():
            problem.errors = [wire.FieldProblem(bad.field, bad.message) for bad in error.errors]
        case errors.AlreadyAdmitted():
            problem.admitted_at = error.admitted_at
        case errors.StoreTrouble():
            headers["Retry-After"] = str(error.retry_after_s)
            if isinstance(error, errors.OutcomeUnknown):
                problem.ticket_id = error.ticket_id
    return problem, headers


def answer(error: errors.MatineeError) -> Answer:
    """The answer that tells a program of an error."""
    problem, headers = describe(error)
    body = wire.encode(problem)
    response = Answer(body, status=problem.status, media_type=CONTENT_TYPE, headers=tuple(headers.items()))
    if problem.code in CLOSING:
        response.force_close()
    return response


def malformed() -> Answer:
    """The answer to what is no HTTP at all. It repeats nothing of what was sent."""
    return answer(HttpError("malformed_request", "The request is not valid HTTP, or a line of its head is too long."))


def crowded() -> Answer:
    """The answer to a connection that there is no room for."""
    return answer(errors.Unavailable("This process holds as many connections as it can; nothing was done."))


def internal() -> HttpError:
    """A defect of ours; what it was stands in the log alone."""
    return HttpError("internal", "The service failed at this request; the operator's log says why.")
