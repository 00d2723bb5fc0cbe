"""`matinee`: one line for each error, never a traceback."""

import os
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service import __version__
from service.embedded import EmbeddedServer
from service.settings import describe

ROOT = Path(__file__).parent.parent


def matinee(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")}
    return subprocess.run(
        [sys.executable, "-m", "service", *words],
        cwd=ROOT,
        env=environment | {f"MATINEE_{name}": text for name, text in settings.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_tells_its_version_and_its_settings() -> None:
    assert matinee("--version").stdout == f"matinee {__version__}\n"
    assert describe() in matinee("--help").stdout


@pytest.mark.parametrize("command", ["serve", "check", "health"])
def test_a_bad_setting_is_one_line(command: str) -> None:
    answer = matinee(command, PORT="5000 or so", LOG_FORMAT="text")
    assert answer.returncode == 1
    assert re.fullmatch(r"matinee: MATINEE_PORT is '5000 or so', but must be .*\n", answer.stderr)


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_server_out_of_reach_is_one_line(command: str) -> None:
    answer = matinee(command, REDIS_URL="redis://:s3cret@127.0.0.1:1", LOG_FORMAT="text")
    assert answer.returncode == 1
    assert re.fullmatch(r"matinee: cannot reach the server at 127\.0\.0\.1:1: .*\n", answer.stderr)


def test_check_tries_the_embedded_server_and_leaves_nothing_running(tmp_path: Path) -> None:
    answer = matinee("check", DATA_DIR=str(tmp_path), TIMINGS="18:00,21:00")
    assert answer.returncode == 0, answer.stderr
    assert "programme: main (20 seats, 18:00 21:00, UTC)" in answer.stdout
    assert f"server: Valkey 9.1.2, embedded, data in {tmp_path}" in answer.stdout
    assert "maxmemory-policy: noeviction" in answer.stdout
    assert "persistence: append-only file, flushed before every answer\n" in answer.stdout
    EmbeddedServer.start(tmp_path).stop()  # which the lock would refuse


def test_check_says_what_a_power_cut_would_cost(tmp_path: Path) -> None:
    answer = matinee("check", DATA_DIR=str(tmp_path), DURABILITY="everysec")
    assert "persistence: append-only file, flushed once a second: a power cut may lose the last second" in answer.stdout


def test_check_tells_the_replicas_that_are_waited_for(server_url: str) -> None:
    answer = matinee("check", REDIS_URL=server_url, WAIT_REPLICAS="1")
    assert answer.returncode == 0, answer.stderr
    assert "replicas: 0 connected, 1 must have a change before it is answered\n" in answer.stdout
    assert "warning: MATINEE_WAIT_REPLICAS is 1, but 0 replicas are connected" in answer.stdout


def test_check_asks_an_embedded_server_that_runs(tmp_path: Path) -> None:
    running = EmbeddedServer.start(tmp_path)
    try:
        answer = matinee("check", DATA_DIR=str(tmp_path))
    finally:
        running.stop()
    assert answer.returncode == 0, answer.stderr
    assert "server: Valkey 9.1.2, embedded, running as process" in answer.stdout


@contextmanager
def answering(status: bytes) -> Iterator[int]:
    """The port of a service that answers /readyz, and nothing else, with this status."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = self.rfile.readline()
            answer = status if asked.startswith(b"GET /readyz ") else b"404 Not Found"
            self.wfile.write(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (b"200 OK", 0, ""),
        (b"503 Service Unavailable", 1, "matinee: not ready: status 503\n"),
        (b"gibberish", 1, "matinee: no answer from 127.0.0.1, port {port}: "),
    ],
)
def test_health_is_whether_the_service_is_ready(host: str, status: bytes, code: int, line: str) -> None:
    with answering(status) as port:
        answer = matinee("health", HOST=host, PORT=str(port), STAFF_TOKEN="x" * 32)
    assert answer.returncode == code
    assert answer.stderr.startswith(line.format(port=port))
    assert answer.stderr.count("\n") == code


def test_health_without_a_service() -> None:
    with answering(b"200 OK") as port:
        pass
    answer = matinee("health", PORT=str(port))
    assert answer.returncode == 1
    assert re.fullmatch(rf"matinee: no answer from 127\.0\.0\.1, port {port}: .*refused\n", answer.stderr)
