"""Auto-pipelining: the commands of all requests that wait at a moment travel to Redis as one write.

The life of a command
---------------------
::

    run() ──► waiting ──► written in one batch ──► in flight ──► reply ──► the caller's future
                              ▲                        │
                              └──────── again ◄────────┘  connection lost, or NOSCRIPT

- `run` packs the command, puts it into `waiting` and wakes the writer. The writer runs once per turn of the
  event loop, so it finds whatever the requests of that turn have asked for; a lone command waits for nobody.
- Replies come in the order of the commands: each goes to the head of `in flight`. A command whose caller is
  gone or whose deadline has passed keeps its place there: its reply is read and dropped, and nobody gets it.
- A connection that fails is thrown away whole. What it carried goes to `again`, ahead of the waiting, and is
  replayed on the next one, for every script is replayable; but not without a caller, nor past the deadline.
- A mutation that a lost connection carried is in doubt from then on: whatever refuses it later, its outcome
  is unknown, not "nothing was done".

With `replicas` set, a batch that changes something ends with one WAIT, and what its scripts promised is held back
until so many replicas have it; if they do not confirm in time, the outcome is unknown. Meanwhile nothing more is
written: the server would not look at it before WAIT has returned, and what waits makes the next batch the larger.

How many may be in flight follows from how fast the server answers (`Window`): a slow one that is sent more than it
can answer within the deadline would work for callers who have given up. So of too many requests the most that it can
do are answered, and the rest is refused early: at once, or after half of the deadline in `waiting`.

A delayed duplicate is possible: bytes of a lost connection may reach the server after the replay was
answered. No client can prevent that; the scripts guard against it (tombstones, compare-and-set).
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import hiredis
import msgspec
import redis.exceptions
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff

from service import scripts
from service.errors import OutcomeUnknown, Unavailable
from service.histogram import Histogram
from service.scripts import Script
from service.window import Window

log = logging.getLogger(__name__)

_pack: Callable[[tuple[str | int | bytes, ...]], bytes]
_pack = hiredis.pack_command  # type: ignore[assignment]  # its stub knows tuples of one element only

AWAY = "Redis is away"
SHUTTING_DOWN = "the service is shutting down"
CONNECT_S = 2.0  # a whole attempt: connect, TLS, log in, load the scripts; some ten round trips
PROBE_EVERY_S = 0.4
READY_WITHIN_S = 0.9  # silence that makes `ready` false: two probes, and within the second that is promised
TICK_S = 0.05  # how late a deadline may be noticed
STEPS = 16  # of the back-off; redis-py computes 2 to their power, and cannot beyond 1023
STEADY_S = 1.0  # a connection that lived so long was a good one: back-off starts anew
BATCH_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROUND_TRIP_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0)
TOO_FEW_REPLICAS = "too few Redis replicas confirm what is written"
CONFIRM_MS = 500  # a quarter of the deadline: reads stand behind WAIT on the same connection
CONFIRM_PROBE_MS = 50  # the same while replicas are known to be missing and only reads run
RELOADS = 3  # NOSCRIPT so often for one command is no flushed cache but a bug

# Replies by which the server says that it did not run the command, and what a person should know of each.
REFUSALS = {
    "BUSY": "Redis is busy with a long script",
    "CLUSTERDOWN": "the Redis cluster is down",
    "LOADING": "Redis is loading its data",
    "MASTERDOWN": "the Redis replica has lost its master",
    "MISCONF": "Redis cannot save to disk and refuses writes",
    "NOAUTH": "Redis asks for a password",
    "NOPERM": "the Redis user may not do this",
    "NOREPLICAS": "too few Redis replicas are in touch",
    "OOM": "Redis is out of memory",
    "READONLY": "this Redis server is a replica and refuses writes",
    "TRYAGAIN": "the Redis cluster is moving these keys",
    "WRONGPASS": "Redis refuses the password",
}
# After these another connection, perhaps to another server, is the way on.
CHANGES_OF_SERVER = frozenset({"LOADING", "MASTERDOWN", "NOAUTH", "READONLY", "WRONGPASS"})


class Command(msgspec.Struct, eq=False):
    """One command and its place in the order of replies. Those of the pipeline itself have no script."""

    future: asyncio.Future[Any]
    script: Script | None
    packed: bytes
    deadline: float  # on the clock of the event loop, seconds
    mutates: bool
    keys: Sequence[str] = ()
    in_doubt: bool = False  # a lost connection may have carried it to the server
    reloads: int = 0
    redirects: int = 0
    asking: bool = False  # ASKING goes before it, once: a node of a cluster said ASK
    reply: Any = None  # of a change that waits for the replicas

    def fail(self, why: str, *, sent: bool = False) -> None:
        """Tell the caller honestly: unknown if the server may have done it, else unavailable."""
        if self.future.done():
            return
        if self.script is None:
            self.future.cancel()
        elif self.mutates and (sent or self.in_doubt):
            self.future.set_exception(OutcomeUnknown(f"{why}; the outcome is unknown"))
        else:
            self.future.set_exception(Unavailable(f"{why}; nothing was done"))


def _arrived(connection: Connection) -> Callable[[], Any]:
    """What gives the next reply if all of it has come, else NOT_ENOUGH_DATA.

    It looks into redis-py's parser, for to await replies one by one costs each of them 1 µs; `tests/test_pipeline.py`
    fails when an upgrade changes it. In fakeredis there is none.
    """
    reader = getattr(connection._parser, "_reader", None)
    return (lambda: NOT_ENOUGH_DATA) if reader is None else partial(reader.gets, False)


class _AwayError(Exception):
    """The server is connected but of no use: it stopped answering, or asked us to go elsewhere."""


# What a cluster does with a command that one of its nodes refused; true where it has taken charge of it.
Redirect = Callable[["Pipeline", Command, redis.exceptions.RedisError], bool]


class Pipeline:
    """All commands of this process to one Redis server, over one connection at a time.

    `pool` says how to connect (TCP, TLS, Unix socket, Sentinel); of it only `make_connection` is used.
    `deadline_s` bounds each command. At most `max_in_flight` commands are written and unanswered, and
    `max_waiting` more wait, fewer where the server is slow; beyond them a command is answered `Unavailable` at once.
    A change is answered once `replicas` have it (0: at once); while fewer are in touch, changes are refused.

    The counters `batches`, `commands` (written), `connects`, `reconnects`, `shed` (refused at once) and `unconfirmed`
    (batches that too few replicas confirmed in time) only grow; `batch_sizes` counts the commands of each write,
    `round_trips_s` how long the probes took.

    A node of a cluster has a `name`, host:port; `redirect` sees what it refuses before the caller does, and `lost`
    is called when its connection is lost, and each time that no new one could be made.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        deadline_s: float = 2.0,
        max_in_flight: int = 1024,
        max_waiting: int = 4096,
        replicas: int = 0,
        name: str = "",
        redirect: Redirect | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._pool = pool
        self.name = name
        self._server = f"Redis at {name}" if name else "Redis"
        self._redirect = redirect
        self._lost = lost
        self._replicas = replicas
        self._deadline_s = deadline_s
        self._window = Window(max_in_flight, max_waiting)
        self._waiting: deque[Command] = deque()
        self._again: deque[Command] = deque()
        self._in_flight: deque[Command] = deque()
        self._held: deque[Command] = deque()  # done, but not known to be on the replicas yet
        self._asking = False  # the replicas; one question at a time
        self._replicas_missing = False
        self._reloading: set[str] = set()
        self._refused: dict[str, str] = {}
        self._work = asyncio.Event()
        self._tried = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed_because: str | None = "the pipeline is not open"
        self._away_since: float | None = None
        self._connected = False
        self._heard_at = 0.0
        self._clock_offset_ms = (time.time() - time.monotonic()) * 1000
        self.batches = 0
        self.commands = 0
        self.connects = 0
        self.shed = 0
        self.unconfirmed = 0
        self.batch_sizes = Histogram(BATCH_BOUNDS)
        self.round_trips_s = Histogram(ROUND_TRIP_BOUNDS_S)

    async def open(self) -> None:
        """Start, and wait for the first attempt to connect; should it fail, the pipeline goes on trying."""
        self.start()
        await self.tried()

    async def tried(self) -> None:
        """Wait for the first attempt to connect, however it ends."""
        await self._tried.wait()

    def start(self) -> None:
        """Take commands from now on; they wait for the first connection."""
        self._loop = asyncio.get_running_loop()
        self._closed_because = None
        self._tasks = [
            self._loop.create_task(self._keep_connected()),
            self._loop.create_task(self._keep_deadlines()),
        ]

    async def close(self) -> None:
        """Refuse new commands, let those under way be answered (within the deadline), then disconnect."""
        self._closed_because = SHUTTING_DOWN
        under_way = itertools.chain(self._held, self._in_flight, self._again, self._waiting)
        if futures := [command.future for command in under_way if not command.future.done()]:
            await asyncio.wait(futures, timeout=self._deadline_s + 2 * TICK_S)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks = []
        for command in self.give_back():
            command.fail(SHUTTING_DOWN)

    def run(
        self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes] | bytes, *, mutates: bool
    ) -> asyncio.Future[Any]:
        """Run `script` in the next batch; await the result for its reply: bytes, ints and lists of them.

        Bytes in the place of `args` are the whole call, packed already by a `BookingForm`.
        Cancelling the wait leaves everybody else's commands alone. Awaiting raises `Unavailable` (nothing was
        done), `OutcomeUnknown` (only where `mutates`), or redis-py's `ResponseError` as it came, for a bug.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closed_because is not None or len(self._waiting) >= self._window.waiting:
            future.set_exception(self._not_accepted(self._closed_because or "too many requests are waiting"))
            return future
        if self._replicas_missing and mutates:
            future.set_exception(self._not_accepted(TOO_FEW_REPLICAS))
            return future
        packed = args if isinstance(args, bytes) else _pack(("EVALSHA", script.sha, len(keys), *keys, *args))
        deadline = self._loop.time() + self._deadline_s
        self._waiting.append(Command(future, script, packed, deadline, mutates, keys))
        self._work.set()
        return future

    def take(self, command: Command) -> None:
        """Queue a command that another node's pipeline had; it goes ahead of those that wait."""
        if not self._tasks:
            command.fail(SHUTTING_DOWN)
        else:
            self._again.append(command)
            self._work.set()

    def give_back(self) -> list[Command]:
        """Let go of every command that is not written, or is to be written again."""
        queued = [command for command in (*self._again, *self._waiting) if command.script is not None]
        self._again.clear()
        self._waiting.clear()
        return queued

    def shut(self, because: str) -> None:
        """Refuse new commands with this reason until `reopen` is called with it."""
        if self._closed_because is None:
            self._closed_because = because

    def reopen(self, because: str) -> None:
        """Take new commands again, unless they are refused for another reason too."""
        if self._closed_because == because:
            self._closed_because = None

    @property
    def connected(self) -> bool:
        """Whether a connection stands."""
        return self._connected

    @property
    def ready(self) -> bool:
        """Whether the server answered lately: false within a second of an outage, true again by itself."""
        return self._connected and self._loop.time() - self._heard_at < READY_WITHIN_S

    def now_ms(self) -> int:
        """The Redis server's clock, milliseconds since 1970; before the first answer, this machine's.

        Right to half a round trip, so it may step back by as much when the pipeline learns better.
        """
        return int(time.monotonic() * 1000 + self._clock_offset_ms)

    @property
    def reconnects(self) -> int:
        """How often a lost connection was made anew."""
        return max(0, self.connects - 1)

    @property
    def in_flight(self) -> int:
        """Commands written whose replies have not come."""
        return len(self._in_flight)

    @property
    def waiting(self) -> int:
        """Commands not written yet, or to be written again."""
        return len(self._waiting) + len(self._again)

    def _not_accepted(self, why: str) -> Unavailable:
        self.shed += 1
        return Unavailable(f"{why}; nothing was done")

    # The connection: made, served until it fails, thrown away, made again; never two at a time.

    async def _keep_connected(self) -> None:
        backoff = EqualJitterBackoff(cap=0.5, base=0.01)
        failures = 0
        while True:
            try:
                connection = await self._connect()
            except Exception as error:
                # Whatever it raises (network, TLS, credentials), to try again is all there is to do.
                self._go_away(error)
                self._tried.set()
            else:
                connected_at = self._loop.time()
                self._come_back()
                self._tried.set()
                trouble = await self._serve(connection)
                if isinstance(trouble, _AwayError):
                    self._go_away(trouble)
                if not isinstance(trouble, _AwayError) or self._loop.time() - connected_at > STEADY_S:
                    failures = 0
            self._lost()
            failures = min(failures + 1, STEPS)
            await asyncio.sleep(backoff.compute(failures))

    async def _connect(self) -> Connection:
        """Connect, load every script and learn the server's clock: one attempt, bounded in time."""
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        # Deadlines and repeats are this module's, not redis-py's, whatever the pool was told.
        connection.socket_timeout = None
        connection.retry = Retry(NoBackoff(), 0)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]  # redis-py's
                await self._greet(connection)
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise _AwayError(f"no connection within {CONNECT_S} s") from error
            raise
        return connection

    async def _greet(self, connection: Connection) -> None:
        commands = [_pack(("SCRIPT", "LOAD", script.source)) for script in scripts.ALL]
        commands += [_pack(("TIME",)), _pack(("ROLE",))]
        sent_at = time.monotonic()
        await connection.send_packed_command(b"".join(commands), check_health=False)
        for _ in scripts.ALL:
            await connection.read_response(disable_decoding=True)
        self._set_clock(await connection.read_response(disable_decoding=True), sent_at)
        try:
            role = await connection.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError:
            return  # a user who may not ask for the role; READONLY will tell
        if role[0] == b"slave":
            raise _AwayError(REFUSALS["READONLY"])

    async def _serve(self, connection: Connection) -> BaseException | None:
        """Write, read and probe until one of them fails; take back what was under way; return the reason."""
        tasks = {
            self._loop.create_task(self._write(connection)),
            self._loop.create_task(self._read(connection)),
            self._loop.create_task(self._probe()),
        }
        self._connected = True
        self._work.set()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._connected = False
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._take_back()
            with contextlib.suppress(redis.exceptions.RedisError, OSError):
                await connection.disconnect(nowait=True)
        troubles = [task.exception() for task in done]
        log.info("the connection to %s is lost (%s); connecting anew", self._server, troubles[0])
        for trouble in troubles:
            if not isinstance(trouble, redis.exceptions.RedisError | OSError | _AwayError):
                log.error("the pipeline met an error of its own", exc_info=trouble)
        return next((trouble for trouble in troubles if isinstance(trouble, _AwayError)), troubles[0])

    def _take_back(self) -> None:
        """Queue what the lost connection carried for the next one, in the old order."""
        carried = [*self._held, *self._in_flight]
        for command in carried:
            command.in_doubt = True
        under_way = [*carried, *self._again]
        self._held.clear()
        self._asking = False
        self._in_flight.clear()
        self._again.clear()
        self._reloading.clear()
        for command in under_way:
            if command.script is None:
                command.future.cancel()
            else:
                self._again.append(command)

    def _go_away(self, reason: Exception) -> None:
        """Open the circuit: until a connection stands again, new commands are refused at once."""
        if self._away_since is None:
            self._away_since = self._loop.time()
            log.warning("%s is away: %s", self._server, str(reason) or repr(reason))
        self.shut(AWAY)

    def _come_back(self) -> None:
        self.connects += 1
        self._heard_at = self._loop.time()
        if self._away_since is not None:
            log.warning("%s is back after %.1f s", self._server, self._heard_at - self._away_since)
            self._away_since = None
            self.reopen(AWAY)

    # The three tasks of a connection.

    async def _write(self, connection: Connection) -> None:
        """Write all that waits, as one packed command list, whenever something does."""
        while True:
            await self._work.wait()
            self._work.clear()
            if not connection.is_connected:
                # send_packed_command would connect again behind our back, and the order of replies be lost.
                raise redis.exceptions.ConnectionError("the connection was closed")
            batch = self._next_batch()
            if not batch:
                continue
            if self._replicas and any(command.mutates for command in batch):
                batch.append(self._ask_replicas())
                self._asking = True
            self._in_flight.extend(batch)
            self.batches += 1
            self.commands += len(batch)
            self.batch_sizes.add(len(batch))
            packed = b"".join([command.packed for command in batch])
            await connection.send_packed_command(packed, check_health=False)

    def _next_batch(self) -> list[Command]:
        batch: list[Command] = []
        if self._asking:
            return batch
        room = self._window.in_flight - len(self._in_flight)
        for queue in (self._again, self._waiting):
            while queue and (len(batch) < room or queue[0].script is None):  # its own commands find room always
                command = queue.popleft()
                if self._replicas_missing and command.mutates:
                    command.fail(TOO_FEW_REPLICAS)
                elif not command.future.done():
                    if command.asking:
                        command.asking = False
                        batch.append(self._own_command(command.deadline, "ASKING"))
                    batch.append(command)
        if len(batch) >= room:
            self._window.limited = True
        return batch

    async def _read(self, connection: Connection) -> None:
        """Give each reply to the command at the head of the order."""
        in_flight = self._in_flight
        waiting = self._waiting
        again = self._again
        replicas = self._replicas
        arrived = _arrived(connection)
        while True:
            try:
                reply = arrived()
                if reply is NOT_ENOUGH_DATA:
                    reply = await connection.read_response(disable_decoding=True)
                elif isinstance(reply, redis.exceptions.RedisError):
                    raise reply
                elif isinstance(reply, hiredis.PushNotification):
                    continue  # the server's own word, no reply
            except redis.exceptions.RedisError as error:
                if error.status_code is None and not isinstance(error, redis.exceptions.ResponseError):
                    raise  # the connection's trouble; with a status code it was the server's reply
                self._refuse(in_flight.popleft(), error)
                continue
            command = in_flight.popleft()
            if waiting or again:  # for want of room in flight
                self._work.set()
            if command.future.done():
                continue
            script = command.script
            if self._refused and script is not None:
                self._note_accepted(script)
            if replicas and command.mutates and script is not None and reply[0] not in script.refusals:
                command.reply = reply
                self._held.append(command)
            else:
                command.future.set_result(reply)

    def _refuse(self, command: Command, error: redis.exceptions.RedisError) -> None:
        """Answer a command that the server refused; `_AwayError` if another connection is the way on."""
        self._work.set()
        code = error.status_code or str(error).partition(" ")[0]
        script = command.script
        if script is None:
            if not command.future.done():
                command.future.set_exception(error)
        elif code == "NOSCRIPT" and command.reloads < RELOADS:
            self._reload(script, command.deadline)
            command.reloads += 1
            self._again.append(command)
        elif self._redirect is not None and self._redirect(self, command, error):
            pass
        elif code in REFUSALS:
            if self._refused.get(script.name) != code:
                self._refused[script.name] = code
                log.warning("Redis refuses the script %s: %s (%s)", script.name, REFUSALS[code], code)
            command.fail(REFUSALS[code])
        elif not command.future.done():
            command.future.set_exception(error)
        if code in CHANGES_OF_SERVER:
            raise _AwayError(REFUSALS[code])

    def _reload(self, script: Script, deadline: float) -> None:
        """Queue SCRIPT LOAD, once for all commands that miss the script: their repeats line up behind it."""
        if script.sha in self._reloading:
            return
        self._reloading.add(script.sha)

        # A failed load shows as NOSCRIPT again.
        load = self._own(deadline, "SCRIPT", "LOAD", script.source)
        load.add_done_callback(lambda _load: self._reloading.discard(script.sha))

    def _note_accepted(self, script: Script) -> None:
        if self._refused.pop(script.name, None) is not None:
            log.warning("Redis accepts the script %s again", script.name)

    # The replicas: asked what they have at the end of a batch that changes something.

    def _ask_replicas(self) -> Command:
        """WAIT tells how many replicas have all that this connection wrote, once enough do or the time is over."""
        question = self._own_command(self._loop.time() + self._deadline_s, "WAIT", str(self._replicas), str(CONFIRM_MS))
        question.future.add_done_callback(self._hear_replicas)
        return question

    def _hear_replicas(self, answer: asyncio.Future[Any]) -> None:
        """Answer what was held back, and let the next batch go."""
        if answer.cancelled():
            return  # with its connection: what was held is to be sent again
        self._note_replicas(answer)
        if self._replicas_missing and self._held:
            self.unconfirmed += 1
        while self._held:
            command = self._held.popleft()
            if self._replicas_missing:
                command.fail("Redis did it, but too few replicas confirmed it in time", sent=True)
            elif not command.future.done():
                command.future.set_result(command.reply)
        self._asking = False
        self._work.set()

    def _note_replicas(self, answer: asyncio.Future[Any]) -> None:
        """Refuse changes from now on where too few replicas confirm; take them again once enough do."""
        if answer.cancelled():
            return
        self._heard_at = self._loop.time()
        trouble = answer.exception()
        missing = trouble is not None or answer.result() < self._replicas
        if missing == self._replicas_missing:
            return
        self._replicas_missing = missing
        if missing:
            what = trouble or f"{answer.result()} of {self._replicas}"
            log.warning("%s: %s; changes are refused", TOO_FEW_REPLICAS, what)
        else:
            log.warning("enough Redis replicas confirm again")

    async def _probe(self) -> None:
        """Ask for the server's time again and again: for the clock, for `ready`, and to notice a stall."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            sent_at = time.monotonic()
            answer = self._own(self._loop.time() + self._deadline_s, "TIME")
            if self._replicas_missing:
                words = ("WAIT", str(self._replicas), str(CONFIRM_PROBE_MS))
                self._own(self._loop.time() + self._deadline_s, *words).add_done_callback(self._note_replicas)
            done, _ = await asyncio.wait({answer}, timeout=self._deadline_s)
            while not done and self._loop.time() - self._heard_at < self._deadline_s:  # slow, but it answers others
                done, _ = await asyncio.wait({answer}, timeout=PROBE_EVERY_S)
            if not done or answer.cancelled():
                raise _AwayError(f"no answer for {self._deadline_s} s")
            if answer.exception() is None:
                self._heard_at = self._loop.time()
                self._set_clock(answer.result(), sent_at)
                self.round_trips_s.add(time.monotonic() - sent_at)

    def _own(self, deadline: float, *words: str) -> asyncio.Future[Any]:
        """Queue a command of the pipeline itself, ahead of those that wait."""
        command = self._own_command(deadline, *words)
        self._again.append(command)
        self._work.set()
        return command.future

    def _own_command(self, deadline: float, *words: str) -> Command:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.add_done_callback(lambda future: future.cancelled() or future.exception())  # seen, whoever asked
        return Command(future, None, _pack(words), deadline, mutates=False)

    def _set_clock(self, reply: Sequence[bytes], sent_at: float) -> None:
        """Learn the server's clock from TIME, taken as read halfway between asking and hearing."""
        server_ms = int(reply[0]) * 1000 + int(reply[1]) / 1000
        self._clock_offset_ms = server_ms - (sent_at + time.monotonic()) * 500

    async def _keep_deadlines(self) -> None:
        """Look for commands whose time is over, now and then.

        Those that wait are in order. Of the others, some may be older than what is before them: they were at another
        node first.
        """
        now, watched_s = self._loop.time(), 0.0
        while True:
            await asyncio.sleep(TICK_S)
            before, now = now, self._loop.time()
            # While this process itself stood still, nobody read what the server answered.
            watched_s += min(now - before, 2 * TICK_S)
            if self._window.fit(self.commands, self.commands - len(self._in_flight), watched_s):
                self._heard_at = now
            # What has waited for half of its time would be written too late to be answered.
            patience_s = self._deadline_s / 2 if self._connected else 0.0
            for command in self._again:
                if command.deadline <= now:
                    command.fail("Redis did not take the command in time")
            for queue, spare_s in ((self._again, 0.0), (self._waiting, patience_s)):
                while queue and (queue[0].deadline - spare_s <= now or queue[0].future.done()):
                    queue.popleft().fail("Redis did not take the command in time")
            for command in itertools.chain(self._held, self._in_flight):
                # What is the pipeline's own has limits of its own.
                if command.deadline <= now and command.script is not None:
                    command.fail("Redis did not answer in time", sent=True)
