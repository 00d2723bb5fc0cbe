"""What is left of answered bookings when the servers of a cluster, or those that Sentinels watch, change their roles.

Two kinds. In a rush people stand at the store of each theatre, and every answer is checked with its version while a
primary hands over, is killed, or gives a slot away. In a stall the whole service runs, the link that the replicas
follow over is held, and the primary is killed before they got what it had answered.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import pairwise

import redis

from service.cluster import Cluster
from service.pipeline import Pipeline
from service.pools import pool_for
from tests.chaos.stage import Stage, scenario
from tests.clusters import ClusterOfSix, PrimaryOfTwo, until
from tests.history.calls import Call
from tests.history.ending import read_ending
from tests.rush import THEATRES, Rush

CLUSTER = "a cluster of three primaries with a replica each"
SENTINELS = "a primary and two replicas under three Sentinels"
WAITING = "(MATINEE_WAIT_REPLICAS=1)"
NOTHING_LOST = "no answered change is lost, no answer is wrong, the books of every node agree"
STALL_S = 0.5
PEOPLE = 24
TRIES = 5
PIECES = 30  # of a theatre, on their way one after the other


# In a rush


@scenario("cluster-reshard", failure=f"{CLUSTER}: slots move while their theatres sell {WAITING}", promise=NOTHING_LOST)
async def cluster_reshard(stage: Stage) -> None:
    async with _cluster(stage) as cluster:

        def move(theatre: str) -> None:
            with cluster.migrating(theatre) as migration:
                migration.trickle(PIECES)

        async def moves(rush: Rush) -> None:
            for theatre in THEATRES * stage.times(2):
                await rush.answers(stage.dice.randrange(100, 300))
                await asyncio.to_thread(move, theatre.id)

        await _rushed(stage, cluster, moves)


@scenario("cluster-hand-over", failure=f"{CLUSTER}: each primary hands over {WAITING}", promise=NOTHING_LOST)
async def cluster_hand_over(stage: Stage) -> None:
    async with _cluster(stage) as cluster:

        async def hand_over(rush: Rush) -> None:
            for theatre in THEATRES * stage.times(2):
                await rush.answers(stage.dice.randrange(100, 300))
                await asyncio.to_thread(cluster.hand_over, theatre.id)

        await _rushed(stage, cluster, hand_over)


@scenario(
    "cluster-primary-killed",
    failure=f"{CLUSTER}: SIGKILL of a primary, again and again {WAITING}",
    promise=NOTHING_LOST,
)
async def cluster_primary_killed(stage: Stage) -> None:
    async with _cluster(stage) as cluster:

        async def kill(rush: Rush) -> None:
            for _ in range(stage.times(3)):
                await rush.answers(stage.dice.randrange(100, 300))
                lost = cluster.owner(stage.dice.choice(THEATRES).id)
                successor = cluster.replica_of(lost)
                lost.kill()
                await asyncio.to_thread(until, lambda successor=successor: successor.is_primary, "a successor")
                lost.start()
                await rush.recovers()
                await asyncio.to_thread(cluster.heal)

        await _rushed(stage, cluster, kill)


@scenario("sentinel-hand-over", failure=f"{SENTINELS}: it hands over {WAITING}", promise=NOTHING_LOST)
async def sentinel_hand_over(stage: Stage) -> None:
    async with _sentinels(stage) as servers:
        await _changed(stage, servers, servers.hand_over)


@scenario("sentinel-primary-killed", failure=f"{SENTINELS}: SIGKILL of it {WAITING}", promise=NOTHING_LOST)
async def sentinel_primary_killed(stage: Stage) -> None:
    async with _sentinels(stage) as servers:
        await _changed(stage, servers, servers.lose)


async def _changed(stage: Stage, servers: PrimaryOfTwo, how: Callable[[], object]) -> None:
    """A rush during which the primary is changed, and never but by us.

    A busy machine may make the Sentinels take a server for lost that is not. What is seen and sold there meanwhile
    cannot but be lost (docs/scaling.md), so that says nothing of the service, and the rush is repeated.
    """
    changes = stage.times(2)

    async def change(rush: Rush) -> None:
        for _ in range(changes):
            await rush.answers(stage.dice.randrange(300, 600))
            await asyncio.to_thread(servers.change, how)
            await rush.recovers()
            await asyncio.to_thread(servers.heal)

    for _ in range(TRIES):
        servers.clear()
        failovers = servers.failovers
        rush = await _rush(stage, servers, change)
        if servers.failovers == failovers + changes:
            await _note(stage, rush)
            return
        await asyncio.to_thread(servers.heal)
    stage.expect(False, f"the Sentinels never left it at {changes} changes")


async def _rushed(stage: Stage, cluster: ClusterOfSix, breaks: Callable[[Rush], Awaitable[None]]) -> None:
    await _note(stage, await _rush(stage, cluster, breaks))


async def _rush(stage: Stage, servers: ClusterOfSix | PrimaryOfTwo, breaks: Callable[[Rush], Awaitable[None]]) -> Rush:
    """A rush at the store of every theatre, during which something breaks."""
    pool = pool_for(servers.url)
    pipeline = Cluster(pool, replicas=1) if isinstance(pool, redis.asyncio.RedisCluster) else Pipeline(pool, replicas=1)
    await pipeline.open()
    theatres = THEATRES if isinstance(servers, ClusterOfSix) else THEATRES[:1]
    try:
        async with Rush(servers, pipeline, theatres, stage.dice.randrange(1 << 32), PEOPLE // len(theatres)) as rush:
            await breaks(rush)
            await rush.recovers()
            await rush.answers(100)
    finally:
        await pipeline.close()
    return rush


async def _note(stage: Stage, rush: Rush) -> None:
    """The calls of a rush, the longest outage of a theatre, and all that is wrong."""
    for calls in rush.calls.values():
        stage.calls += calls
    stage.figures["longest outage, s"] = max(map(_longest_outage_s, rush.calls.values()))
    stage.violations += await asyncio.to_thread(rush.found)


def _longest_outage_s(calls: Iterable[Call]) -> float:
    """The longest time from one change that was done to the next."""
    times = sorted(call.answered for call in calls if call.changes and call.outcome == "done")
    return round(max(later - earlier for earlier, later in pairwise(times)), 2)


# In a stall


def _stalls(place: str, waits: str) -> str:
    return (
        f"{place}: the replicas' link stalls, {STALL_S} s later the primary is killed and a replica takes over {waits}"
    )


ALL_THERE = "no answered booking is lost"
SOME_LOST = "the bookings answered during the stall are lost, and it is told how many"
NOT_WAITING = "(MATINEE_WAIT_REPLICAS=0)"


@scenario("sentinel-stall", failure=_stalls(SENTINELS, WAITING), promise=ALL_THERE, quick=0.3)
async def sentinel_stall(stage: Stage) -> None:
    async with _sentinels(stage) as servers:
        lost = await _lost_in_a_stall(stage, servers, wait_replicas=1)
    stage.expect(not lost, f"{lost} answered bookings are gone")


@scenario("sentinel-stall-async", failure=_stalls(SENTINELS, NOT_WAITING), promise=SOME_LOST)
async def sentinel_stall_async(stage: Stage) -> None:
    async with _sentinels(stage) as servers:
        lost = await _lost_in_a_stall(stage, servers, wait_replicas=0)
    stage.expect(lost, "nothing is lost: the link did not stall")


@scenario("cluster-stall", failure=_stalls(CLUSTER, WAITING), promise=ALL_THERE)
async def cluster_stall(stage: Stage) -> None:
    async with _cluster(stage) as cluster:
        lost = await _lost_in_a_stall(stage, cluster, wait_replicas=1)
    stage.expect(not lost, f"{lost} answered bookings are gone")


@scenario("cluster-stall-async", failure=_stalls(CLUSTER, NOT_WAITING), promise=SOME_LOST)
async def cluster_stall_async(stage: Stage) -> None:
    async with _cluster(stage) as cluster:
        lost = await _lost_in_a_stall(stage, cluster, wait_replicas=0)
    stage.expect(lost, "nothing is lost: the link did not stall")


async def _lost_in_a_stall(stage: Stage, servers: ClusterOfSix | PrimaryOfTwo, wait_replicas: int) -> int:
    """Kill a primary whose replicas lag; how many bookings, answered with 201 and never cancelled, are gone."""
    environment = {"MATINEE_WAIT_REPLICAS": str(wait_replicas)}
    async with stage.service(redis_url=servers.url, environment=environment, checks=False) as service:
        async with stage.crowd(service) as crowd:
            await crowd.answers(stage.times(500) + stage.dice.randrange(300))
            primary = servers.owner("main")
            replicas = servers.replicas_of(primary)
            link = await asyncio.to_thread(servers.divert, primary)
            await crowd.answers(stage.times(200) + stage.dice.randrange(200))
            link.hold()
            await asyncio.sleep(STALL_S)
            primary.kill()
            await asyncio.sleep(0.1)  # answers that were on their way
            booked = {call.ticket_id for call in stage.calls if call.kind == "book" and call.outcome == "done"}
            await asyncio.to_thread(until, lambda: any(node.is_primary for node in replicas), "a successor")
            successor = next(node for node in replicas if node.is_primary)
            if isinstance(servers, ClusterOfSix):
                primary.start()  # it is the only replica that its successor can have
            stage.figures["first change after the promotion, s"] = await crowd.recovers()
            await crowd.answers(stage.times(300))
        cancelled = {call.ticket_id for call in stage.calls if call.kind == "cancel"}
        with redis.Redis(port=successor.port) as client:
            lost = len(booked - cancelled - read_ending(client).tickets.keys())
        link.close()
    stage.figures["answered bookings"] = len(booked)
    stage.figures["lost"] = lost
    stage.figures["longest outage, s"] = _longest_outage_s(stage.calls)
    return lost


# The servers


@contextlib.asynccontextmanager
async def _cluster(stage: Stage) -> AsyncIterator[ClusterOfSix]:
    cluster = await asyncio.to_thread(ClusterOfSix, stage.server)
    try:
        yield cluster
    finally:
        cluster.stop()


@contextlib.asynccontextmanager
async def _sentinels(stage: Stage) -> AsyncIterator[PrimaryOfTwo]:
    servers = await asyncio.to_thread(PrimaryOfTwo, stage.server)
    try:
        yield servers
    finally:
        servers.stop()
