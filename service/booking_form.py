"""The call of `book.lua` at a moment, packed once for all theatres: what is left to do is to fill in the ticket."""

from service.keys import showtime_keys, ticket_key
from service.model import Moment
from service.scripts import BOOK

_ID = "%b"  # where a theatre's or a ticket's id stands in a key, and later in the form
_BLANK = b"$%d\r\n%b\r\n"


class BookingForm:
    """A booking without an idempotency key at some moment, with blanks.

    All theatres of a zone share it, so it costs the same to book in a chain, where hardly two bookings in a row are of
    the same showtime. To pack the fifteen words of a booking costs hiredis 1.2 µs, to fill in the form 0.5 µs.
    """

    __slots__ = ("_counters", "_ids", "_template", "_ticket")

    def __init__(self, moment: Moment) -> None:
        counters, ids = showtime_keys(_ID, moment.label)
        ticket = ticket_key(_ID, _ID)
        self._counters, self._ids, self._ticket = (len(key.replace(_ID, "")) for key in (counters, ids, ticket))
        written = (moment.starts_ms, moment.expires_ms, moment.forgotten_ms, moment.zone)
        # As the arguments of the script are in its head. The protocol: the length of each word in bytes, then the word
        # (https://redis.io/docs/latest/develop/reference/protocol-spec/).
        self._template = b"".join(
            (
                b"*15\r\n",
                *map(_packed, ("EVALSHA", BOOK.sha, "3")),
                *(b"$%%d\r\n%b\r\n" % key.encode() for key in (counters, ids, ticket)),
                _BLANK * 3,  # ticket id, name, phone
                _packed(moment.stored),
                _BLANK,  # capacity
                *(_packed(str(word)) for word in written),
            )
        )

    def fill(self, theatre_id: str, capacity: int, ticket_id: str, name: str, phone: str) -> bytes:
        """The call."""
        theatre, ticket, of, by, seats = (
            theatre_id.encode(),
            ticket_id.encode(),
            name.encode(),
            phone.encode(),
            b"%d" % capacity,
        )
        at, it = len(theatre), len(ticket)
        return self._template % (
            self._counters + at,
            theatre,
            self._ids + at,
            theatre,
            self._ticket + at + it,
            theatre,
            ticket,
            it,
            ticket,
            len(of),
            of,
            len(by),
            by,
            len(seats),
            seats,
        )


def _packed(word: str) -> bytes:
    written = word.encode()
    return b"$%d\r\n%b\r\n" % (len(written), written.replace(b"%", b"%%"))
