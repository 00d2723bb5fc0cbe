"""Faults on the way between the web processes and Redis."""

import asyncio
import time
from pathlib import Path

import redis.asyncio

from service.pipeline import Pipeline
from service.programme import programme_from
from service.settings import Settings
from service.store import Store
from tests.chaos.service import CAPACITY, TIMINGS, Service, until
from tests.chaos.stage import Stage, scenario
from tests.fault_proxy import FaultProxy
from tests.history.crowd import Person
from tests.history.store_window import StoreWindow

LOSSES = (1, 1, 1, 2, 3)  # replies of one booking that are lost in a row


@scenario(
    "lost-replies",
    failure="the connection is cut after a booking was sent and before its reply, 1,000 times in turn",
    promise="the client repeats with its key and holds one ticket; as many tickets as guests",
    quick=0.03,
)
async def lost_replies(stage: Stage) -> None:
    bookings = stage.times(1000)
    with stage.valkey() as valkey:
        async with (
            FaultProxy(valkey.url) as proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url, capacity=100) as service,
        ):
            person = stage.person(service)
            gone = 0
            for number in range(bookings):
                following = proxy.script_calls + 1
                proxy.lost = range(following, following + stage.dice.choice(LOSSES))
                # Every other time the client's own connection goes as well, and the client has to ask again.
                proxy.when_lost = stage.clients[0].close if number % 2 else lambda: None
                gone += number % 2
                await person.book(stage.labels[number % len(stage.labels)], with_key=True)
            tickets = {call.ticket_id for call in stage.calls if call.outcome == "done"}
            stage.figures |= {
                "bookings": bookings,
                "tickets": len(tickets),
                "answers the client lost too": gone,
                "connections to Redis": proxy.connections,
            }
            stage.expect(len(tickets) == bookings, f"{bookings} bookings, {len(tickets)} tickets")


@scenario(
    "late-duplicates",
    failure="a lost connection's command reaches Redis long after its repeat was answered",
    promise="it takes no seat: not after a cancellation, a move, a repeat with the key, or a later booking of the seat",
    quick=0.12,
)
async def late_duplicates(stage: Stage) -> None:
    with stage.valkey() as valkey:
        async with (
            FaultProxy(valkey.url) as proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url) as service,
        ):
            people = [stage.person(service) for _ in range(4)]
            late = 0
            for number in range(stage.times(60)):
                here, there = stage.dice.sample(stage.labels, 2)
                story = _STORIES[number % len(_STORIES)]
                await story(proxy, people, here, there)
                released = await proxy.release()
                late += released
                stage.expect(released, f"{story.__name__}: no command came late")
            stage.figures["commands that came late"] = late


def _hold_next(proxy: FaultProxy, skip: int = 0) -> None:
    """Hold the next script call, or the one after so many, on its way."""
    proxy.held = {proxy.script_calls + 1 + skip}


async def _cancelled(proxy: FaultProxy, people: list[Person], here: str, _: str) -> None:
    _hold_next(proxy)
    await people[0].cancel(await people[0].book(here))


async def _moved(proxy: FaultProxy, people: list[Person], here: str, there: str) -> None:
    _hold_next(proxy)
    await people[0].move(await people[0].book(here), there)


async def _moved_and_cancelled(proxy: FaultProxy, people: list[Person], here: str, there: str) -> None:
    _hold_next(proxy)
    await people[0].cancel(await people[0].move(await people[0].book(here, with_key=True), there))


async def _taken_by_others(proxy: FaultProxy, people: list[Person], here: str, _: str) -> None:
    _hold_next(proxy)
    await people[0].cancel(await people[0].book(here))
    await asyncio.gather(*(person.book(here) for person in people))


async def _a_move_moved_back(proxy: FaultProxy, people: list[Person], here: str, there: str) -> None:
    booked = await people[0].book(here)
    _hold_next(proxy, skip=1)  # the first is the look before the move
    await people[0].move(await people[0].move(booked, there), here)


async def _a_move_cancelled(proxy: FaultProxy, people: list[Person], here: str, there: str) -> None:
    booked = await people[0].book(here)
    _hold_next(proxy, skip=1)
    await people[0].cancel(await people[0].move(booked, there))


async def _a_cancellation(proxy: FaultProxy, people: list[Person], here: str, _: str) -> None:
    booked = await people[0].book(here)
    _hold_next(proxy, skip=1)
    await people[0].cancel(booked)
    await people[1].book(here)


_STORIES = (
    _cancelled,
    _moved,
    _moved_and_cancelled,
    _taken_by_others,
    _a_move_moved_back,
    _a_move_cancelled,
    _a_cancellation,
)


@scenario(
    "late-after-giving-up",
    failure="the same, and the client had no answer, and repeated with its key",
    promise="the late commands take no second seat, nor one again that was moved away from or given back",
)
async def late_after_giving_up(stage: Stage) -> None:
    with stage.valkey() as valkey:
        async with (
            FaultProxy(valkey.url) as proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url, capacity=100) as service,
        ):
            person = stage.person(service)
            client = stage.clients[-1]
            late = 0
            for _ in range(stage.times(100)):
                # Both the command and its repeat are held; the client hangs up and asks again with its key.
                proxy.held = {proxy.script_calls + 1, proxy.script_calls + 2}
                here, there = stage.dice.sample(stage.labels, 2)
                hung_up = asyncio.create_task(_hang_up(proxy, client, len(proxy.held)))
                booked = await person.book(here, with_key=True)
                await hung_up
                match stage.dice.randrange(3):
                    case 0:
                        await person.cancel(booked)
                    case 1:
                        await person.move(booked, there)
                late += await proxy.release()
            stage.figures["commands that came late"] = late


async def _hang_up(proxy: FaultProxy, client, calls: int) -> None:
    goal = proxy.script_calls + calls
    await until(lambda: proxy.script_calls >= goal, "the repeat")
    client.close()


@scenario(
    "slow-network",
    failure="100 ms each way to Redis, and up to 50 ms more at random",
    promise="slower answers, and every one of them right; commands share the way, so a crowd is served",
)
async def slow_network(stage: Stage) -> None:
    with stage.valkey() as valkey:
        proxy = FaultProxy(valkey.url, delay_s=lambda: 0.1 + stage.dice.random() * 0.05)
        async with (
            proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url) as service,
            stage.crowd(service, people=100) as crowd,
        ):
            began, answered = time.monotonic(), crowd.answered
            await crowd.answers(stage.times(3000))
            stage.figures["answers a second"] = round((crowd.answered - answered) / (time.monotonic() - began))
        stage.expect(stage.outcomes()["unknown"] == 0, "an outcome was unknown, and no connection was lost")


@scenario(
    "half-open",
    failure="the connection to Redis falls silent: nothing arrives, and nothing says so",
    promise="what was under way is answered as unknown within the deadline of 2 s; a new connection serves",
)
async def half_open(stage: Stage) -> None:
    with stage.valkey() as valkey:
        async with (
            FaultProxy(valkey.url) as proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url) as service,
            stage.crowd(service) as crowd,
        ):
            slowest = 0.0
            for _ in range(stage.times(5)):
                await crowd.answers(300)
                proxy.silence()
                slowest = max(slowest, await crowd.recovers())
            stage.figures["slowest return, s"] = slowest
        stage.expect(slowest < 5, f"it took {slowest} s to serve again")
    stage.expect_prompt_answers()


@scenario(
    "connections-killed",
    failure="CLIENT KILL of every connection, again and again under load",
    promise="what they carried is replayed; nobody notices",
    quick=0.1,
)
async def connections_killed(stage: Stage) -> None:
    await _under_commands(stage, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    stage.expect(stage.outcomes()["unknown"] == 0, "an outcome was unknown, and it could have been replayed")


@scenario(
    "scripts-flushed",
    failure="SCRIPT FLUSH, again and again under load",
    promise="the scripts are loaded anew inside the request; nobody notices",
)
async def scripts_flushed(stage: Stage) -> None:
    await _under_commands(stage, "SCRIPT", "FLUSH")
    stage.expect(stage.outcomes()["unknown"] == 0, "an outcome was unknown, and no connection was lost")


async def _under_commands(stage: Stage, *command: str) -> None:
    with stage.valkey() as valkey:
        async with stage.service(store=valkey) as service, stage.crowd(service) as crowd:
            for _ in range(stage.times(30)):
                await crowd.answers(stage.dice.randrange(40, 160))
                valkey.client.execute_command(*command)
            await crowd.recovers()
    refused = {call.code for call in stage.calls if call.outcome == "refused"} - {"sold_out"}
    stage.expect(not refused, f"refused with {refused}")


CAN_TAKE_PER_S = 100
TIMES_TOO_MUCH = 10


@scenario(
    "overload",
    failure="ten times as many bookings as the service can take: 1,000 a second, with Redis slowed to 100 a second",
    promise="as many are answered as it can take; the rest is refused, most at once; the memory stays flat",
)
async def overload(stage: Stage) -> None:
    lasts_s = 10 * stage.scale
    with stage.valkey() as valkey:
        async with (
            FaultProxy(valkey.url) as proxy,
            stage.service(workers=1, store=valkey, redis_url=proxy.url, capacity=1000) as service,
        ):
            memory_kib = [service.memory_kib()]
            proxy.pace_s = 1 / CAN_TAKE_PER_S
            passed_before = proxy.script_calls
            began = time.monotonic()
            people = await _arrive(stage, service, CAN_TAKE_PER_S * TIMES_TOO_MUCH, lasts_s, memory_kib)
            took_s = time.monotonic() - began
            passed = proxy.script_calls - passed_before
            proxy.pace_s = 0.0
            for person in people:
                person.window.close()
            await until(lambda: len(_established(service.port)) < 10, "the end of the connections")
            after_kib = service.memory_kib()
    outcomes = stage.outcomes()
    waits = {
        what: sorted(call.longest_s for call in stage.calls if call.outcome == what) for what in ("done", "refused")
    }
    stage.figures |= {
        "offered a second": round(len(stage.calls) / lasts_s),
        "calls that reached Redis a second": round(passed / took_s),
        "done a second": round(outcomes["done"] / took_s),
        "median wait of done, s": round(waits["done"][len(waits["done"]) // 2], 2),
        "median wait of refused, s": round(waits["refused"][len(waits["refused"]) // 2], 2),
        "memory before, under, after, MiB": ", ".join(
            str(kib // 1024) for kib in (memory_kib[0], max(memory_kib), after_kib)
        ),
    }
    # By what reached Redis: on a machine that others use too, that is less than it would take.
    stage.expect(
        outcomes["done"] > 0.7 * passed, f"{passed} calls reached Redis, for {outcomes['done']} who still waited"
    )
    stage.expect(outcomes["unknown"] < 0.15 * passed, f"{outcomes['unknown']} outcomes of {passed} calls are unknown")
    grown_kib = max(memory_kib) - memory_kib[0]
    stage.expect(grown_kib < 64 * 1024, f"memory grew by {grown_kib} KiB under load")


async def _arrive(stage: Stage, service: Service, per_s: float, lasts_s: float, memory_kib: list[int]) -> list[Person]:
    """People come at a steady rate, whatever became of those before; each books once. Waits for the last answer."""
    people: list[Person] = []
    free: list[Person] = []

    async def book(number: int) -> None:
        if not free:
            people.append(stage.person(service))
            free.append(people[-1])
        person = free.pop()
        await person.book(stage.labels[number % len(stage.labels)])
        free.append(person)

    began = time.monotonic()
    tasks: list[asyncio.Task[None]] = []
    while (passed_s := time.monotonic() - began) < lasts_s:
        tasks += [asyncio.create_task(book(number)) for number in range(len(tasks), int(passed_s * per_s))]
        if len(memory_kib) <= passed_s * 2:
            memory_kib.append(service.memory_kib())
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    return people


def _established(port: int) -> list[str]:
    """The lines of the kernel's table of connections that are at this port of loopback."""
    here = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return [line for line in lines if line.split()[1] == here and line.split()[3] == "01"]


@scenario(
    "history",
    failure="64 clients, 100,000 calls straight at the store, every 1,000th reply lost with its connection",
    promise="the versions that the answers bring are in the order of the answers, and every answer is right",
)
async def history(stage: Stage) -> None:
    settings = Settings.from_environment({"MATINEE_TIMINGS": ",".join(TIMINGS), "MATINEE_CAPACITY": str(CAPACITY)})
    programme = programme_from(settings)
    wanted = stage.times(100_000)
    with stage.valkey() as valkey:
        lost = {number + stage.dice.randrange(500) for number in range(100, 2 * wanted, 1000)}
        async with FaultProxy(valkey.url, lost=lost) as proxy:
            pipeline = Pipeline(redis.asyncio.ConnectionPool.from_url(proxy.url))
            await pipeline.open()
            store = Store(pipeline, programme)
            async with stage.crowd_at([StoreWindow(store, programme) for _ in range(64)]) as crowd:
                await crowd.answers(wanted, within_s=120)
            await pipeline.close()
            stage.figures["connections lost"] = pipeline.reconnects
        stage.check(valkey.url, valkey.folder)
    stage.figures["calls whose answer brought a version"] = sum(bool(call.versions) for call in stage.calls)
