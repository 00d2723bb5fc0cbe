"""Every key name of the service, and how long what it holds may live.

The theatre's id in braces is the hash tag: all keys of a theatre share a slot of a cluster, so one script may touch
them all.

    {main}:showtime:20261124T1800           hash    booked, version,         until forgotten_ms
                                                    forgotten, zone
    {main}:showtime:20261124T1800:tickets   zset    ticket id → version      until forgotten_ms
    {main}:ticket:<id>                      hash    the ticket               until expires_ms
                                            hash    cancelled, version       CANCELLED_LIFE_MS, after a cancellation
    {main}:idempotency:<digest>             string  ticket id, fingerprint   IDEMPOTENCY_LIFE_MS
"""

from service.model import Showtime, compact

HOUR_MS = 3_600_000

# How long a client may repeat a booking with the same Idempotency-Key (Stripe keeps them 24 h at least).
IDEMPOTENCY_LIFE_MS = 24 * HOUR_MS

# How long a cancelled ticket's tombstone stands: far longer than a command can linger on a dead connection.
CANCELLED_LIFE_MS = HOUR_MS


def spread(showtime: str) -> str:
    """The inverse of `model.compact`."""
    return f"{showtime[:4]}-{showtime[4:6]}-{showtime[6:11]}:{showtime[11:]}"


def seats_key(theatre_id: str, stored: str) -> str:
    """The hash of a showtime's counters; `stored` is `model.compact` of its label."""
    return f"{{{theatre_id}}}:showtime:{stored}"


def showtime_keys(theatre_id: str, label: str) -> tuple[str, str]:
    """Both keys of a showtime: the hash of its counters, and the zset of its ticket ids."""
    key = seats_key(theatre_id, compact(label))
    return key, f"{key}:tickets"


def keys_of(showtime: Showtime) -> tuple[str, str]:
    """`showtime_keys` of a showtime that is at hand."""
    key = seats_key(showtime.theatre.id, showtime.moment.stored)
    return key, f"{key}:tickets"


def ticket_key(theatre_id: str, ticket_id: str) -> str:
    """The hash of one ticket, or the tombstone of a cancelled one."""
    return f"{{{theatre_id}}}:ticket:{ticket_id}"


def idempotency_key(theatre_id: str, digest: str) -> str:
    """What an Idempotency-Key has booked. Only a digest of the client's key is stored."""
    return f"{{{theatre_id}}}:idempotency:{digest}"
