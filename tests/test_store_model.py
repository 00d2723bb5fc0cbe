"""The whole store against a model of a page: any sequence of calls, and hours that pass in between.

Hypothesis makes up the sequences and, where one goes wrong, the shortest that does. On fakeredis the clock is the
test's, so tickets expire and showtimes are forgotten in them; on the real Valkey, fewer and without that, it is the
same machine. How many are tried is bounded below, so that both together take some seconds.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from redis.asyncio import ConnectionPool
from server_clock import ServerClock, server_clock
from small_theatre import DAY_MS, HOUR_MS, MAIN, Call, opened_house

from service.errors import (
    AlreadyAdmitted,
    IdempotencyKeyReused,
    MatineeError,
    ShowtimeClosed,
    SoldOut,
    TicketExpired,
    TicketNotFound,
)
from service.model import Idempotency, Showtime, Ticket
from service.scripts import BOOK
from service.store import Booked, Changed, Found, Moved, Replayed


@dataclass
class Seats:
    """What the model knows of a showtime: its version, and by ticket id the version that put it there."""

    showtime: Showtime
    version: int = 0
    ids: dict[str, int] = field(default_factory=dict)


@dataclass
class Model:
    """A box office with a notebook: what the store should be, in plain Python. It raises what the store raises."""

    now_ms: int
    seats: dict[str, Seats]
    capacity: int = 0
    tickets: dict[str, Found] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)  # by moved ticket: the version its last move made where it was
    tombstones: dict[str, tuple[int, int]] = field(default_factory=dict)  # version, until when
    keys: dict[str, tuple[str, str, int]] = field(default_factory=dict)  # ticket id, fingerprint, until when

    def book(self, ticket_id: str, showtime: Showtime, name: str, phone: str, wish: Idempotency | None) -> Any:
        if wish and wish.digest in self.keys:
            first, fingerprint, _ = self.keys[wish.digest]
            if fingerprint != wish.fingerprint:
                raise IdempotencyKeyReused("")
            return Replayed(first)
        if self.now_ms >= showtime.starts_ms:
            raise ShowtimeClosed("")
        version = self._seat(showtime, ticket_id)
        self.tickets[ticket_id] = Found(Ticket(ticket_id, showtime, name, phone, self.now_ms), 0)
        if wish:
            self.keys[wish.digest] = ticket_id, wish.fingerprint, self.now_ms + DAY_MS
        return Booked(version, self.now_ms)

    def ticket(self, ticket_id: str) -> Found:
        if ticket_id in self.tickets:
            return self.tickets[ticket_id]
        if any(ticket_id in seats.ids for seats in self.seats.values()):
            raise TicketExpired("")
        raise TicketNotFound("")

    def move(self, seen: Found, to: Showtime) -> Moved:
        ticket_id = seen.ticket.ticket_id
        now = self._living(ticket_id)
        if now.ticket.showtime == to:
            version = self.seats[to.label].ids[ticket_id]
            if seen.ticket.showtime.label == to.label:
                return Moved(version, version)  # it is where it should go
            if now.moves == seen.moves + 1:
                return Moved(self.left[ticket_id], version)  # somebody else who saw the same wanted the same
        if now.moves != seen.moves:
            raise Changed
        self._not_admitted(now)
        if self.now_ms >= min(now.ticket.showtime.starts_ms, to.starts_ms):
            raise ShowtimeClosed("")
        there = self._seat(to, ticket_id)
        self.left[ticket_id] = self._free(now.ticket)
        self.tickets[ticket_id] = Found(replace(now.ticket, showtime=to), now.moves + 1)
        return Moved(self.left[ticket_id], there)

    def cancel(self, seen: Ticket) -> int:
        now = self._living(seen.ticket_id)
        if now.ticket.showtime.label != seen.showtime.label:
            raise Changed
        self._not_admitted(now)
        version = self._free(now.ticket)
        del self.tickets[seen.ticket_id]
        self.tombstones[seen.ticket_id] = version, self.now_ms + HOUR_MS
        return version

    def admit(self, ticket_id: str) -> Ticket:
        now = self._living(ticket_id)
        self._not_admitted(now)
        admitted = replace(now.ticket, admitted_ms=self.now_ms)
        self.tickets[ticket_id] = Found(admitted, now.moves)
        return admitted

    def listed(self, showtime: Showtime) -> list[Ticket]:
        ids = self.seats[showtime.label].ids
        return [self.tickets[each].ticket if each in self.tickets else Ticket(each, showtime) for each in ids]

    def pass_ms(self, by_ms: int) -> None:
        self.now_ms = now_ms = self.now_ms + by_ms
        self.tickets = {
            k: found for k, found in self.tickets.items() if found.ticket.showtime.moment.expires_ms >= now_ms
        }
        self.tombstones = {k: stone for k, stone in self.tombstones.items() if stone[1] >= now_ms}
        self.keys = {k: kept for k, kept in self.keys.items() if kept[2] >= now_ms}
        for seats in self.seats.values():
            if seats.showtime.moment.forgotten_ms < now_ms:
                seats.version, seats.ids = 0, {}

    def change_capacity(self, capacity: int, showtimes: list[Showtime]) -> None:
        self.capacity = capacity
        for showtime in showtimes:
            self.seats[showtime.label].showtime = showtime
        for ticket_id, found in self.tickets.items():
            showtime = self.seats[found.ticket.showtime.label].showtime
            self.tickets[ticket_id] = replace(found, ticket=replace(found.ticket, showtime=showtime))

    def _living(self, ticket_id: str) -> Found:
        if ticket_id not in self.tickets:
            raise TicketNotFound("")
        return self.tickets[ticket_id]

    def _not_admitted(self, found: Found) -> None:
        if found.ticket.admitted_ms is not None:
            raise AlreadyAdmitted("", "")

    def _seat(self, showtime: Showtime, ticket_id: str) -> int:
        seats = self.seats[showtime.label]
        if len(seats.ids) >= self.capacity:
            raise SoldOut("")
        seats.version += 1
        seats.ids[ticket_id] = seats.version
        return seats.version

    def _free(self, ticket: Ticket) -> int:
        seats = self.seats[ticket.showtime.label]
        seats.version += 1
        del seats.ids[ticket.ticket_id]
        return seats.version

    def stored(self) -> dict[str, Any]:
        """What Redis should hold, as `House.everything` tells it."""
        keys: dict[str, Any] = {}
        for seats in self.seats.values():
            key, forgotten_ms = f"{{main}}:showtime:{short(seats.showtime)}", seats.showtime.moment.forgotten_ms
            if seats.version:
                counts = {"booked": len(seats.ids), "version": seats.version, "forgotten": forgotten_ms, "zone": "UTC"}
                keys[key] = fields(counts), forgotten_ms
            if seats.ids:
                ids = [(ticket_id.encode(), float(version)) for ticket_id, version in seats.ids.items()]
                keys[f"{key}:tickets"] = ids, forgotten_ms
        for ticket_id, found in self.tickets.items():
            ticket = found.ticket
            row = {"name": ticket.name, "phone": ticket.phone, "booked_at": ticket.booked_ms}
            row |= {"showtime": short(ticket.showtime)}
            row |= {} if ticket.admitted_ms is None else {"admitted_at": ticket.admitted_ms}
            row |= {"moves": found.moves, "left_version": self.left[ticket_id]} if found.moves else {}
            keys[f"{{main}}:ticket:{ticket_id}"] = fields(row), ticket.showtime.moment.expires_ms
        for ticket_id, (version, until_ms) in self.tombstones.items():
            keys[f"{{main}}:ticket:{ticket_id}"] = fields({"version": version}), until_ms
        for digest, (ticket_id, fingerprint, until_ms) in self.keys.items():
            keys[f"{{main}}:idempotency:{digest}"] = f"{ticket_id} {fingerprint}".encode(), until_ms
        return keys


def short(showtime: Showtime) -> str:
    return showtime.label.replace("-", "").replace(":", "")


def fields(values: dict[str, Any]) -> dict[bytes, bytes]:
    return {name.encode(): str(value).encode() for name, value in values.items()}


ids = Bundle("ids")
which = st.integers(0, 3)
names = st.sampled_from(["Asha Rao", "नूर ज़हाँ", "O'Hara; %s", " "])
wishes = st.builds(
    Idempotency, st.sampled_from(["key-1", "key-2", "key-3"]), st.sampled_from(["wish", "wish", "other"])
)


class StoreMachine(RuleBasedStateMachine):
    """Does everything twice, in the store and in the model, and wants the same result or the same error.

    Without a `url` the server is a fakeredis whose clock is ours.
    """

    def __init__(self, url: str | None = None) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.things = contextlib.AsyncExitStack()
        self.clock: ServerClock | None = None
        self.agreed = True
        self.issued = 0
        self.made: list[tuple[Call, int]] = []  # changes that were made, and when
        if url is None:
            self.clock = self.things.enter_context(server_clock("2026-06-10T12:00:30Z"))
            pool = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer()).connection_pool
        else:
            pool = ConnectionPool.from_url(url)
        self.wait(self.open(pool))
        self.change_the_capacity(2)

    async def open(self, pool: ConnectionPool) -> None:
        client = redis.asyncio.Redis(connection_pool=pool)
        self.things.push_async_callback(pool.aclose)
        await client.flushall()
        self.house = await self.things.enter_async_context(opened_house(pool))
        now = datetime.datetime.fromtimestamp((await client.time())[0], datetime.UTC)
        first = 0 if self.clock else 1
        labels = [
            f"{now.date() + datetime.timedelta(days=first + day)}T{timing}"
            for day, timing in ((0, "15:00"), (0, "21:00"), (2, "18:00"), (5, "18:00"))
        ]
        self.showtimes = [self.house.programme.showtime(MAIN, label) for label in labels]
        now_ms = self.clock.now_ms if self.clock else 0
        self.model = Model(now_ms, {showtime.label: Seats(showtime) for showtime in self.showtimes})

    def teardown(self) -> None:
        try:
            if self.agreed:  # else what went wrong is told already
                self.compare()
                for showtime in self.showtimes:
                    self.same(self.house.store.tickets(showtime), lambda at=showtime: self.model.listed(at))
        finally:
            self.wait(self.things.aclose())
            self.loop.close()

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    def same(self, real: Coroutine[Any, Any, Any], modelled: Callable[[], Any], *, change: bool = False) -> Any:
        """The result of both, or the class of the error of both."""
        try:
            got = self.wait(real)
        except (MatineeError, Changed) as error:
            got = type(error)
        if self.clock is None:  # then the server alone knows when it was
            self.model.now_ms = getattr(got, "booked_ms", None) or self.model.now_ms
            self.model.now_ms = getattr(got, "admitted_ms", None) or self.model.now_ms
        try:
            wanted = modelled()
        except (MatineeError, Changed) as error:
            wanted = type(error)
        self.agreed = got == wanted
        assert got == wanted
        if change and not isinstance(got, type | Replayed):
            self.made.append((self.house.pipeline.last, self.model.now_ms))
        return got

    def compare(self) -> None:
        """All that Redis holds is what the model says, to the last field, and goes when the model says."""
        held = self.wait(self.house.everything())
        for value, _ in held.values():
            if isinstance(value, dict):
                value.pop(b"admission", None)  # random words that tell one operation from another
                value.pop(b"cancelled", None)
        wanted = self.model.stored()
        if self.clock is None:
            held, wanted = ({key: value for key, (value, _) in each.items()} for each in (held, wanted))
        assert held == wanted

    def look(self, ticket_id: str) -> Any:
        return self.same(self.house.store.ticket(self.house.theatre, ticket_id), lambda: self.model.ticket(ticket_id))

    @rule(target=ids, showtime=which, name=names, wish=st.none() | st.none() | wishes)
    def book(self, showtime: int, name: str, wish: Idempotency | None) -> Any:
        self.issued += 1
        ticket_id, phone = f"main-{self.issued:016d}", f"+{self.issued:07d}"
        arguments = (ticket_id, self.showtimes[showtime], name, phone, wish)
        booked = self.same(self.house.store.book(*arguments), lambda: self.model.book(*arguments), change=True)
        return ticket_id if isinstance(booked, Booked) else multiple()

    @rule(ticket_id=ids, showtime=which)
    def move(self, ticket_id: str, showtime: int) -> None:
        seen = self.look(ticket_id)
        if isinstance(seen, Found):
            self.change_as_seen(seen, showtime)

    @rule(ticket_id=ids, changes=st.lists(st.tuples(st.booleans(), st.none() | which), min_size=2, max_size=5))
    def change(self, ticket_id: str, changes: list[tuple[bool, int | None]]) -> None:
        """Somebody looks, and until he moves (or cancels: None) the ticket, others may be first."""
        before = self.look(ticket_id)
        for as_before, showtime in changes:
            seen = before if as_before else self.look(ticket_id)
            if isinstance(seen, Found):
                self.change_as_seen(seen, showtime)

    def change_as_seen(self, seen: Found, showtime: int | None) -> None:
        if showtime is None:
            self.same(self.house.store.cancel(seen.ticket), lambda: self.model.cancel(seen.ticket), change=True)
        else:
            to = self.showtimes[showtime]
            self.same(self.house.store.move(seen, to), lambda: self.model.move(seen, to), change=True)

    @rule(ticket_id=ids)
    def admit(self, ticket_id: str) -> None:
        self.same(
            self.house.store.admit(self.house.theatre, ticket_id), lambda: self.model.admit(ticket_id), change=True
        )

    @precondition(lambda self: self.made)
    @rule(back=st.integers(0, 7))
    def repeat_a_change(self, back: int) -> None:
        """Bytes of a lost connection arrive, however late: nothing changes. (Bookings, by the tombstone: an hour.)"""
        call, when_ms = self.made[-1 - back % len(self.made)]
        if call[0] is not BOOK or self.model.now_ms <= when_ms + HOUR_MS:
            self.wait(self.house.pipeline.repeat(call))
            self.compare()

    @rule(capacity=st.integers(1, 4))
    def change_the_capacity(self, capacity: int) -> None:
        """The operator does so, and the service starts anew on a server that has forgotten the scripts."""
        self.wait(self.house.redis.script_flush())
        self.house = self.house.with_programme(replace(MAIN, capacity=capacity))
        self.showtimes = [
            self.house.programme.showtime(self.house.theatre, showtime.label) for showtime in self.showtimes
        ]
        self.model.change_capacity(capacity, self.showtimes)

    @precondition(lambda self: self.clock)
    @rule(hours=st.sampled_from([1, 1, 2, 5, 9, 26]))
    def let_time_pass(self, hours: int) -> None:
        self.model.pass_ms(hours * HOUR_MS)
        self.clock.now_ms = self.model.now_ms
        self.wait(self.house.pipeline.learn_time())
        self.compare()

    @invariant()
    def the_seats_are_told_alike(self) -> None:
        seats = self.wait(self.house.store.availability(self.showtimes))
        for told, known in zip(seats, self.model.seats.values(), strict=True):
            assert (told.booked, told.version) == (len(known.ids), known.version)


def bounded(examples: int, steps: int) -> settings:
    """So many sequences of at most so many steps; a slow machine is no failure."""
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
    )


def test_any_sequence_of_calls_on_fakeredis_with_hours_between() -> None:
    run_state_machine_as_test(StoreMachine, settings=bounded(examples=40, steps=50))


def test_any_sequence_of_calls_on_the_real_server(real_urls: dict[str, str]) -> None:
    run_state_machine_as_test(lambda: StoreMachine(real_urls["valkey"]), settings=bounded(examples=15, steps=50))
