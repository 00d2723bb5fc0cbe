"""What the clients of a run asked for and were told, with times: a history."""

from typing import Literal

import msgspec

Kind = Literal["book", "move", "cancel", "view", "seats"]
Outcome = Literal["done", "refused", "unknown"]


class Call(msgspec.Struct):
    """One request and what came of it.

    `showtime` is the one booked, moved to, cancelled at, or looked at; `left` the one a move leaves. `sent` and
    `answered` are seconds of one monotonic clock; for a request that was repeated with its Idempotency-Key, the first
    sending and the last answer; `longest_s` is the longest wait for one of its answers. `versions` are those that a
    change gave its showtimes, `seen` is how many seats an answer said are booked, `told` the name and showtime that
    it gave for a ticket.
    """

    kind: Kind
    showtime: str
    sent: float
    ticket_id: str | None = None
    left: str | None = None
    name: str = ""
    phone: str = ""
    answered: float = float("inf")
    longest_s: float = 0.0
    outcome: Outcome = "unknown"
    code: str = ""
    versions: dict[str, int] = msgspec.field(default_factory=dict)
    seen: int | None = None
    told: str = ""

    @property
    def changes(self) -> bool:
        """Whether it asked for a change of seats."""
        return self.kind in {"book", "move", "cancel"}
