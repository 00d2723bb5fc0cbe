"""A real cluster under the store: every theatre on its shard, and no booking lost or doubled while the map changes."""

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from service.cluster import Cluster
from service.errors import Unavailable
from service.keys import ticket_key
from service.model import Showtime, Theatre, Ticket
from service.pools import pool_for
from service.programme import Programme
from service.store import Store
from tests.clusters import ClusterOfSix

HOUR_MS = 3_600_000
ASHA = ("Asha Rao", "+919812345678")
# One on each shard of three.
LEFT, MIDDLE, RIGHT = THEATRES = [
    Theatre(name, name.title(), ZoneInfo("UTC"), 20, ("15:00", "18:00", "21:00")) for name in ("odeon", "lux", "plaza")
]


class House:
    """A store of three theatres on a cluster."""

    def __init__(self, pipeline: Cluster) -> None:
        self.pipeline = pipeline
        self.programme = Programme(THEATRES, 8 * HOUR_MS)
        self.store = Store(pipeline, self.programme)
        self._issued = 0

    def showtime(self, theatre: Theatre = LEFT, timing: str = "18:00") -> Showtime:
        """The day after tomorrow's."""
        date = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
        return self.programme.showtime(theatre, f"{date}T{timing}")

    def next_id(self, theatre: Theatre = LEFT) -> str:
        self._issued += 1
        return f"{theatre.id}-{self._issued:016d}"

    async def book(self, showtime: Showtime) -> Ticket:
        ticket_id = self.next_id(showtime.theatre)
        booked = await self.store.book(ticket_id, showtime, *ASHA)
        return Ticket(ticket_id, showtime, *ASHA, booked.booked_ms)


@asynccontextmanager
async def opened(cluster: ClusterOfSix, **options: Any) -> AsyncIterator[House]:
    pipeline = Cluster(pool_for(cluster.url), **options)
    await pipeline.open()
    try:
        yield House(pipeline)
    finally:
        await pipeline.close()


@pytest.fixture
async def house(cluster: ClusterOfSix) -> AsyncIterator[House]:
    async with opened(cluster) as house:
        yield house


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  what a server does has no event to wait for
            await asyncio.sleep(0.01)


# A quiet day


async def test_every_theatre_is_sold_on_its_own_shard(cluster: ClusterOfSix, house: House) -> None:
    assert len({cluster.owner(theatre.id).port for theatre in THEATRES}) == 3
    tickets = await asyncio.gather(*(house.book(house.showtime(theatre)) for theatre in THEATRES for _ in range(5)))
    for ticket in tickets:
        assert (await house.store.ticket(ticket.showtime.theatre, ticket.ticket_id)).ticket == ticket
        assert cluster.owner(ticket.showtime.theatre.id).client.exists(
            ticket_key(ticket.showtime.theatre.id, ticket.ticket_id)
        )
    assert house.pipeline.ready
    assert house.pipeline.connects == 3


# A slot moves


async def test_a_theatre_that_has_moved_is_found(cluster: ClusterOfSix, house: House) -> None:
    ticket = await house.book(house.showtime())
    with cluster.migrating(LEFT.id):
        pass
    await house.book(house.showtime())
    assert (await house.store.ticket(LEFT, ticket.ticket_id)).ticket == ticket
    assert [seats.booked for seats in await house.store.availability([house.showtime()])] == [2]


async def test_a_ticket_that_has_gone_ahead_is_cancelled_where_it_is(cluster: ClusterOfSix, house: House) -> None:
    first, second = [await house.book(house.showtime()) for _ in range(2)]
    with cluster.migrating(LEFT.id) as migration:
        await house.store.cancel(first)
        migration.move(*migration.keys())
        await house.store.cancel(second)
        assert [seats.booked for seats in await house.store.availability([house.showtime()])] == [0]


async def test_what_is_split_between_two_nodes_waits_until_it_is_together(cluster: ClusterOfSix, house: House) -> None:
    ticket = await house.book(house.showtime())
    with cluster.migrating(LEFT.id) as migration:
        migration.move(ticket_key(LEFT.id, ticket.ticket_id))
        cancelling = asyncio.ensure_future(house.store.cancel(ticket))
        booking = asyncio.ensure_future(house.book(house.showtime()))
        await asyncio.sleep(0.3)
        assert not cancelling.done()
        assert not booking.done()
    await asyncio.gather(cancelling, booking)
    assert [seats.booked for seats in await house.store.availability([house.showtime()])] == [1]


async def test_what_stays_split_is_refused_and_nothing_was_done(cluster: ClusterOfSix) -> None:
    async with opened(cluster, deadline_s=0.3) as house:
        ticket = await house.book(house.showtime())
        with cluster.migrating(LEFT.id) as migration:
            migration.move(ticket_key(LEFT.id, ticket.ticket_id))
            with pytest.raises(Unavailable, match="the Redis cluster is moving these keys; nothing was done"):
                await house.store.cancel(ticket)
            with pytest.raises(Unavailable, match="nothing was done"):
                await house.book(house.showtime())
        assert [seats.booked for seats in await house.store.availability([house.showtime()])] == [1]
