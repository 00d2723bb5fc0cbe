"""Faults of the web processes and of their clients."""

import asyncio
import contextlib
import datetime
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path

from loadtests.release import other_version
from service.scripts import BOOK
from tests.chaos.client import Client, HttpWindow, NoAnswerError
from tests.chaos.service import ROOT, Service, until
from tests.chaos.stage import Stage, scenario
from tests.history.crowd import UNCLEAR, Crowd

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@scenario(
    "web-killed",
    failure="SIGKILL of a web process under load, again and again",
    promise="no answered booking is lost; another process takes over",
)
async def web_killed(stage: Stage) -> None:
    async with stage.service(workers=2) as service, stage.crowd(service) as crowd:
        returns = []
        for _ in range(stage.times(5)):
            await crowd.answers(500)
            os.kill(stage.dice.choice(service.web_processes()), signal.SIGKILL)
            returns.append(await crowd.recovers())
        stage.figures["first change after a kill, s"] = ", ".join(map(str, returns))


# Another version


class Fresh(Client):
    """A client that makes a new connection for each request."""

    async def ask(self, *request, **more):
        """Ask, and hang up after the answer."""
        try:
            return await super().ask(*request, **more)
        finally:
            self.close()


@scenario(
    "release",
    failure="a release: another version, whose scripts have other digests, starts on the shared port, both serve, then"
    " the first one is told to end; again and again",
    promise="both sell the same seats; a key repeated at the other is the same ticket; no request fails",
    quick=0.2,
)
async def release(stage: Stage) -> None:
    other = other_version(stage.new_folder())
    trees = itertools.cycle((other, ROOT))
    with stage.valkey() as valkey:
        async with stage.service(store=valkey, environment={"MATINEE_SHARE_PORT": "on"}) as service:
            # Without lasting connections the calls about one ticket go to the one version and to the other.
            clients = [Fresh(service.port) if number % 4 else Client(service.port) for number in range(32)]
            async with stage.crowd_at([HttpWindow(client) for client in clients]) as crowd:
                for _ in range(stage.times(5)):
                    await crowd.answers(300)
                    former = await service.start_beside(next(trees))
                    await crowd.answers(600)
                    await _expect_the_same_of_both(stage, service)
                    former.terminate()
                    await until(lambda former=former: former.poll() is not None, "the end of the former version")
                    stage.expect(former.returncode == 0, f"it ended with code {former.returncode}")
                await crowd.answers(300)
            known = valkey.client.script_exists(
                BOOK.sha, sha1((other / "service/lua/book.lua").read_bytes()).hexdigest()
            )
            stage.expect(all(known), "the versions have not both booked")
    failed = Counter(call.code for call in stage.calls if call.code in UNCLEAR)
    stage.expect(not failed, f"requests failed: {dict(failed)}")
    stage.figures["failed requests"] = failed.total()


async def _expect_the_same_of_both(stage: Stage, service: Service) -> None:
    """The booking of one key, and the list with its ticket, asked for on connections that either version may get."""
    booked = await stage.person(service).book(stage.dice.choice(stage.labels), with_key=True)
    wish = {"name": booked.name, "phone": booked.phone, "timing": booked.showtime}
    headers = {"Idempotency-Key": f"key-{booked.name.removeprefix('Guest ')}"}
    for _ in range(8 if booked.outcome == "done" else 0):
        answer = await Fresh(service.port).ask("POST", "/v1/tickets", wish, headers)
        stage.expect(
            (answer.status, answer.json.get("ticket_id")) == (201, booked.ticket_id),
            f"a repeated key is answered {answer.status} {answer.body!r}",
        )
        listed = await Fresh(service.port).ask("GET", f"/v1/theatres/main/showtimes/{booked.showtime}/tickets")
        stage.expect(
            booked.ticket_id in {each["ticket_id"] for each in listed.json["tickets"]}, "a ticket that is not listed"
        )


# Clients that go away


class Impatient(Client):
    """A client that hangs up on every second answer, at a random moment."""

    dice: random.Random
    hung_up = 0

    async def ask(self, *request, **more):
        """Ask, and perhaps do not wait for the answer."""
        hurries = self.dice.random() < 0.5
        self.timeout_s = self.dice.random() * 0.03 if hurries else 10.0
        try:
            return await super().ask(*request, **more)
        except NoAnswerError:
            self.hung_up += hurries
            raise


@scenario(
    "clients-abort",
    failure="10,000 requests whose clients hang up at a random moment",
    promise="no answer reaches another request; the connections to Redis stay; what was done is done once",
)
async def clients_abort(stage: Stage) -> None:
    wanted = stage.times(10_000)
    with stage.valkey() as valkey:
        async with stage.service(store=valkey, capacity=10_000) as service:
            clients = [Impatient(service.port) for _ in range(64)]
            for client in clients:
                client.dice = random.Random(stage.dice.random())
            async with stage.crowd_at([HttpWindow(client) for client in clients]):
                while sum(client.hung_up for client in clients) < wanted:  # noqa: ASYNC110  an event would cost as much
                    await asyncio.sleep(0.05)
            stage.figures["hung up"] = sum(client.hung_up for client in clients)
            reconnects = service.log.read_text().count("connection to Redis is lost")
            stage.figures["new connections to Redis"] = reconnects
            stage.expect(reconnects == 0, f"{reconnects} new connections to Redis")


# A clock that is wrong

HOUR = datetime.timedelta(hours=1)
SHIFTED_CLOCK = """
import datetime, time
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + {shift_s}
time.time_ns = lambda: _time_ns() + {shift_s} * 10**9
class datetime_shifted(_datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.now(datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime = datetime_shifted
"""


@scenario(
    "clock-wrong",
    failure="the clocks of two web machines are an hour wrong, one fast, one slow (a shim shifts Python's clock)",
    promise="both sell what Redis's clock says is open, and neither what has begun; timings mean the same showtime",
    quick=1.0,
)
async def clock_wrong(stage: Stage) -> None:
    now = datetime.datetime.now(datetime.UTC)
    begun, soon = now - HOUR / 2, now + HOUR / 2
    timings = sorted({f"{each:%H:%M}" for each in (begun, soon)})
    with stage.valkey() as valkey, contextlib.ExitStack():
        services = []
        async with contextlib.AsyncExitStack() as running:
            for shift_s in (-3600, 3600):
                environment = {"PYTHONPATH": str(_clock(stage, shift_s)), "MATINEE_TIMINGS": ",".join(timings)}
                service = stage.service(workers=1, store=valkey, environment=environment)
                services.append(await running.enter_async_context(service))
            meant = set()
            for service in services:
                person = stage.person(service)
                sold = await person.book(f"{soon:%Y-%m-%dT%H:%M}")
                stage.expect(sold.outcome == "done", f"what begins in half an hour: {sold.code or sold.outcome}")
                refused = await person.book(f"{begun:%Y-%m-%dT%H:%M}")
                stage.expect(refused.code == "showtime_closed", f"what has begun: {refused.code or refused.outcome}")
                answer = await Client(service.port).ask("GET", "/")
                meant.add(tuple(each["showtime"] for each in answer.json["showtimes"]))
                drift_s = _date_header(answer.header("Date")) - datetime.datetime.now(datetime.UTC)
                stage.expect(abs(drift_s) > HOUR * 0.9, f"the clock is not wrong: {drift_s}")
            stage.expect(len(meant) == 1, f"the timings mean different showtimes: {meant}")


def _clock(stage: Stage, shift_s: int) -> Path:
    """A folder which, in PYTHONPATH, shifts the clock of a process."""
    folder = stage.new_folder()
    (folder / "sitecustomize.py").write_text(SHIFTED_CLOCK.format(shift_s=shift_s))
    return folder


def _date_header(text: str | None) -> datetime.datetime:
    return datetime.datetime.strptime(text or "", "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=datetime.UTC)


# Clients that are slow, idle, or send too much

HEAD_DEADLINE_S = 10.0
BODY_DEADLINE_S = 10.0
CONNECTIONS_MAX = 8192


async def _opened(service: Service, count: int) -> list[Streams]:
    return [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(count)]


async def _end_of(reader: asyncio.StreamReader) -> None:
    """Wait until the service has closed the connection."""
    with contextlib.suppress(OSError):
        await reader.read()


def _aborted(connections: list[Streams]) -> None:
    for _, writer in connections:
        writer.transport.abort()


def _percentile_ms(stage: Stage, first: int, share: float = 0.99) -> float:
    """How long answers took since the call of that number: of all within `share`."""
    times = sorted(call.longest_s for call in stage.calls[first:] if call.outcome != "unknown")
    return round(times[int(len(times) * share)] * 1000, 1) if times else 0.0


async def _at_peace(stage: Stage, crowd: Crowd) -> float:
    """The 99th percentile before anything is wrong."""
    first = len(stage.calls)
    await crowd.answers(stage.times(2000))
    return _percentile_ms(stage, first)


@scenario(
    "slow-clients",
    failure="1,000 clients who send their head, and 500 who send their body, a byte a second",
    promise="all are closed when their 10 s are over; everybody else is served as before",
)
async def slow_clients(stage: Stage) -> None:
    async with stage.service(workers=2) as service, stage.crowd(service) as crowd:
        before_ms = await _at_peace(stage, crowd)
        first = len(stage.calls)
        heads = await _opened(service, stage.times(1000))
        bodies = await _opened(service, stage.times(500))
        for _, writer in heads:
            writer.write(b"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for _, writer in bodies:
            writer.write(
                b"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 100\r\n\r\n"
            )
        ends = [asyncio.create_task(_end_of(reader)) for reader, _ in heads + bodies]
        began = time.monotonic()
        while time.monotonic() - began < HEAD_DEADLINE_S + 4 and not all(end.done() for end in ends):
            for _, writer in heads + bodies:
                if not writer.is_closing():
                    writer.write(b"x")
            await asyncio.sleep(1)
        open_heads = sum(not end.done() for end in ends[: len(heads)])
        open_bodies = sum(not end.done() for end in ends[len(heads) :])
        stage.figures["all closed after, s"] = round(time.monotonic() - began)
        during_ms = _percentile_ms(stage, first)
        stage.figures |= {"p99 before, ms": before_ms, "p99 with them, ms": during_ms}
        stage.expect(open_heads == 0, f"{open_heads} connections are open whose head has not come for 14 s")
        stage.expect(open_bodies == 0, f"{open_bodies} connections are open whose body has not come for 14 s")
        stage.expect(during_ms < 10 * before_ms + 200, f"p99 went from {before_ms} to {during_ms} ms")
        _aborted(heads + bodies)


@scenario(
    "idle-connections",
    failure="10,000 clients who keep their connection and ask for nothing, at one web process",
    promise="it holds 8,192 and lets those go that have idled the longest; everybody else is served as before",
)
async def idle_connections(stage: Stage) -> None:
    count = stage.times(10_000)
    async with stage.service(workers=1) as service, stage.crowd(service) as crowd:
        before_ms = await _at_peace(stage, crowd)
        memory_kib = service.memory_kib()
        first = len(stage.calls)
        idle: list[Streams] = []
        for _ in range(0, count, 100):
            more = await _opened(service, 100)
            for _, writer in more:
                writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            for reader, _ in more:
                await reader.readuntil(b'"ok"}')
            idle += more
        await crowd.answers(stage.times(2000))
        during_ms = _percentile_ms(stage, first)
        held = sum(not reader.at_eof() for reader, _ in idle)
        stage.figures |= {
            "opened": len(idle),
            "held": held,
            "KiB of memory each": round((service.memory_kib() - memory_kib) / max(1, held), 1),
            "p99 before, ms": before_ms,
            "p99 with them, ms": during_ms,
        }
        stage.expect(held <= CONNECTIONS_MAX, f"{held} idle connections are held")
        stage.expect(held >= min(count, CONNECTIONS_MAX) * 0.95, f"only {held} idle connections are held")
        stage.expect(during_ms < 10 * before_ms + 200, f"p99 went from {before_ms} to {during_ms} ms")
        _aborted(idle)
    lost = sum(call.code in {"no answer", "not sent"} for call in stage.calls)
    stage.expect(lost == 0, f"{lost} calls of the others were lost")


TOO_MUCH: dict[str, tuple[bytes, Callable[[], Iterator[bytes]], tuple[int, ...]]] = {
    "a body of 1 MiB": (
        b"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1048576\r\n\r\n",
        lambda: iter([bytes(65536)] * 16),
        (413,),
    ),
    "a body without an end": (
        b"POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        lambda: iter([b"8000\r\n" + bytes(0x8000) + b"\r\n"] * 512),
        (413,),
    ),
    "a field of 1 MiB": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Large: ", lambda: iter([b"x" * 65536] * 16), (400,)),
    "a path of 1 MiB": (b"GET /", lambda: iter([b"x" * 65536] * 16), (400,)),
    "fields without an end": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        lambda: (b"X-%d: %s\r\n" % (n, b"x" * 4000) for n in range(4096)),
        (400,),
    ),
}


@scenario(
    "over-limits",
    failure="bodies, fields, paths and heads far over their limits, 200 at a time",
    promise="413 or 400 and the end of the connection; less than 1 MiB of memory for each; everybody else is served",
)
async def over_limits(stage: Stage) -> None:
    at_once = stage.times(200)
    async with stage.service(workers=1) as service, stage.crowd(service) as crowd:
        await crowd.answers(500)
        memory_kib = [service.memory_kib()]
        for _ in range(3):
            for what, (head, rest, statuses) in TOO_MUCH.items():
                said = await asyncio.gather(*(_send_too_much(service, head, rest()) for _ in range(at_once)))
                wrong = {status for status in said if status not in (*statuses, 0)}
                stage.expect(not wrong, f"{what} is answered {wrong}")
                stage.figures[f"heard {statuses[0]} for {what}"] = f"{sum(map(bool, said))} of {len(said)}"
            memory_kib.append(service.memory_kib())
        stage.figures["memory before and after each round, MiB"] = ", ".join(str(kib // 1024) for kib in memory_kib)
        stage.expect(max(memory_kib) < memory_kib[0] + at_once * 1024, f"memory grew: {memory_kib} KiB")
        await crowd.recovers()


async def _send_too_much(service: Service, head: bytes, rest: Iterator[bytes]) -> int:
    """Send on until the service ends the connection; the status it said, 0 where its word was lost in that."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    said = asyncio.ensure_future(reader.read(12))
    try:
        async with asyncio.timeout(30):
            writer.write(head)
            for piece in rest:
                if said.done():
                    break
                writer.write(piece)
                await writer.drain()
            return int((await said)[9:12] or b"0")
    except OSError:
        return int(said.result()[9:12] or b"0") if said.done() and not said.exception() else 0
    finally:
        said.cancel()
        writer.transport.abort()
