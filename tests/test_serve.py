"""`serve` as processes: what survives, who replaces whom, and that nothing is lost or left behind."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from aiohttp import web
from redis.asyncio import ConnectionPool
from stand_in import BROKEN, EARLY

from loadtests.release import HAND_OVER
from service import serve
from service.draining import DrainingRunner
from service.embedded import holder_of
from service.listening import ignore_connection_attempts
from service.serve import Patience

WAIT_S = 25  # a bound for a hanging test, far beyond what a slow machine takes


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before the opening, or between that and the reading
        return False


class Service:
    """A stand-in application, served from a folder on a port of its own."""

    def __init__(self, folder: Path, workers: int, redis_url: str | None) -> None:
        self.data_dir = folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.lines_file = folder / "lines"
        self.settings = {
            "port": self.port,
            "share_port": False,
            "redis_url": redis_url,
            "data_dir": str(self.data_dir),
            "workers": workers,
        }
        self.seen: set[int] = set()
        self.environment: dict[str, str] = {}
        self.given: socket.socket | None = None  # the listening socket that is handed over to it

    def start(self) -> "Service":
        self.launch()
        until(self.answers, "an answer")
        self.seen |= set(self.web_processes())
        if self.settings["redis_url"] is None:
            self.seen.add(self.valkey())
        return self

    def launch(self) -> None:
        command = [sys.executable, str(Path(__file__).parent / "stand_in.py"), json.dumps(self.settings)]
        given = [self.given.fileno()] if self.given else []
        with self.lines_file.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", HAND_OVER, str(given[0]), *command] if given else command,
                stdout=output,
                stderr=output,
                start_new_session=True,  # so that a signal to its group does not reach the tests
                env=os.environ | self.environment,
                pass_fds=given,
            )

    def answers(self) -> bool:
        assert self.process.poll() is None, self.lines()
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, pid = self.ask("GET", "/process")
            # A web process of a killed master may answer for up to another second.
            return status == 200 and int(pid) in self.web_processes()
        return False

    def ask(self, method: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def count(self, by: int = 1) -> int:
        """Count up in the store; the new sum."""
        status, text = self.ask("POST", f"/count/tickets?by={by}")
        assert status == 200
        return int(text)

    def counts_again(self, by: int) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("POST", f"/count/tickets?by={by}")[0] == 200
        return False

    def valkey(self) -> int:
        holder = holder_of(self.data_dir)
        assert holder is not None
        return holder.server_pid

    def web_processes(self) -> list[int]:
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        holder = holder_of(self.data_dir)
        return [pid for pid in map(int, text.split()) if holder is None or pid != holder.server_pid]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal to the master alone; its exit code."""
        self.seen |= set(self.web_processes())
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def lines(self) -> str:
        return self.lines_file.read_text()

    def nothing_is_left(self) -> None:
        until(lambda: not any(runs(pid) for pid in self.seen), "the end of every process")


@pytest.fixture
def make_service(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    made: list[Service] = []

    def make(workers: int = 2, redis_url: str | None = None) -> Service:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Service(folder, workers, redis_url))
        return made[-1]

    yield make
    for service in made:
        if service.process.poll() is None:
            service.process.terminate()
            service.process.wait(WAIT_S)
        service.nothing_is_left()


def test_says_where_it_listens_and_what_it_uses(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    lines = service.lines()
    assert re.search(rf"^matinee: Matinee \S+ on http://127\.0\.0\.1:{service.port}$", lines, re.MULTILINE)
    assert f"store: Valkey 9.1.2, embedded, data in {service.data_dir}" in lines
    assert "persistence: append-only file, flushed once a second" in lines
    assert "programme: main (20 seats, 18:00, UTC)" in lines
    assert "access: protected mode" in lines
    assert "web processes: 2" in lines


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="reads the limit in Linux's /proc")
def test_as_many_connections_are_allowed_as_the_system_lets(make_service: Callable[..., Service]) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (usual[1] // 2, usual[1]))
    try:
        service = make_service().start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    for pid in service.web_processes():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(rf"^Max open files +{usual[1]} +{usual[1]} ", limits, re.MULTILINE), limits


def test_data_survive_a_stop_and_a_start(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    assert service.count() == 1
    assert service.end() == 0
    service.nothing_is_left()
    service.start()
    assert service.count() == 2


def test_ctrl_c_reaches_the_whole_group_and_ends_all_in_order(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    assert service.count() == 1
    os.killpg(service.process.pid, signal.SIGINT)
    assert service.process.wait(WAIT_S) == 0
    service.nothing_is_left()
    assert "Traceback" not in service.lines()
    assert "ready to exit" in (service.data_dir / "valkey.log").read_text(), "Valkey ended by itself, in order"
    service.start()
    assert service.count() == 2


def test_a_killed_master_leaves_no_orphan_and_the_next_start_goes_on(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    assert service.count() == 1
    service.end(signal.SIGKILL)
    service.start()  # at once, on the same folder and port
    assert service.count() == 2
    service.end()
    service.nothing_is_left()


def test_a_request_that_outlives_a_killed_master_does_not_hold_the_folder(
    make_service: Callable[..., Service],
) -> None:
    service = make_service(workers=1).start()
    connection = begin_slow_request(service, seconds=3600)
    (still_at_it,) = service.web_processes()
    service.end(signal.SIGKILL)
    service.start()
    assert runs(still_at_it), "the folder and the port were free before it ended"
    os.kill(still_at_it, signal.SIGKILL)
    connection.close()


def test_a_killed_valkey_is_started_again_with_its_data(make_service: Callable[..., Service]) -> None:
    service = make_service().start()
    assert service.count() == 1
    killed = service.valkey()
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.counts_again(by=0), "Valkey's return")
    service.seen.add(service.valkey())
    assert service.valkey() != killed
    assert service.count() == 2
    assert "the embedded Valkey ended: it was killed" in service.lines()
    assert service.end() == 0
    service.nothing_is_left()


def test_a_killed_web_process_is_replaced(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=1).start()
    (killed,) = service.web_processes()
    os.kill(killed, signal.SIGKILL)
    until(lambda: service.web_processes() not in ([], [killed]), "another web process")
    until(service.answers, "an answer of the new process")
    assert int(service.ask("GET", "/process")[1]) != killed


def test_a_second_start_on_the_folder_is_refused_and_harms_nothing(
    make_service: Callable[..., Service],
) -> None:
    first, second = make_service().start(), make_service()
    assert first.count() == 1
    second.settings["data_dir"] = str(first.data_dir)
    second.launch()
    assert second.process.wait(WAIT_S) == 1
    assert second.lines() == (
        f"matinee: another Matinee (process {first.process.pid}) runs on the data folder {first.data_dir}: "
        "stop it, or choose another folder with MATINEE_DATA_DIR\n"
    )
    assert first.count() == 2
    assert first.end() == 0
    assert first.start().count() == 3


def test_web_processes_that_cannot_start_stop_the_service_with_one_line(
    make_service: Callable[..., Service],
) -> None:
    service = make_service()
    service.data_dir.mkdir()
    (service.data_dir / BROKEN).touch()
    service.launch()
    assert service.process.wait(WAIT_S) == 1
    assert service.lines().count("this is broken") == 1
    assert re.fullmatch(
        r"matinee: a web process cannot start: RuntimeError: this is broken \(stand_in\.py:\d+\)",
        service.lines().splitlines()[-1],
    )
    assert holder_of(service.data_dir) is None, "Valkey has ended"


def test_a_later_web_process_that_cannot_start_is_tried_again(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=1).start()
    (service.data_dir / BROKEN).touch()
    os.kill(service.web_processes()[0], signal.SIGKILL)
    until(lambda: "this is broken (stand_in.py" in service.lines(), "the failure")
    (service.data_dir / BROKEN).unlink()
    until(service.answers, "an answer")


def test_a_web_process_that_is_told_to_end_before_it_serves_does_so(make_service: Callable[..., Service]) -> None:
    """uvloop loses a signal that comes when its loop does not run yet; the end of the service then took 30 s."""
    service = make_service()
    service.data_dir.mkdir()
    (service.data_dir / EARLY).touch()
    service.start()
    until(lambda: list(service.data_dir.glob(f"{EARLY}.*")), "the signal")
    [told] = service.data_dir.glob(f"{EARLY}.*")
    until(lambda: not runs(int(told.suffix[1:])), "the end of the process that was told to end")
    until(lambda: len(service.web_processes()) == 2, "another one in its place")


def test_a_running_request_ends_before_the_service_does(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=1).start()
    connection = begin_slow_request(service, seconds=1)
    service.process.terminate()
    answer = connection.getresponse()
    assert answer.read() == b"done"
    assert answer.headers["Connection"] == "close", "so that the client sends no further request there"
    connection.close()
    assert service.process.wait(WAIT_S) == 0


def test_a_second_ctrl_c_hurries(make_service: Callable[..., Service]) -> None:
    service = make_service(workers=1).start()
    connection = begin_slow_request(service, seconds=3600)
    service.process.send_signal(signal.SIGINT)
    until(lambda: is_refused(service.port), "the closing of the port")
    service.process.send_signal(signal.SIGINT)
    # Without the second one it would wait longer than WAIT_S for the request.
    assert service.process.wait(WAIT_S) == 0
    connection.close()


def begin_slow_request(service: Service, seconds: float) -> http.client.HTTPConnection:
    """Send a request that takes so long, and return once a web process is at it."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=WAIT_S)
    connection.request("GET", f"/slow?s={seconds}")
    holder = holder_of(service.data_dir)
    assert holder is not None
    with redis.Redis.from_url(holder.url) as store:
        until(lambda: store.get("slow"), "the request's begin")
    return connection


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=0.1).close()
    except TimeoutError:
        return False
    except ConnectionRefusedError:
        return True
    return False


def test_serves_on_a_server_of_ones_own(make_service: Callable[..., Service], server_url: str) -> None:
    service = make_service(workers=1, redis_url=server_url).start()
    assert service.count() == 1
    assert not service.data_dir.exists()
    assert service.end() == 0
    with redis.Redis.from_url(server_url) as store:
        assert store.get("tickets") == b"1"


class Tally(msgspec.Struct):
    """What the clients of a load saw. `lost`: a request was sent and no whole answer came."""

    over: bool = False
    answered: int = 0
    refused: int = 0
    lost: list[str] = []


async def client(port: int, tally: Tally, keep_alive: bool) -> None:
    """Send one request after the other, as browsers and proxies do: reconnect when the answer says so."""
    request = b"GET /process HTTP/1.1\r\nHost: localhost\r\n" + (b"" if keep_alive else b"Connection: close\r\n")
    while not tally.over:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            tally.refused += 1
            await asyncio.sleep(0.01)
            continue
        goes_on = True
        while goes_on and not tally.over:
            writer.write(request + b"\r\n")
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(re.search(rb"content-length: (\d+)", head)[1]))
            except (OSError, asyncio.IncompleteReadError) as error:
                tally.lost.append(repr(error))
                break
            tally.answered += 1
            goes_on = b"connection: close" not in head
        writer.close()


@contextlib.asynccontextmanager
async def load(port: int):
    """32 busy clients, half of them on lasting connections, for as long as the block runs."""
    tally = Tally()
    async with asyncio.TaskGroup() as clients:
        for number in range(32):
            clients.create_task(client(port, tally, keep_alive=number % 2 == 0))
        await answers(tally, 500)
        try:
            yield tally
        finally:
            tally.over = True


async def answers(tally: Tally, more: int) -> None:
    """Wait for so many more answers."""
    goal = tally.answered + more
    async with asyncio.timeout(WAIT_S):
        while tally.answered < goal:  # noqa: ASYNC110  an event for each answer would slow the clients
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_under_load_loses_no_request(make_service: Callable[..., Service], workers: int) -> None:
    service = make_service(workers).start()
    async with load(service.port) as tally:
        assert await asyncio.to_thread(service.end) == 0
    assert tally.lost == []
    assert tally.answered >= 500


async def test_sighup_replaces_the_web_processes_and_loses_no_request(
    make_service: Callable[..., Service],
) -> None:
    service = make_service().start()
    async with load(service.port) as tally:
        for _ in range(2):
            before = set(service.web_processes())
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(until, lambda old=before: not any(map(runs, old)), "the end of the old processes")
            await answers(tally, 500)
    assert tally.lost == []
    assert tally.refused == 0


async def test_a_second_start_on_a_shared_port_takes_over_and_loses_no_request(
    make_service: Callable[..., Service], real_urls: dict[str, str]
) -> None:
    """One that fails does no harm either: the kernel gives it no connection before it serves."""
    first, second = (make_service(redis_url=real_urls["valkey"]) for _ in range(2))
    first.settings["share_port"] = second.settings["share_port"] = True
    first.start()
    second.port = second.settings["port"] = first.port
    second.data_dir.mkdir()
    (second.data_dir / BROKEN).touch()
    async with load(first.port) as tally:
        second.launch()
        assert await asyncio.to_thread(second.process.wait, WAIT_S) == 1
        assert "a web process cannot start" in second.lines()
        (second.data_dir / BROKEN).unlink()
        second.launch()
        await asyncio.to_thread(until, lambda: "matinee: ready" in second.lines(), "the second start")
        assert await asyncio.to_thread(first.end) == 0
        await answers(tally, 500)
    assert second.answers()
    assert tally.lost == []
    assert tally.refused == 0


async def test_a_restart_on_a_socket_that_is_handed_over_loses_no_request(make_service: Callable[..., Service]) -> None:
    """The embedded server restarts too; what comes meanwhile waits in the queue of the socket."""
    service = make_service(workers=1)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as service.given:
        service.port = service.given.getsockname()[1]
        service.start()
        async with load(service.port) as tally:
            assert await asyncio.to_thread(service.end) == 0
            await asyncio.to_thread(service.start)
            await answers(tally, 500)
        assert service.end() == 0
    assert tally.lost == []
    assert tally.refused == 0
    assert f"on http://127.0.0.1:{service.port}" in service.lines()


def test_whoever_started_it_hears_when_it_serves_and_when_it_ends(
    make_service: Callable[..., Service], tmp_path: Path
) -> None:
    service = make_service()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("\0" + str(tmp_path))  # an abstract name, which has no limit of its length worth the name
        ear.settimeout(WAIT_S)
        service.environment["NOTIFY_SOCKET"] = f"@{tmp_path}"
        service.launch()
        assert ear.recv(100) == b"READY=1"
        assert service.answers()
        assert service.lines().endswith("matinee: ready\n")
        assert service.end() == 0
        assert ear.recv(100) == b"STOPPING=1"


async def test_a_connection_that_was_being_made_as_the_drain_began_hears_of_the_end_too() -> None:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", hello)
    runner = DrainingRunner(app, ConnectionPool(), grace_s=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    accepted = runner.server()  # the event loop makes the protocol first, and the connection a turn later
    draining = asyncio.create_task(runner.cleanup())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ignore_connection_attempts(theirs)  # as it was inherited from the listening socket
    await asyncio.get_running_loop().connect_accepted_socket(lambda: accepted, theirs)
    async with asyncio.timeout(WAIT_S):
        while runner.sites:  # noqa: ASYNC110  it has no event for that
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"connection: close" in (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.close()
        await draining


def test_patience_grows_while_new_processes_die_young(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(serve.time, "monotonic", lambda: now)
    patience = Patience()
    patience.lost(lived_s=1)
    assert patience.is_over, "the first one is replaced at once"
    waits = []
    for _ in range(9):
        patience.lost(lived_s=1)
        began = now
        while not patience.is_over:
            now += 0.5
        waits.append(now - began)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30, 30]
    for _ in range(1100):  # nine hours of it
        patience.lost(lived_s=1)
    now += 30
    patience.lost(lived_s=3600)
    assert patience.is_over, "one that lived long is replaced at once again"
