"""The page of a theatre, rendered once for all who look at it at the same time.

To render it takes as long as a dozen bookings. So whoever asks waits for the next rendering, together with all others
who ask meanwhile, and after each one the process turns to other things for nine times as long: renderings never take
more than a tenth of its time, however many look on while seats are sold. All that differs between two visitors is the
key of their form. It stands at the very end, so that what is before it is compressed once too.
"""

import asyncio
import datetime
import secrets
import zlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from service.box_office import BoxOffice
from service.edge import Form
from service.model import Availability, Theatre
from service.programme import Programme
from service.rendering import Pages, long_date, short_date

REST = 9.0  # times as long as a rendering took
KEPT = 64  # theatres whose page stays in memory
_GAP = "key-of-the-form"


class Day(msgspec.Struct, frozen=True):
    """The showtimes of one date (`2026-11-24`): `title` is `Today`, `Tomorrow` or the day of the week."""

    date: str
    title: str
    subtitle: str
    showtimes: list[Availability]

    @property
    def left(self) -> int:
        """Seats that can still be booked on that day."""
        return sum(seats.available for seats in self.showtimes)


class Fronts:
    """The pages of all theatres."""

    def __init__(self, box_office: BoxOffice, programme: Programme, pages: Pages) -> None:
        self._box_office = box_office
        self._pages = pages
        self._several = len(programme.theatres) > 1
        self._rests_until = 0.0
        self._of = lru_cache(maxsize=KEPT)(lambda theatre_id: _Front(programme.theatres[theatre_id]))

    async def page(self, theatre: Theatre, *, packed: bool) -> bytes:
        """The page as it is now, with a key of its own in its form; by gzip if `packed`. Raises Unavailable."""
        front = self._of(theatre.id)
        if front.coming is None:
            front.coming = asyncio.create_task(self._next(front))
        beginning, end = await asyncio.shield(front.coming)
        end = new_key().encode() + end
        return beginning.packed_with(end) if packed else beginning.text + end

    def render(self, theatre: Theatre, days: list[Day], form: Form, key: str) -> bytes:
        """The page with what was written in its form, and what was wrong with that."""
        timing = form.written.get("timing", "")
        chosen = [each for day in days for each in day.showtimes if each.showtime.label == timing and each.available]
        return self._pages.render(
            "front.html",
            theatre=theatre,
            several=self._several,
            days=days,
            chosen=chosen[0] if chosen else None,
            written={name: form.written.get(name, "") for name in ("timing", "name", "phone")},
            errors=form.errors,
            key=key,
        )

    async def _next(self, front: "_Front") -> tuple["_Beginning", bytes]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._rests_until - loop.time())
        front.coming = None  # who asks from here on may know of seats that this one will not show
        seats = await self._box_office.coming_showtimes(front.theatre)
        days = coming_days(seats)
        state = [(day.date, day.title, [(each.version, each.available) for each in day.showtimes]) for day in days]
        if state != front.state:
            began = loop.time()
            beginning, _, end = self.render(front.theatre, days, Form({}), _GAP).partition(_GAP.encode())
            front.state, front.page = state, (_Beginning(beginning), end)
            self._rests_until = loop.time() + REST * (loop.time() - began)
        return front.page


class _Front:
    """A theatre's page in two pieces, what it shows, and the next one if somebody waits for it."""

    def __init__(self, theatre: Theatre) -> None:
        self.theatre = theatre
        self.state: list[Any] | None = None
        self.page = (_Beginning(b""), b"")
        self.coming: asyncio.Task[tuple[_Beginning, bytes]] | None = None


class _Beginning:
    """The beginning of texts, compressed once for all of them."""

    def __init__(self, text: bytes) -> None:
        compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)  # with the head of gzip (RFC 1952)
        self.text = text
        self._packed = compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)
        self._checksum = zlib.crc32(text)

    def packed_with(self, end: bytes) -> bytes:
        """The whole text by gzip; its end, of less than 64 KiB, as a last block that is merely stored (RFC 1951)."""
        size = len(end)
        block = b"\1%s%s%s" % (size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), end)
        checksum, length = zlib.crc32(end, self._checksum), len(self.text) + size
        return b"%s%s%s%s" % (self._packed, block, checksum.to_bytes(4, "little"), length.to_bytes(4, "little"))


def new_key() -> str:
    """Names a form, so that it books once, however often it is sent."""
    return secrets.token_urlsafe(18)


def coming_days(seats: Sequence[Availability]) -> list[Day]:
    """What can be booked or has just sold out, by the day."""
    upcoming = [each for each in seats if each.status != "closed"]
    if not upcoming:
        return []
    first = upcoming[0]
    today = datetime.datetime.fromtimestamp(first.now_ms / 1000, first.showtime.theatre.timezone).date()
    near = {today.isoformat(): "Today", (today + datetime.timedelta(days=1)).isoformat(): "Tomorrow"}
    days = []
    for date, group in groupby(upcoming, key=lambda each: each.showtime.label[: len("2026-11-24")]):
        weekday, _, day_and_month = long_date(date).partition(", ")
        title = near.get(date)
        days.append(Day(date, title or weekday, day_and_month if title is None else short_date(date), list(group)))
    return days
