"""A real cluster under the store: every theatre on its shard, and no booking lost or doubled while the map changes."""

import asyncio
import datetime
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from http_api import ASHA, Api

from service.app import create_app
from service.cluster import Cluster
from service.errors import SoldOut, Unavailable
from service.keys import ticket_key
from service.model import Showtime, Theatre, Ticket
from service.pools import pool_for
from service.programme import Programme, programme_from
from service.scripts import AVAILABILITY
from service.settings import Settings
from service.store import Store
from tests.clusters import ClusterOfSix, Node
from tests.rush import THEATRES, Rush

HOUR_MS = 3_600_000
PERSON = ("Asha Rao", "+919812345678")
LEFT, MIDDLE, RIGHT = THEATRES


class House:
    """A store of three theatres on a cluster."""

    def __init__(self, pipeline: Cluster) -> None:
        self.pipeline = pipeline
        self.programme = Programme(THEATRES, 8 * HOUR_MS)
        self.store = Store(pipeline, self.programme)
        self.issued = 0

    def showtime(self, theatre: Theatre = LEFT, timing: str = "18:00") -> Showtime:
        """The day after tomorrow's."""
        date = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=2)
        return self.programme.showtime(theatre, f"{date}T{timing}")

    def next_id(self, theatre: Theatre = LEFT) -> str:
        self.issued += 1
        return f"{theatre.id}-{self.issued:016d}"

    async def book(self, showtime: Showtime) -> Ticket:
        ticket_id = self.next_id(showtime.theatre)
        booked = await self.store.book(ticket_id, showtime, *PERSON)
        return Ticket(ticket_id, showtime, *PERSON, booked.booked_ms)


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


async def test_a_seat_given_back_is_sold_to_one_of_those_who_ask_afterwards(
    cluster: ClusterOfSix, house: House
) -> None:
    """In another web process too, whatever is asked there meanwhile, and whoever shares a question."""

    async def haggle(other: House, showtime: Showtime) -> None:
        tickets = await asyncio.gather(*(house.book(showtime) for _ in range(showtime.theatre.capacity)))
        ticket = tickets[0]
        for _ in range(15):
            early = [asyncio.create_task(other.book(showtime)) for _ in range(3)]
            await asyncio.sleep(0)
            await house.store.cancel(ticket)
            late = [asyncio.create_task(other.book(showtime)) for _ in range(3)]
            ends = await asyncio.gather(*early, *late, return_exceptions=True)
            [ticket] = [end for end in ends if isinstance(end, Ticket)]
            assert Counter(map(type, ends)) == {Ticket: 1, SoldOut: 5}

    async with opened(cluster) as other:
        other.issued = 1_000_000
        await asyncio.gather(*(haggle(other, house.showtime(theatre)) for theatre in THEATRES))


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
        migration.move(*migration.keys_left())
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


async def test_a_script_that_the_other_node_has_forgotten_is_loaded_there(cluster: ClusterOfSix, house: House) -> None:
    ticket = await house.book(house.showtime())
    with cluster.migrating(LEFT.id) as migration:
        migration.move(*migration.keys_left())
        migration.target.client.script_flush()
        await house.store.cancel(ticket)


async def test_nodes_that_do_not_agree_are_given_time(cluster: ClusterOfSix) -> None:
    async with opened(cluster, deadline_s=0.5) as house:
        with cluster.at_odds(LEFT.id):
            written = house.pipeline.commands
            with pytest.raises(Unavailable, match="nothing was done"):
                await house.store.availability([house.showtime()])
            assert house.pipeline.commands - written < 50, "the command was sent in a circle without a rest"
        await house.store.availability([house.showtime()])


async def test_where_too_many_wait_the_rest_is_refused(cluster: ClusterOfSix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cluster.PARKED_MAX", 5)
    async with opened(cluster) as house:
        await house.book(house.showtime())
        with cluster.migrating(LEFT.id):
            bookings = [asyncio.ensure_future(house.book(house.showtime())) for _ in range(8)]
            await until(lambda: sum(booking.done() for booking in bookings) == 3)
        booked = await asyncio.gather(*bookings, return_exceptions=True)
        assert Counter(map(type, booked)) == {Ticket: 5, Unavailable: 3}


async def test_a_node_that_serves_nothing_any_more_is_left(
    cluster: ClusterOfSix, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_used(node: Node) -> bool:
        return any(client["cmd"] in {"time", "evalsha"} for client in node.client.client_list())

    monkeypatch.setattr("service.cluster.FORGET_S", 0.0)
    monkeypatch.setattr("service.cluster.LEARN_AGAIN_S", 0.1)
    async with opened(cluster) as house:
        await house.book(house.showtime())
        await until(lambda: house.pipeline.commands > 1)
        former = cluster.owner(LEFT.id)
        assert is_used(former)
        written = house.pipeline.commands
        await asyncio.to_thread(cluster.hand_over, LEFT.id)
        await until(lambda: not is_used(former))
        assert house.pipeline.commands >= written, "what is counted only grows"
        await house.book(house.showtime())


async def test_no_node_at_all_is_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Cluster(pool_for("redis+cluster://clerk:s3cret@127.0.0.1:1,127.0.0.1:2"))
    await pipeline.open()
    assert not pipeline.ready
    assert abs(pipeline.now_ms() / 1000 - time.time()) < 60
    with pytest.raises(Unavailable, match="no node of the Redis cluster serves this theatre; nothing was done"):
        await pipeline.run(AVAILABILITY, ["{odeon}:showtime:20261124T1800"], [], mutates=False)
    await pipeline.close()
    with pytest.raises(Unavailable, match="shutting down"):
        await pipeline.run(AVAILABILITY, ["{odeon}:showtime:20261124T1800"], [], mutates=False)
    assert caplog.text.count("does not tell who serves what") == 1
    assert "s3cret" not in caplog.text


# Under load. WAIT is on: where a busy machine makes the nodes take one of them for lost, nothing may be lost either.


@pytest.fixture
async def careful(cluster: ClusterOfSix) -> AsyncIterator[House]:
    async with opened(cluster, replicas=1) as house:
        yield house


async def test_a_slot_moves_while_its_theatre_is_on_sale(cluster: ClusterOfSix, careful: House) -> None:
    def move() -> None:
        with cluster.migrating(LEFT.id) as migration:
            migration.trickle()

    async with Rush(cluster, careful.pipeline, THEATRES, seed=1) as rush:
        for _ in range(2):
            await rush.answers(200)
            await asyncio.to_thread(move)
    assert rush.found() == []


async def test_a_primary_that_hands_over_loses_nothing(cluster: ClusterOfSix, careful: House) -> None:
    async with Rush(cluster, careful.pipeline, THEATRES, seed=2) as rush:
        for theatre in THEATRES:
            await rush.answers(200)
            await asyncio.to_thread(cluster.hand_over, theatre.id)
        await rush.recovers()
    assert rush.found() == []


async def test_a_primary_that_is_lost_takes_no_answered_ticket_with_it(cluster: ClusterOfSix, careful: House) -> None:
    async with Rush(cluster, careful.pipeline, THEATRES, seed=3) as rush:
        await rush.answers(300)
        lost = cluster.owner(LEFT.id)
        successor = cluster.replica_of(lost)
        lost.kill()
        await until(lambda: successor.is_primary)
        lost.start()
        await rush.recovers()
    assert rush.found() == []


# Nodes are lost


@pytest.fixture
async def api(cluster: ClusterOfSix, tmp_path: Path) -> AsyncIterator[Api]:
    """The whole service, with the three theatres."""
    programme = tmp_path / "programme.toml"
    programme.write_text("".join(f'[[theatre]]\nid = "{theatre.id}"\ntimings = ["18:00"]\n' for theatre in THEATRES))
    settings = Settings.from_environment({"MATINEE_PROGRAMME": str(programme)})
    client = TestClient(TestServer(create_app(settings, programme_from(settings), pool_for(cluster.url))))
    await client.start_server()
    yield Api(client)
    await client.close()


async def test_a_lost_shard_is_refused_honestly_and_comes_back(cluster: ClusterOfSix, api: Api) -> None:
    async def status(theatre: Theatre) -> int:
        """Of a booking; a refusal tells what is known, and when to come again."""
        answer = await api.post("/v1/tickets", json={**ASHA, "theatre": theatre.id})
        if answer.status != 201:
            told = await answer.json()
            assert (answer.status, told["code"]) in {(503, "unavailable"), (503, "outcome_unknown")}
            assert answer.headers["Retry-After"]
        return answer.status

    async def until_it_is(expected: int, asking: Callable[[], Awaitable[int]]) -> None:
        async with asyncio.timeout(20):
            while await asking() != expected:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.02)

    async def readiness() -> int:
        return (await api.get("/readyz")).status

    ticket = await api.book(theatre=LEFT.id)
    cluster.kill_shard(LEFT.id)
    await until_it_is(503, readiness)
    assert [await status(theatre) for theatre in THEATRES] == [503, 503, 503], "the cluster refuses everything"
    cluster.require_full_coverage("no")
    await until_it_is(201, lambda: status(MIDDLE))
    await until_it_is(201, lambda: status(RIGHT))
    assert [await status(LEFT), await readiness()] == [503, 200], "the others sell"
    await asyncio.to_thread(cluster.heal)
    await until_it_is(201, lambda: status(LEFT))
    assert (await api.get(f"/v1/tickets/{ticket['ticket_id']}")).status == 200
