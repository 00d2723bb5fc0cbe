"""What one process of a race does: a play of one role on many tickets, at the same time as other processes.

`tests/test_store_races.py` sends each play to a process of its own. All processes of a race connect first, wait for
each other in Redis and then begin. Each has a store and a connection of its own, like a web process.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

import msgspec
import redis.asyncio
from redis.asyncio import ConnectionPool
from small_theatre import MAIN, NAME, PHONE, House, opened_house

from service.errors import MatineeError
from service.model import Idempotency, Showtime
from service.store import Booked, Changed

AT_ONCE = 4  # what one process has under way, as a web process has requests


class Play(msgspec.Struct):
    """`role` is played by process `me` of `processes`, on each of `items` in a random order of its own.

    `labels` are the two showtimes: where bookings go, and the other one.
    """

    url: str
    processes: int
    me: int
    role: str
    items: list[str]
    labels: tuple[str, str]
    capacity: int


class Seat(msgspec.Struct):
    """One showtime's change of `booked` by `by` (+1 or -1), which made `version`."""

    showtime: str
    version: int
    by: int


class Done(msgspec.Struct):
    """What became of one item: `outcome` is what the role calls success, or the name of the error.

    `detail` tells apart what should be the same or not: a ticket id, an instant.
    """

    item: str
    outcome: str
    detail: str = ""
    seats: list[Seat] = []


class Stage(msgspec.Struct):
    """What a role is played on."""

    house: House
    play: Play
    showtimes: tuple[Showtime, Showtime]
    random: random.Random

    def ticket_id(self, item: str) -> str:
        """The id under which this process books an item."""
        return f"main-{self.play.me}{item.upper().replace('-', '0'):0>15}"

    def other(self, showtime: Showtime) -> Showtime:
        """The other one of the two showtimes."""
        return self.showtimes[self.showtimes[0].label == showtime.label]


async def book(stage: Stage, item: str, which: int = 0) -> Done:
    """A booking of the first showtime, by somebody else in each process."""
    showtime, ticket_id = stage.showtimes[which], stage.ticket_id(item)
    booked = await stage.house.store.book(ticket_id, showtime, NAME, PHONE)
    return Done(item, "booked", ticket_id, [Seat(showtime.label, booked.version, 1)])


async def book_second(stage: Stage, item: str) -> Done:
    """The same for the second showtime."""
    return await book(stage, item, 1)


async def book_with_key(stage: Stage, item: str) -> Done:
    """The same booking by an impatient client: each item is one Idempotency-Key, sent to every process."""
    wish = Idempotency(f"{item.encode().hex():0>32}", "f" * 32)
    ticket_id = stage.ticket_id(item)
    booked = await stage.house.store.book(ticket_id, stage.showtimes[0], NAME, PHONE, wish)
    if isinstance(booked, Booked):
        return Done(item, "booked", ticket_id, [Seat(stage.showtimes[0].label, booked.version, 1)])
    return Done(item, "replayed", booked.ticket_id)


async def move(stage: Stage, item: str) -> Done:
    """Move a ticket to the other showtime, from wherever it is.

    Two who saw it at the same place and want the same may both be told `moved`: it moved once.
    """
    found = await stage.house.store.ticket(stage.house.theatre, item)
    here = found.ticket.showtime
    there = stage.other(here)
    moved = await stage.house.store.move(found, there)
    return Done(item, "moved", "", [Seat(here.label, moved.from_version, -1), Seat(there.label, moved.to_version, 1)])


async def cancel(stage: Stage, item: str) -> Done:
    """Cancel a ticket, wherever it is."""
    ticket = (await stage.house.store.ticket(stage.house.theatre, item)).ticket
    version = await stage.house.store.cancel(ticket)
    return Done(item, "cancelled", "", [Seat(ticket.showtime.label, version, -1)])


async def admit(stage: Stage, item: str) -> Done:
    """Let a ticket in; `detail` is when, to the millisecond."""
    ticket = await stage.house.store.admit(stage.house.theatre, item)
    return Done(item, "admitted", str(ticket.admitted_ms))


async def anything(stage: Stage, item: str) -> Done:
    """A mixed day: a new booking, or a change of a ticket that every other process may be changing too."""
    role = stage.random.choices((book, move, cancel), weights=(4, 5, 1))[0]
    if role is book:
        return await book(stage, f"{stage.random.getrandbits(40):010x}")
    return await role(stage, item)


ROLES: dict[str, Callable[[Stage, str], Awaitable[Done]]] = {
    role.__name__: role for role in (book, book_second, book_with_key, move, cancel, admit, anything)
}


async def _all(play: Play) -> list[Done]:
    async with opened_house(ConnectionPool.from_url(play.url)) as opened:
        house = opened.with_programme(msgspec.structs.replace(MAIN, capacity=play.capacity))
        first, second = (house.programme.showtime(house.theatre, label) for label in play.labels)
        stage = Stage(house, play, (first, second), random.Random(play.me))
        role = ROLES[play.role]
        room = asyncio.Semaphore(AT_ONCE)

        async def one(item: str) -> Done:
            async with room:
                while True:
                    try:
                        return await role(stage, item)
                    except Changed:
                        continue  # as the box office does: look again
                    except MatineeError as error:
                        return Done(item, type(error).__name__, getattr(error, "admitted_at", ""))

        items = stage.random.sample(play.items, len(play.items))
        await _together(house.redis, play.processes)
        return await asyncio.gather(*map(one, items))


async def _together(client: redis.asyncio.Redis, processes: int) -> None:
    """Begin when all have come."""
    await client.incr("here")
    async with asyncio.timeout(30):
        while int(await client.get("here")) < processes:  # noqa: ASYNC110  other processes have no event of ours
            await asyncio.sleep(0.001)


def perform(play: Play) -> list[Done]:
    """Play; every item's outcome, in the order played."""
    return asyncio.run(_all(play))
