"""/metrics: what the service counts of itself, right over any number of web processes, and about nobody."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_client
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import ConnectionPool

from service import __version__, metrics
from service.app import create_app
from service.histogram import Histogram
from service.programme import programme_from
from service.routes import ROUTES
from service.settings import Settings

NAME, PHONE = "Asha Rao", "+919812345678"
BOOKING = json.dumps({"name": NAME, "phone": PHONE, "timing": "18:00"})
JSON = {"Content-Type": "application/json"}


def samples(text: str) -> dict[str, float]:
    """`name{label="value"}` → value, for every sample of a scrape."""
    return {
        f"{sample.name}{json.dumps(sample.labels)}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text).get(f"{name}{json.dumps(labels)}", 0.0)


@pytest.fixture
async def client(pool: ConnectionPool) -> Iterator[TestClient]:
    settings = Settings.from_environment({"MATINEE_TIMINGS": "18:00", "MATINEE_CAPACITY": "2"})
    async with TestClient(TestServer(create_app(settings, programme_from(settings), pool))) as client:
        yield client


async def test_a_scrape_tells_requests_by_route_and_bookings_by_outcome(client: TestClient) -> None:
    ids = []
    for _ in range(3):
        answer = await client.post("/v1/tickets", data=BOOKING, headers=JSON)
        ids.append((await answer.json()).get("ticket_id"))
    assert (await client.delete(f"/v1/tickets/{ids[0]}")).status == 204
    await client.get("/no/such/page")
    await client.put("/livez")

    scrape = await client.get("/metrics")
    assert scrape.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    text = await scrape.text()
    assert value(text, "matinee_bookings_total", outcome="booked") == 2
    assert value(text, "matinee_bookings_total", outcome="sold_out") == 1
    assert value(text, "matinee_tickets_total", event="cancelled") == 1
    requests = {"method": "POST", "route": "/v1/tickets"}
    assert value(text, "matinee_http_requests_total", **requests, status="201") == 2
    assert value(text, "matinee_http_requests_total", **requests, status="409") == 1
    assert value(text, "matinee_http_request_duration_seconds_count", **requests) == 3
    assert value(text, "matinee_http_requests_total", method="any", route="none", status="404") == 1
    assert value(text, "matinee_http_requests_total", method="other", route="/livez", status="405") == 1
    assert value(text, "matinee_redis_ready") == 1
    assert value(text, "matinee_redis_commands_total") >= 5


async def test_a_listener_without_room_is_counted_as_shed(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.live.LISTENERS_MAX", 0)
    assert (await client.get("/v1/theatres/main/showtimes/stream")).status == 503
    text = await (await client.get("/metrics")).text()
    shed = {what: value(text, "matinee_shed_total", what=what) for what in ("command", "listener", "connection")}
    assert shed == {"command": 0, "listener": 1, "connection": 0}
    assert value(text, "matinee_build_info", version=__version__) == 1


async def test_labels_are_templates_and_no_personal_data_is_told(client: TestClient) -> None:
    answer = await client.post("/v1/tickets", data=BOOKING, headers=JSON)
    ticket_id = (await answer.json())["ticket_id"]
    await client.get(f"/v1/tickets/{ticket_id}")
    await client.get(f"/v1/tickets/{ticket_id}-guess?phone={PHONE}")
    text = await (await client.get("/metrics")).text()
    for secret in (ticket_id, NAME, PHONE, PHONE[1:]):
        assert secret not in text
    templates = {route.path for route in ROUTES} | {"none"}
    assert set(re.findall(r'route="([^"]*)"', text)) <= templates


async def test_the_box_office_alone_sees_the_counts(pool: ConnectionPool) -> None:
    settings = Settings.from_environment({"MATINEE_STAFF_TOKEN": "a-token-of-twenty-chars"})
    async with TestClient(TestServer(create_app(settings, programme_from(settings), pool))) as client:
        assert (await client.get("/metrics")).status == 401
        bearer = {"Authorization": "Bearer a-token-of-twenty-chars"}
        assert (await client.get("/metrics", headers=bearer)).status == 200


def test_many_values_handed_over_at_once_count_like_single_ones() -> None:
    """Guards the private parts of prometheus_client that `_hand_over` uses."""
    bounds = (0.001, 0.01, 0.1, 1.0)
    values = [0.0, 0.001, 0.0011, 0.05, 0.1, 0.7, 5.0, 5.0]
    ours, theirs = (prometheus_client.CollectorRegistry() for _ in range(2))
    tallied = Histogram(bounds)
    shown = prometheus_client.Histogram("seconds", "", buckets=bounds, registry=ours)
    observed = prometheus_client.Histogram("seconds", "", buckets=bounds, registry=theirs)
    for each in values:
        tallied.add(each)
        observed.observe(each)
    metrics._hand_over(tallied, shown)
    without_birth = re.compile(rb"\n[^\n]*_created [^\n]*")
    ours_text, theirs_text = (
        without_birth.sub(b"", prometheus_client.generate_latest(registry)) for registry in (ours, theirs)
    )
    assert ours_text == theirs_text
    assert tallied.take() == ([0] * 5, 0.0)


class Processes:
    """`matinee serve` with several web processes."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "MATINEE_PORT": str(self.port),
            "MATINEE_DATA_DIR": str(folder / "data"),
            "MATINEE_WORKERS": str(workers),
            "MATINEE_CAPACITY": "1000",
            "TMPDIR": str(folder),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "serve"],
            env=environment,
            cwd=Path(__file__).parent.parent,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ask(self, method: str, path: str, body: str | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, JSON if body else {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def web_processes(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [pid for pid in map(int, children) if "service\0serve" in Path(f"/proc/{pid}/cmdline").read_text()]

    def eventually(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 25
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.02)


@pytest.fixture
def two_processes(tmp_path: Path) -> Iterator[Processes]:
    service = Processes(tmp_path, workers=2)
    try:
        service.eventually(lambda: service.ask("GET", "/readyz")[0] == 200, "the service")
        service.eventually(lambda: value(service.ask("GET", "/metrics")[1], "matinee_redis_ready") == 2, "both")
        yield service
    finally:
        service.process.terminate()
        service.process.wait(25)
    assert not list(tmp_path.glob("matinee-metrics-*")), "the folder of the counts is left behind"


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the web processes through Linux's /proc")
def test_the_counts_of_all_web_processes_are_summed_and_outlive_one(two_processes: Processes) -> None:
    def booked() -> float:
        return value(two_processes.ask("GET", "/metrics")[1], "matinee_bookings_total", outcome="booked")

    for _ in range(40):  # each on a connection of its own, so both processes get some
        assert two_processes.ask("POST", "/v1/tickets", BOOKING)[0] == 201
    two_processes.eventually(lambda: booked() == 40, "40 bookings to be counted")

    os.kill(two_processes.web_processes()[0], signal.SIGKILL)
    two_processes.eventually(
        lambda: value(two_processes.ask("GET", "/metrics")[1], "matinee_redis_ready") == 2, "its successor"
    )
    assert booked() == 40


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the web processes through Linux's /proc")
def test_the_counts_outlive_a_replacement_of_all_web_processes(two_processes: Processes) -> None:
    """A process that drains ends in order, and must not take the folder of all along."""
    assert two_processes.ask("POST", "/v1/tickets", BOOKING)[0] == 201
    replaced = set(two_processes.web_processes())
    two_processes.process.send_signal(signal.SIGHUP)
    two_processes.eventually(lambda: not replaced & set(two_processes.web_processes()), "the end of the old ones")
    two_processes.eventually(
        lambda: value(two_processes.ask("GET", "/metrics")[1], "matinee_redis_ready") == 2, "the new ones"
    )
    text = two_processes.ask("GET", "/metrics")[1]
    assert value(text, "matinee_bookings_total", outcome="booked") == 1


def test_a_scrape_while_a_web_process_begins_is_answered(two_processes: Processes) -> None:
    """Its files are there then, and empty."""
    [folder] = two_processes.folder.glob("matinee-metrics-*")
    (folder / "counter_0.db").touch()
    (folder / "gauge_livesum_0.db").touch()
    status, text = two_processes.ask("GET", "/metrics")
    assert (status, value(text, "matinee_web_processes")) == (200, 2)


async def test_the_counters_of_one_process_need_no_folder(client: TestClient) -> None:
    assert metrics.FOLDER_VARIABLE not in os.environ
    await asyncio.gather(*(client.get("/livez") for _ in range(5)))
    text = await (await client.get("/metrics")).text()
    assert value(text, "matinee_http_requests_total", method="GET", route="/livez", status="200") == 5
