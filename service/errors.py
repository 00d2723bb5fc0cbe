"""The domain's errors, each with a stable code.

MatineeError
├── InvalidInput            one or more bad fields
├── NotFound
│   ├── TheatreNotFound
│   ├── ShowtimeNotFound
│   └── TicketNotFound
├── IdempotencyKeyReused    the key came with another request before
├── WrongPhone              the phone is not the one the ticket was booked with
├── Conflict
│   ├── SoldOut
│   ├── ShowtimeClosed
│   ├── AlreadyAdmitted
│   └── BookingCancelled    what an Idempotency-Key had booked was cancelled since
├── TicketExpired
└── StoreTrouble
    ├── Unavailable         Redis is away, too slow or overloaded; nothing was done
    └── OutcomeUnknown      the command had gone out and no answer came back

What HTTP makes of them is in `problems.py` alone.
"""

from typing import ClassVar

import msgspec


class FieldError(msgspec.Struct, frozen=True):
    """One bad field of a request, and what would be right."""

    field: str
    message: str


class MatineeError(Exception):
    """The root: a stable `code` for programs, a `detail` for people (never a name, a phone or a secret)."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class InvalidInput(MatineeError):
    """One or more fields are missing or wrong; names every one at once."""

    code = "invalid_input"

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


class NotFound(MatineeError):
    """What the caller named does not exist."""


class TheatreNotFound(NotFound):
    """No theatre of that id is in the programme."""

    code = "theatre_not_found"


class ShowtimeNotFound(NotFound):
    """The theatre has no such showtime."""

    code = "showtime_not_found"


class TicketNotFound(NotFound):
    """The ticket never existed, was cancelled, or is long forgotten."""

    code = "ticket_not_found"


class IdempotencyKeyReused(MatineeError):
    """The Idempotency-Key was used before for a request with another body."""

    code = "idempotency_key_reused"


class WrongPhone(MatineeError):
    """The phone given is not the one the ticket was booked with, or none was given where it is needed."""

    code = "wrong_phone"


class Conflict(MatineeError):
    """The request is fine, but the state of things does not allow it."""


class SoldOut(Conflict):
    """No seat is left at the showtime."""

    code = "sold_out"


class ShowtimeClosed(Conflict):
    """The showtime has started, or is beyond the booking horizon."""

    code = "showtime_closed"


class AlreadyAdmitted(Conflict):
    """The ticket was used at the door; `admitted_at` is when, RFC 3339."""

    code = "already_admitted"

    def __init__(self, detail: str, admitted_at: str) -> None:
        super().__init__(detail)
        self.admitted_at = admitted_at


class BookingCancelled(Conflict):
    """The request repeats a booking that was made and has been cancelled since; it books nothing."""

    code = "booking_cancelled"


class TicketExpired(MatineeError):
    """The ticket existed; its time is over and its personal data deleted."""

    code = "ticket_expired"


class StoreTrouble(MatineeError):
    """Redis did not answer as it should; worth a retry."""


class Unavailable(StoreTrouble):
    """Nothing was done: Redis is away, too slow, overloaded, or refused the command."""

    code = "unavailable"


class OutcomeUnknown(StoreTrouble):
    """The command had gone out and no answer came back. `ticket_id` is set once the caller is known to hold it."""

    code = "outcome_unknown"

    def __init__(self, detail: str, ticket_id: str | None = None) -> None:
        super().__init__(detail)
        self.ticket_id = ticket_id
