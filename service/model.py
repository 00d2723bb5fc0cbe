"""The nouns of the service: theatre, showtime, ticket, key. Frozen, without behaviour that needs the outside."""

from datetime import datetime
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

TicketStatus = Literal["booked", "admitted", "expired"]
ShowtimeStatus = Literal["open", "sold_out", "closed"]

# How far ahead a showtime can be booked.
HORIZON_MS = 7 * 24 * 3_600_000

# How long a showtime's counter and ids outlive its tickets: they hold nothing personal, and tell expired from unknown.
FORGOTTEN_AFTER_MS = 24 * 3_600_000


def rfc3339(at_ms: int, timezone: ZoneInfo) -> str:
    """RFC 3339 with the zone's offset then, rounded down to the second: `2026-11-24T18:00:00+01:00`."""
    return _second(at_ms // 1000, timezone)


@lru_cache(maxsize=4096)  # a crowd books many tickets within the same second
def _second(at_s: int, timezone: ZoneInfo) -> str:
    return datetime.fromtimestamp(at_s, timezone).isoformat()


@lru_cache(maxsize=4096)
def compact(label: str) -> str:
    """`2026-11-24T18:00` as it stands in keys and ticket hashes: `20261124T1800`."""
    return label.replace("-", "").replace(":", "")


class Theatre(msgspec.Struct, frozen=True):
    """One auditorium: its id (`main`), name, time zone, seats per showtime, and daily timings (`HH:MM`, sorted).

    `films` has the title of the film at each timing that names one. One without timings has left the programme: it
    sells nothing more, and of it only the tickets it sold and the time zone are known.
    """

    id: str
    name: str
    timezone: ZoneInfo
    capacity: int
    timings: tuple[str, ...]
    films: dict[str, str] = {}


def former(theatre_id: str, timezone: ZoneInfo) -> Theatre:
    """A theatre that has left the programme."""
    return Theatre(theatre_id, theatre_id, timezone, capacity=0, timings=())


class Moment(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """A local time in a time zone (`zone`, its name), and what follows from it. All theatres there share it.

    `label` is the local time (`2026-11-24T18:00`), `timing` its clock time, `stored` what stands for it in Redis.
    `starts_ms` is its instant; `expires_ms` is when the tickets of its showtimes, and with them names and phones, are
    deleted; `forgotten_ms` when the showtimes' own keys (counter, ids) are. `starts_at` and `expires_at` are the same
    in RFC 3339 with the zone's offset.
    """

    zone: str
    label: str
    timing: str
    stored: str
    starts_ms: int
    expires_ms: int
    forgotten_ms: int
    starts_at: str
    expires_at: str

    @property
    def is_skipped(self) -> bool:
        """Whether the zone's clock never shows that time, for it is changed then: there is no showtime at it."""
        # An instant reads back as the local time it was made of, unless the clock never showed that time.
        return not self.starts_at.startswith(self.label)


class Showtime(msgspec.Struct, frozen=True, gc=False):
    """A theatre at a moment. It holds nothing of its own, so that a chain's many need not be kept in memory.

    `film` is what the programme shows at that timing now, None where it says nothing.
    """

    theatre: Theatre
    moment: Moment

    @property
    def label(self) -> str:
        """The local time: `2026-11-24T18:00`."""
        return self.moment.label

    @property
    def timing(self) -> str:
        """The clock time: `18:00`."""
        return self.moment.timing

    @property
    def starts_ms(self) -> int:
        """Its start, milliseconds since the epoch."""
        return self.moment.starts_ms

    @property
    def starts_at(self) -> str:
        """The same in RFC 3339."""
        return self.moment.starts_at

    @property
    def film(self) -> str | None:
        """The title of the film."""
        return self.theatre.films.get(self.moment.timing)

    def beyond_horizon(self, now_ms: int) -> bool:
        """Whether it starts too late to be booked yet: more than 7 days (168 h) after `now_ms`."""
        return self.moment.starts_ms - now_ms > HORIZON_MS


class Ticket(msgspec.Struct, frozen=True):
    """One seat at one showtime for one person. An expired ticket keeps its id alone: name, phone and times are None."""

    ticket_id: str
    showtime: Showtime
    name: str | None = None
    phone: str | None = None
    booked_ms: int | None = None
    admitted_ms: int | None = None

    @property
    def status(self) -> TicketStatus:
        """`expired` when the personal data is gone, else `admitted` or `booked`."""
        if self.booked_ms is None:
            return "expired"
        return "booked" if self.admitted_ms is None else "admitted"


class Idempotency(msgspec.Struct, frozen=True):
    """A client's Idempotency-Key: digests of the key itself and of the request that came with it."""

    digest: str
    fingerprint: str


class Availability(msgspec.Struct, frozen=True):
    """The seats of one showtime at `now_ms` on the Redis server's clock; `version` counts its changes.

    Not `on_sale` is one that has left the programme.
    """

    showtime: Showtime
    booked: int
    version: int
    now_ms: int
    on_sale: bool = True

    @property
    def available(self) -> int:
        """Seats left: never negative, also after the capacity was lowered below what is booked."""
        return max(0, self.showtime.theatre.capacity - self.booked)

    @property
    def status(self) -> ShowtimeStatus:
        """`closed` once it has started, beyond the horizon or not on sale, `sold_out` without seats, else `open`."""
        ahead_ms = self.showtime.moment.starts_ms - self.now_ms
        if not self.on_sale or not 0 < ahead_ms <= HORIZON_MS:
            return "closed"
        return "open" if self.available else "sold_out"
