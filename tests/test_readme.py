"""README.md is held to the service: its tables, its links, its help, and its curls with their answers."""

import contextlib
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from service.routes import ROUTES
from service.settings import VARIABLES
from tests.tools import tool

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

TICKET_ID = re.compile(r"main-[0-9A-HJKMNP-TV-Z]{16}")
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}[+-]\d{2}:\d{2})?")


def transcript(text: str) -> list[tuple[str, str]]:
    """The commands in the text's console blocks, each with the answer that stands under it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, answer = part.replace("\\\n", "").partition("\n")
            found.append((command, answer.strip()))
    return found


def section(heading: str) -> str:
    return README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def rows(heading: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def summary(handler: object) -> str:
    return (handler.__doc__ or "").splitlines()[0].rstrip(".")


def test_the_table_of_routes_is_the_one_the_router_is_made_from():
    expected = [[route.method, f"`{route.path}`", route.access, summary(route.handler)] for route in ROUTES]
    assert rows("Routes") == expected


def test_the_table_of_settings_is_the_one_the_service_reads():
    expected = [
        [f"`{variable.name}`", f"`{variable.default}`" if variable.default else "", variable.meaning]
        for variable in VARIABLES
    ]
    assert rows("Settings") == expected


def test_the_help_is_what_the_command_prints():
    [(_, quoted)] = [(command, answer) for command, answer in transcript(README) if command == "matinee --help"]
    printed = subprocess.run(
        [sys.executable, "-m", "service", "--help"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
    ).stdout
    assert printed.startswith(quoted)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of a service as `make run` starts it, with the default settings and an empty data folder."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = probe.getsockname()[1]
    environ = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")}
    environ |= {"MATINEE_PORT": str(free), "MATINEE_DATA_DIR": str(tmp_path / "data"), "MATINEE_WORKERS": "1"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        service = subprocess.Popen([sys.executable, "-m", "service", "serve"], cwd=ROOT, env=environ, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{free}/readyz", timeout=3):
                break
            assert service.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield free
    finally:
        service.terminate()
        service.wait(30)


def curl(command: str, port: int) -> str:
    """Run one of the README's curls on the service of this test."""
    arguments = shlex.split(command.replace("localhost:5000", f"127.0.0.1:{port}"))
    assert arguments[0] == "curl", command
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def comparable(answer: str) -> object:
    """The answer without what differs from run to run: ids and instants; showtimes by their time of day."""
    decoded = msgspec.json.decode(INSTANT.sub("<instant>", TICKET_ID.sub("<id>", answer)))
    if "request_id" in decoded:
        decoded["request_id"] = "<id>"
    if "showtimes" in decoded:
        decoded["showtimes"].sort(key=lambda showtime: showtime["timing"])
    return decoded


def test_the_curls_give_the_answers_that_the_readme_shows(port: int):
    tool("curl", package="curl")
    ids: dict[str, str] = {}  # README's ticket ids, and those of this run
    shown = [(command, answer) for command, answer in transcript(README) if command.startswith("curl ")]
    assert len(shown) >= 8
    for quoted, expected in shown:
        command = quoted
        for there, here in ids.items():
            command = command.replace(there, here)
        actual = curl(command, port)
        assert comparable(actual) == comparable(expected), command
        ids |= zip(TICKET_ID.findall(expected), TICKET_ID.findall(actual), strict=True)
