"""Seats as they change, told to any number of clients at once (server-sent events).

However many clients listen, and however fast tickets are booked: a process asks Redis for the seats of a theatre once
in LOOK_EVERY_S at most, in one script, and only while somebody listens to it. What changed since the last look is
encoded once and written to all. Nothing is kept for a client: one that was away compares the id of the last event it
saw, a fingerprint of the seats, and gets a fresh snapshot where that is no longer the current one. So it may come back
to any process, also after a restart.
"""

import asyncio
import logging
import random
import resource
from collections.abc import Sequence

from service.box_office import BoxOffice
from service.errors import StoreTrouble
from service.model import Availability, ShowtimeStatus, Theatre
from service.wire import ShowtimeAnswer, ShowtimesAnswer, encode, fingerprint

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
HEARTBEAT_S = 15.0  # proxies close a connection on which nothing comes, many after 60 s, some after 30 s
LISTENERS_MAX = 2000  # per process, and at most half of its file descriptors: bookings need some too
UNREAD_MAX = 64 * 1024  # bytes that may wait for a client when the next event comes
AT_ONCE = 50  # clients written to before other requests of the process get their turn, about a millisecond
# How long a client waits before it comes back, spread so that a restart does not bring all of them at once.
RETRY_MS = (1000, 3000)

HEARTBEAT = b":\n\n"


class Listener:
    """A client of a theatre's stream: all its days, or only `date` (`2026-11-25`).

    `known` is the id of the last event it saw. It gets its bytes on `transport`, where `chunked` in the frames of
    HTTP/1.1. `gone` is done once nothing more will come.
    """

    __slots__ = ("_chunked", "_transport", "date", "gone", "is_new", "known")

    def __init__(self, transport: asyncio.Transport, *, chunked: bool, date: str | None, known: str | None) -> None:
        self._transport = transport
        self._chunked = chunked
        self.date = date
        self.known = known
        self.is_new = True
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, text: bytes) -> None:
        """Write some events. A client that has left, or does not read what came before, is given up."""
        transport = self._transport
        if transport.is_closing():
            self.leave()
        elif transport.get_write_buffer_size() > UNREAD_MAX:
            transport.abort()
            self.leave()
        else:
            transport.write(b"%x\r\n%b\r\n" % (len(text), text) if self._chunked else text)

    def leave(self) -> None:
        """Nothing more will come."""
        if not self.gone.done():
            self.gone.set_result(None)

    def notice_a_loss(self) -> None:
        """Leave if the connection is lost: nothing but a look tells."""
        if self._transport.is_closing():
            self.leave()


class Live:
    """The streams of one web process, over all theatres."""

    def __init__(self, box_office: BoxOffice) -> None:
        self._box_office = box_office
        self._feeds: dict[str, _Feed] = {}
        self._ended = False
        self._descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    @property
    def listeners(self) -> int:
        """How many clients listen."""
        return sum(len(feed.listeners) for feed in self._feeds.values())

    @property
    def is_full(self) -> bool:
        """Whether another client would be one too many."""
        return self.listeners >= min(LISTENERS_MAX, self._descriptors // 2)

    async def follow(self, theatre: Theatre, listener: Listener) -> None:
        """Keep a client up to date until it leaves or the process ends.

        It has its first event with the next look; during an outage of Redis nothing but heartbeats.
        """
        if self._ended:
            return
        feed = self._feeds.get(theatre.id)
        if feed is None:
            feed = self._feeds[theatre.id] = _Feed()
            feed.looking = asyncio.create_task(self._keep_looking(theatre, feed))
        feed.listeners.add(listener)
        try:
            await listener.gone
        finally:
            feed.listeners.discard(listener)

    def end(self) -> None:
        """End every stream: the clients come back to another process, or to this one's successor."""
        self._ended = True
        for feed in self._feeds.values():
            feed.looking.cancel()
            for listener in feed.listeners:
                listener.leave()

    async def _keep_looking(self, theatre: Theatre, feed: "_Feed") -> None:
        """Look until nobody listens any more."""
        clock = asyncio.get_running_loop().time
        beats_at = clock() + HEARTBEAT_S
        while feed.listeners:
            try:
                await feed.tell(await self._box_office.coming_showtimes(theatre))
            except StoreTrouble:
                pass  # the pipeline has told; the next look tries again
            except Exception:
                log.exception("the seats of theatre %s could not be told", theatre.id)
            if clock() >= beats_at:
                beats_at = clock() + HEARTBEAT_S
                await feed.send_all(HEARTBEAT)
            await asyncio.sleep(LOOK_EVERY_S)
            for listener in feed.listeners:
                listener.notice_a_loss()
        del self._feeds[theatre.id]


class _Feed:
    """One theatre's listeners, and what they were told last."""

    looking: asyncio.Task[None]

    def __init__(self) -> None:
        self.listeners: set[Listener] = set()
        self._told: dict[str, tuple[int, int, ShowtimeStatus]] = {}

    async def tell(self, seats: Sequence[Availability]) -> None:
        """Send a snapshot to the new listeners, and to the others what has changed."""
        states = {each.showtime.label: (each.version, each.booked, each.status) for each in seats}
        changed = [each for each in seats if self._told.get(each.showtime.label) != states[each.showtime.label]]
        self._told = states
        look = _Look(seats, changed)
        for turn, listener in enumerate(tuple(self.listeners), 1):
            if text := look.text_for(listener):
                listener.send(text)
            if turn % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def send_all(self, text: bytes) -> None:
        """Send the same to every listener."""
        for turn, listener in enumerate(tuple(self.listeners), 1):
            listener.send(text)
            if turn % AT_ONCE == 0:
                await asyncio.sleep(0)


class _Look:
    """What one look found, encoded once for each choice of days that somebody listens to."""

    def __init__(self, seats: Sequence[Availability], changed: Sequence[Availability]) -> None:
        self._seats = seats
        self._changed = changed
        self._ids: dict[str | None, str] = {}
        self._texts: dict[tuple[str | None, bool], bytes] = {}

    def text_for(self, listener: Listener) -> bytes:
        """What to send: nothing where the client knows all. The first time, also when to come back."""
        date = listener.date
        if not listener.is_new:
            return self._text(date, whole=False)
        listener.is_new = False
        retry = b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311  a jitter is no secret
        if listener.known == self._id(date):
            return retry
        return retry + self._text(date, whole=True)

    def _text(self, date: str | None, *, whole: bool) -> bytes:
        text = self._texts.get((date, whole))
        if text is None:
            seats = _on(date, self._seats if whole else self._changed)
            text = self._texts[date, whole] = self._event(date, seats) if whole or seats else b""
        return text

    def _event(self, date: str | None, seats: Sequence[Availability]) -> bytes:
        data = encode(ShowtimesAnswer([ShowtimeAnswer.of(each) for each in seats]))
        return b"id: %b\nevent: seats\ndata: %b\n\n" % (self._id(date).encode(), data)

    def _id(self, date: str | None) -> str:
        if date not in self._ids:
            self._ids[date] = fingerprint(_on(date, self._seats))
        return self._ids[date]


def _on(date: str | None, seats: Sequence[Availability]) -> Sequence[Availability]:
    return seats if date is None else [each for each in seats if each.showtime.label.startswith(date)]
