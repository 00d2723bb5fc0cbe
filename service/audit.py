"""Reads a whole database while it is used, and tells where its counters, ids, tickets and expiries disagree.

    report = audit(client, programme)
    print(report.line)

Of the service it uses the names and lifetimes of the keys and none of the code that books: a check built on what it
checks would share its mistakes. It reads no name and no phone.

The keys come by SCAN, some hundreds at a time, and what belongs together is read in one round trip. Others change it
meanwhile, so what looks wrong is read again in one transaction before it is reported: then it was so at one moment.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeGuard

import msgspec
import redis
from redis.client import Pipeline

from service import fields
from service.keys import (
    CANCELLED_LIFE_MS,
    IDEMPOTENCY_LIFE_MS,
    idempotency_key,
    showtime_keys,
    spread,
    ticket_key,
)
from service.model import FORGOTTEN_AFTER_MS, Showtime, compact, former
from service.programme import Programme
from service.settings import timezone_from

KEYS_AT_ONCE = 500
PAGES_AT_ONCE = 50
LOOKS = 5  # at a ticket that keeps being moved while it is looked for
NEVER, GONE = -1, -2  # what PEXPIRETIME says of a key that stays, and of one that is not there

# A ticket's life is a setting in whole seconds, up to a year. It may have been another when the ticket was booked.
LIFE_STEP_MS = 1000
LIFE_MAX_MS = 365 * 24 * 3_600_000
# A cluster that moves a slot key by key sends the time that each key has left; the way there is added to it.
DRIFT_MS = 400

_KEY = re.compile(
    r"\{(?P<theatre>[a-z0-9-]+)\}:"
    r"(?:showtime:(?P<showtime>[0-9]{8}T[0-9]{4})(?::tickets)?|(?P<kind>ticket|idempotency):(?P<rest>[A-Za-z0-9-]+))"
)
_DIGEST = re.compile("[0-9a-f]{32}")
_RECORD = re.compile(rb"(\S+) [0-9a-f]{32}")
_TICKET_FIELDS = {b"name", b"phone", b"showtime", b"booked_at"}
_TOMBSTONE_FIELDS = {b"cancelled", b"version"}


class Expiry(msgspec.Struct, frozen=True):
    """When a key should be deleted, and when it would be as it was seen (-1: never). Milliseconds since 1970."""

    key: str
    at_ms: int
    seen_ms: int


class Disagreement(msgspec.Struct, frozen=True):
    """One thing that is wrong: `where` is a key or the id of a ticket, `what` is what was found there.

    What a repair may do about it, where that is safe: `lists` a ticket at the showtime `page` that its hash names,
    `unlists` an id there, count the ids of `page` anew, or set an expiry.
    """

    where: str
    what: str
    page: str | None = None
    lists: str | None = None
    unlists: str | None = None
    expiry: Expiry | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class Report(msgspec.Struct, frozen=True):
    """How much was read, every disagreement found in it, and what is remarkable without being wrong."""

    keys: int
    showtimes: int
    tickets: int
    disagreements: list[Disagreement]
    remarks: list[str] = []

    @property
    def line(self) -> str:
        """The report in one line."""
        read = f"{self.showtimes:,} showtimes, {self.tickets:,} tickets"
        return f"books: {read}: {len(self.disagreements):,} disagreements"


class _Ticket(msgspec.Struct, frozen=True):
    """What is stored under a ticket's key: which fields, some of them, and until when (-2: nothing is there)."""

    ticket_id: str
    fields: frozenset[bytes]
    showtime: str | None
    booked_at: bytes | None
    expires_ms: int

    @property
    def is_gone(self) -> bool:
        return self.expires_ms == GONE

    @property
    def is_tombstone(self) -> bool:
        return self.fields == _TOMBSTONE_FIELDS

    @property
    def is_ticket(self) -> bool:
        return self.fields >= _TICKET_FIELDS


class _Page(msgspec.Struct, frozen=True):
    """All that is stored about one showtime: counters, ids with their versions, and what is stored under each id."""

    key: str
    theatre: str
    label: str
    booked: bytes | None
    version: bytes | None
    forgotten: bytes | None
    zone: bytes | None
    expires_ms: int
    ids_expire_ms: int
    ids: dict[str, int]
    tickets: dict[str, _Ticket]
    now_ms: int

    @property
    def last_expiry_ms(self) -> int | None:
        """When the last of its tickets expires, as it says itself."""
        forgotten_ms = _number(self.forgotten)
        return None if forgotten_ms is None else forgotten_ms - FORGOTTEN_AFTER_MS


def audit(
    client: redis.Redis,
    programme: Programme,
    *,
    progress: Callable[[int, int], object] = lambda _read, _found: None,
    seen: Callable[[str, str], object] = lambda _ticket_id, _showtime: None,
) -> Report:
    """Read the whole database of one server. `client` answers in bytes (redis-py's default).

    `progress` hears now and then how many keys were read and how many disagreements found; `seen` hears of each
    live ticket and of the key of the showtime that lists it. Raises redis.RedisError where the server can't be read,
    or moves its keys to another node of a cluster meanwhile.
    """
    reader = _Reader(client, programme, seen)
    keys = iter(client.scan_iter(count=KEYS_AT_ONCE))
    read = 0
    while batch := [_text(key) for key in islice(keys, KEYS_AT_ONCE)]:
        reader.read(batch)
        read += len(batch)
        progress(read, len(reader.found))
    return Report(read, len(reader.pages), reader.tickets, list(reader.found), reader.remarks())


class _Reader:
    """Reads batches of keys and notes what it finds; SCAN may name a key twice."""

    def __init__(self, client: redis.Redis, programme: Programme, seen: Callable[[str, str], object]) -> None:
        self._client = client
        self._programme = programme
        self._seen = seen
        self._drift_ms = DRIFT_MS if client.info("cluster").get("cluster_enabled") else 0
        self.pages: set[tuple[str, str]] = set()  # theatre and label
        self.tickets = 0
        self.found: dict[Disagreement, None] = {}  # each once, in the order in which they were found
        self._former: set[str] = set()  # theatres that have left the programme
        self._other_lives = 0

    def read(self, keys: Iterable[str]) -> None:
        """Look at these keys, and at all that belongs to their showtimes."""
        pages: list[tuple[str, str]] = []
        tickets: list[tuple[str, str]] = []
        records: list[tuple[str, str]] = []
        for key in keys:
            match = _KEY.fullmatch(key)
            if match is None:
                self._note(Disagreement(_shown(key), "no key of Matinee"))
                continue
            theatre = match["theatre"]
            if theatre not in self._programme.theatres:
                self._former.add(theatre)
            if match["showtime"]:
                page = theatre, spread(match["showtime"])
                if page not in self.pages:
                    self.pages.add(page)
                    pages.append(page)
            else:
                (tickets if match["kind"] == "ticket" else records).append((theatre, match["rest"]))
        for some in _batches(pages, PAGES_AT_ONCE):
            self._read_pages(some)
        self._read_tickets(tickets)
        self._read_records(records)

    def remarks(self) -> list[str]:
        """What is remarkable without being wrong."""
        remarks = []
        if self._other_lives:
            remarks.append(f"{self._other_lives:,} tickets were booked while MATINEE_TICKET_LIFE was another")
        if self._former:
            remarks.append(f"theatres that are not in the programme: {', '.join(sorted(self._former)[:20])}")
        return remarks

    def _note(self, *disagreements: Disagreement) -> None:
        self.found.update(dict.fromkeys(disagreements))

    def _ask(self, ask: Callable[[Pipeline], object], *, atomic: bool = False) -> Iterator[Any]:
        """The replies to all that `ask` puts into a pipeline; an error stands in the place of its reply.

        But the errors of a cluster that moves keys are raised: what a node says then is half of it.
        """
        with self._client.pipeline(transaction=atomic) as pipe:
            ask(pipe)
            replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, redis.exceptions.AskError):  # MovedError is one too
                raise reply
        return iter(replies)

    # Showtimes: counters, ids and the tickets that they name.

    def _read_pages(self, pages: Sequence[tuple[str, str]]) -> None:
        replies = self._ask(lambda pipe: [pipe.zrange(showtime_keys(*page)[1], 0, -1) for page in pages])
        ids = [_texts(reply) for reply in replies]

        def ask(pipe: Pipeline) -> None:
            for which, listed in zip(pages, ids, strict=True):
                _ask_page(pipe, which, listed)

        replies = self._ask(ask)
        for which, listed in zip(pages, ids, strict=True):
            page = _page(which, listed, replies, self._drift_ms)
            if isinstance(page, _Page) and self._wrong_with(page):
                # Perhaps only because others booked between two replies: once more, all of it at one moment.
                again = self._ask(functools.partial(_ask_page, page=which, ids=page.ids), atomic=True)
                page = _page(which, page.ids, again, self._drift_ms)
            if isinstance(page, Disagreement):
                self._note(page)
            else:
                self._note(*self._wrong_with(page))
                self._count(page)

    def _wrong_with(self, page: _Page) -> list[Disagreement]:
        return list(_wrong_on_page(page, self._showtime(page.theatre, page.label, page.zone)))

    def _count(self, page: _Page) -> None:
        showtime = self._showtime(page.theatre, page.label, page.zone)
        for ticket in page.tickets.values():
            if ticket.is_ticket and ticket.ticket_id in page.ids and ticket.showtime == compact(page.label):
                self.tickets += 1
                self._seen(ticket.ticket_id, page.key)
                if showtime is not None and ticket.expires_ms != showtime.moment.expires_ms:
                    self._other_lives += 1

    def _showtime(self, theatre_id: str, label: str, zone: bytes | None = None) -> Showtime | None:
        """What the programme says of it, or its time zone where its theatre has left; None where neither tells."""
        try:
            theatre = self._programme.theatres.get(theatre_id) or former(theatre_id, timezone_from(_text(zone or b"")))
            return self._programme.showtime(theatre, label)
        except ValueError:
            return None

    # Tickets: each is listed by the showtime that it names. What else there is to say of it, its page says.

    def _read_tickets(self, tickets: Sequence[tuple[str, str]]) -> None:
        def ask(pipe: Pipeline) -> None:
            for which in tickets:
                _ask_ticket(pipe, *which)
            pipe.time()

        replies = self._ask(ask)
        stored = [(which, _ticket(*which, replies, self._drift_ms)) for which in tickets]
        now_ms = self._latest_now_ms(next(replies))
        named = [(which, _ids_key(which[0], ticket)) for which, ticket in stored if _is_whole(ticket)]
        scores = self._ask(lambda pipe: [pipe.zscore(ids_key, which[1]) for which, ids_key in named])
        listed = {which for (which, _), score in zip(named, scores, strict=True) if isinstance(score, float)}
        for which, ticket in stored:
            if which not in listed and not _is_fine_tombstone(ticket, now_ms):
                self._judge_ticket(which, ticket)

    def _judge_ticket(self, which: tuple[str, str], ticket: _Ticket | Disagreement) -> None:
        """Note what is wrong with a ticket that looks unlisted, with a tombstone, and with what is neither."""
        for _ in range(LOOKS):
            if isinstance(ticket, Disagreement):
                self._note(ticket)
                return
            ids_key = _ids_key(which[0], ticket)
            replies = self._ask(functools.partial(_ask_ticket_and_place, which=which, ids_key=ids_key), atomic=True)
            again = _ticket(*which, replies, self._drift_ms)
            is_listed, now_ms = isinstance(next(replies), float), self._latest_now_ms(next(replies))
            if isinstance(again, _Ticket) and again.showtime == ticket.showtime:
                if not (again.is_gone or is_listed):
                    label = spread(again.showtime) if again.showtime else ""
                    self._note(*_wrong_alone(*which, again, self._showtime(which[0], label), now_ms))
                return
            ticket = again  # moved, cancelled or expired meanwhile

    def _latest_now_ms(self, reply: Any) -> int:
        """The moment to count lives from that begin when something is done: as late as a drift makes them end."""
        return _milliseconds(reply) + self._drift_ms

    # Idempotency records.

    def _read_records(self, records: Sequence[tuple[str, str]]) -> None:
        keys = [idempotency_key(*record) for record in records]

        def ask(pipe: Pipeline) -> None:
            for key in keys:
                pipe.get(key)
                pipe.pexpiretime(key)
            pipe.time()

        replies = list(self._ask(ask))
        now_ms = self._latest_now_ms(replies.pop())
        for number, (theatre, digest) in enumerate(records):
            stored, expires_ms = replies[2 * number : 2 * number + 2]
            self._note(*_wrong_record(theatre, digest, stored, expires_ms, now_ms))


# What to ask, and how to read the replies.


def _ask_page(pipe: Pipeline, page: tuple[str, str], ids: Iterable[str]) -> None:
    key, ids_key = showtime_keys(*page)
    pipe.hmget(key, ["booked", "version", "forgotten", "zone"])
    pipe.pexpiretime(key)
    pipe.pexpiretime(ids_key)
    pipe.zrange(ids_key, 0, -1, withscores=True)
    for ticket_id in ids:
        _ask_ticket(pipe, page[0], ticket_id)
    pipe.time()


def _page(page: tuple[str, str], ids: Iterable[str], replies: Iterator[Any], drift_ms: int) -> _Page | Disagreement:
    theatre, label = page
    key, ids_key = showtime_keys(theatre, label)
    counters, expires_ms, ids_expire_ms, listed = islice(replies, 4)
    stored = [_ticket(theatre, ticket_id, replies, drift_ms) for ticket_id in ids]
    now_ms = _milliseconds(next(replies))
    for where, reply in ((key, counters), (ids_key, listed)):
        if isinstance(reply, redis.ResponseError):
            return Disagreement(where, f"cannot be read: {reply}")
    versions = {_text(member): int(score) for member, score in listed}
    tickets = {ticket.ticket_id: ticket for ticket in stored if isinstance(ticket, _Ticket)}
    booked, version, forgotten, zone = counters
    counted = (booked, version, forgotten, zone)
    expiries = _set_to(expires_ms, drift_ms), _set_to(ids_expire_ms, drift_ms)
    return _Page(key, theatre, label, *counted, *expiries, versions, tickets, now_ms)


def _ask_ticket(pipe: Pipeline, theatre: str, ticket_id: str) -> None:
    key = ticket_key(theatre, ticket_id)
    pipe.hkeys(key)
    pipe.hmget(key, ["showtime", "booked_at"])
    pipe.pexpiretime(key)


def _ask_ticket_and_place(pipe: Pipeline, which: tuple[str, str], ids_key: str) -> None:
    _ask_ticket(pipe, *which)
    pipe.zscore(ids_key, which[1])
    pipe.time()


def _ticket(theatre: str, ticket_id: str, replies: Iterator[Any], drift_ms: int) -> _Ticket | Disagreement:
    fields, facts, expires_ms = islice(replies, 3)
    if isinstance(fields, redis.ResponseError) or isinstance(facts, redis.ResponseError):
        return Disagreement(_shown(ticket_key(theatre, ticket_id)), f"cannot be read: {fields}")
    showtime, booked_at = facts
    if showtime is not None:  # a tombstone's life begins at any millisecond
        expires_ms = _set_to(expires_ms, drift_ms)
    return _Ticket(ticket_id, frozenset(fields), showtime and _text(showtime), booked_at, expires_ms)


def _set_to(expires_ms: int, drift_ms: int) -> int:
    """What a key's expiry was set to, a whole second, where it has drifted by no more than this."""
    nearest_ms = round(expires_ms / LIFE_STEP_MS) * LIFE_STEP_MS
    return nearest_ms if abs(expires_ms - nearest_ms) <= drift_ms and expires_ms > 0 else expires_ms


def _ids_key(theatre: str, ticket: _Ticket) -> str:
    return f"{{{theatre}}}:showtime:{ticket.showtime}:tickets"


def _is_whole(ticket: _Ticket | Disagreement) -> TypeGuard[_Ticket]:
    return isinstance(ticket, _Ticket) and ticket.is_ticket


def _is_fine_tombstone(ticket: _Ticket | Disagreement, now_ms: int) -> bool:
    return isinstance(ticket, _Ticket) and ticket.is_tombstone and 0 < ticket.expires_ms <= now_ms + CANCELLED_LIFE_MS


def _milliseconds(time: tuple[int, int]) -> int:
    return int(time[0]) * 1000 + int(time[1]) // 1000


# What is wrong.


def _wrong_on_page(page: _Page, showtime: Showtime | None) -> Iterator[Disagreement]:
    if page.expires_ms == GONE and not page.ids:
        return  # forgotten meanwhile
    booked, version = _number(page.booked), _number(page.version)
    taken = max(booked or 0, len(page.ids))  # a counter too low must not hide a seat sold twice
    if showtime is not None and showtime.theatre.timings and taken > showtime.theatre.capacity:
        yield Disagreement(page.key, f"{taken} seats taken, over the capacity of {showtime.theatre.capacity}")
    if booked is None:
        yield Disagreement(page.key, f"its counter is {_shown(page.booked)}, which is no number", page=page.key)
    elif booked != len(page.ids):
        yield Disagreement(page.key, f"{booked} booked, but {len(page.ids)} ids are listed", page=page.key)
    highest = max(page.ids.values(), default=0)
    if version is None or version < highest:
        what = f"its version is {_shown(page.version)}, but an id was listed at version {highest}"
        yield Disagreement(page.key, what, page=page.key)
    if page.zone is None:
        yield Disagreement(page.key, "its time zone is lost", page=page.key)
    elif not _is_zone(_text(page.zone)):
        yield Disagreement(page.key, f"its time zone is {_shown(page.zone)}, which is none")
    yield from _wrong_expiry_of_page(page, showtime)
    for ticket_id in page.ids:
        if not _is_id(ticket_id, page.theatre):
            yield Disagreement(page.key, f"lists {_shown(ticket_id)}, which is no ticket id of its theatre")
        elif ticket_id in page.tickets:
            yield from _wrong_listing(page, page.tickets[ticket_id], showtime)


def _wrong_listing(page: _Page, ticket: _Ticket, showtime: Showtime | None) -> Iterator[Disagreement]:
    """What is wrong with one id of a page and what is stored under it."""
    ticket_id = ticket.ticket_id
    if ticket.is_tombstone:
        yield Disagreement(ticket_id, f"listed by {page.key}, but cancelled", page=page.key, unlists=ticket_id)
    elif not ticket.is_ticket:
        if page.last_expiry_ms is None or page.now_ms < page.last_expiry_ms:
            yield Disagreement(ticket_id, f"listed by {page.key}, but no such ticket is stored")
    elif ticket.showtime != compact(page.label):
        elsewhere = f"{{{page.theatre}}}:showtime:{_shown(ticket.showtime)}"
        what = f"listed by {page.key}, but stored for {elsewhere}"
        yield Disagreement(ticket_id, what, page=page.key, unlists=ticket_id)
    else:
        yield from _wrong_ticket(page.theatre, ticket, showtime, page.last_expiry_ms)


def _wrong_expiry_of_page(page: _Page, showtime: Showtime | None) -> Iterator[Disagreement]:
    last_expiry_ms = page.last_expiry_ms
    if last_expiry_ms is None:
        yield Disagreement(page.key, f"is forgotten at {_shown(page.forgotten)}, which is no time", page=page.key)
        return
    if showtime is not None and not _is_life(last_expiry_ms - showtime.starts_ms):
        yield Disagreement(page.key, f"is forgotten at {_shown(page.forgotten)}, which no life of tickets gives")
    forgotten_ms = last_expiry_ms + FORGOTTEN_AFTER_MS
    for key, seen_ms in ((page.key, page.expires_ms), (f"{page.key}:tickets", page.ids_expire_ms)):
        if seen_ms not in (forgotten_ms, GONE):
            yield _expiry(key, forgotten_ms, seen_ms)


def _wrong_ticket(
    theatre: str, ticket: _Ticket, showtime: Showtime | None, last_expiry_ms: int | None
) -> Iterator[Disagreement]:
    """A ticket lives some whole seconds after its showtime's start, and no longer than the showtime knows of."""
    if _number(ticket.booked_at) is None:
        what = f"its time of booking is {_shown(ticket.booked_at)}, which is no number"
        yield Disagreement(ticket.ticket_id, what)
    key, expires_ms = ticket_key(theatre, ticket.ticket_id), ticket.expires_ms
    is_too_late = last_expiry_ms is not None and expires_ms > last_expiry_ms
    is_no_life = showtime is not None and not _is_life(expires_ms - showtime.starts_ms)
    if expires_ms != GONE and (expires_ms == NEVER or is_too_late or is_no_life):
        due_ms = last_expiry_ms if showtime is None else showtime.moment.expires_ms
        if due_ms is None:
            yield Disagreement(key, "never expires")
        else:
            yield _expiry(key, due_ms if last_expiry_ms is None else min(due_ms, last_expiry_ms), expires_ms)


def _wrong_alone(
    theatre: str, ticket_id: str, ticket: _Ticket, showtime: Showtime | None, now_ms: int
) -> Iterator[Disagreement]:
    """What is wrong with a ticket that is not listed, with a tombstone, and with what is neither."""
    key = _shown(ticket_key(theatre, ticket_id))
    if not _is_id(ticket_id, theatre):
        yield Disagreement(key, "is no ticket id of its theatre")
    elif ticket.is_ticket:
        page = f"{{{theatre}}}:showtime:{_shown(ticket.showtime)}"
        what = f"stored for {page}, which does not list it"
        yield Disagreement(ticket_id, what, page=page if showtime else None, lists=ticket_id if showtime else None)
        yield from _wrong_ticket(theatre, ticket, showtime, None)
    elif not ticket.is_tombstone:
        yield Disagreement(key, "neither a ticket nor the mark of a cancelled one")
        if ticket.expires_ms == NEVER:
            yield Disagreement(key, "never expires")
    elif not _is_fine_tombstone(ticket, now_ms):
        yield _expiry(key, now_ms + CANCELLED_LIFE_MS, ticket.expires_ms)


def _wrong_record(theatre: str, digest: str, stored: Any, expires_ms: int, now_ms: int) -> Iterator[Disagreement]:
    """What is wrong with an idempotency record; nothing with one that expired between two replies."""
    key = _shown(idempotency_key(theatre, digest))
    if expires_ms == GONE:
        return
    if isinstance(stored, redis.ResponseError):
        yield Disagreement(key, f"cannot be read: {stored}")
        return
    record = _RECORD.fullmatch(stored or b"")
    if not _DIGEST.fullmatch(digest) or not record or not _is_id(_text(record[1]), theatre):
        yield Disagreement(key, "is no ticket id with a fingerprint")
    if not 0 < expires_ms <= now_ms + IDEMPOTENCY_LIFE_MS:
        yield _expiry(key, now_ms + IDEMPOTENCY_LIFE_MS, expires_ms)


def _expiry(key: str, at_ms: int, seen_ms: int) -> Disagreement:
    late = "late" if seen_ms > at_ms else "early"
    what = "never expires" if seen_ms == NEVER else f"expires {abs(seen_ms - at_ms):,} ms too {late}"
    return Disagreement(key, what, expiry=Expiry(key, at_ms, seen_ms))


@functools.lru_cache(maxsize=1024)
def _is_zone(name: str) -> bool:
    try:
        return bool(timezone_from(name))
    except ValueError:
        return False


def _is_life(life_ms: int) -> bool:
    return 0 < life_ms <= LIFE_MAX_MS and life_ms % LIFE_STEP_MS == 0


def _is_id(ticket_id: str, theatre: str) -> bool:
    try:
        return fields.ticket_id(ticket_id) == ticket_id and ticket_id.rpartition("-")[0] == theatre
    except ValueError:
        return False


def _number(stored: bytes | None) -> int | None:
    return int(stored) if stored is not None and stored.isdigit() else None


def _texts(reply: Any) -> list[str]:
    """Members, or none of a key that refuses to be read as one with members: its page will say so."""
    return [] if isinstance(reply, redis.ResponseError) else list(map(_text, reply))


def _text(stored: bytes) -> str:
    return stored.decode(errors="backslashreplace")


def _shown(stored: str | bytes | None) -> str:
    """Whatever somebody has put there: printable, and not endless."""
    return ascii(stored[:120] if stored else stored).removeprefix("b").strip("'")


def _batches(items: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    return (items[start : start + size] for start in range(0, len(items), size))
