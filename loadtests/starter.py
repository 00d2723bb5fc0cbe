"""A service of one's own: `python -m service serve` on a free port of loopback, with its data in a folder.

with started(folder, MATINEE_WORKERS="1") as service:
    urlopen(f"{service.url}/livez")
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent

READY_WITHIN_S = 30
STOPPED_WITHIN_S = 30


class LoadError(Exception):
    """The load could not be put on; says why in a line for people."""


class Service(msgspec.Struct, frozen=True):
    """A service that runs: where it listens, its embedded server's socket, and the id of its master process."""

    url: str
    redis_url: str
    pid: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)


@contextmanager
def started(folder: Path, root: Path = ROOT, **settings: str) -> Iterator[Service]:
    """Start a service with its data in `folder` and these settings; stop it at the end. Its code is that in `root`.

    Raises LoadError, with the end of its log, where it does not get ready.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # The caller's own settings stay outside: this must never reach a database that somebody uses.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MATINEE_")} | {
        "MATINEE_HOST": "127.0.0.1",
        "MATINEE_PORT": str(port),
        "MATINEE_DATA_DIR": str(folder / "data"),
        **settings,
    }
    log = folder / "service.log"
    with running([sys.executable, "-m", "service", "serve"], log, environment, folder=root) as process:
        service = Service(f"http://127.0.0.1:{port}", f"unix://{folder / 'data' / 'valkey.sock'}", process.pid)
        _wait_until_ready(service, process, log)
        yield service


def _wait_until_ready(service: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{service.url}/readyz", timeout=2):
                return
        except OSError:  # refused, or 503: not yet
            time.sleep(0.02)
    fate = "did not get ready" if process.returncode is None else f"stopped with code {process.returncode}"
    raise LoadError(f"the service {fate}; the end of its log:\n{tail(log)}")


@contextmanager
def running(
    command: list[str], log: Path, environment: Mapping[str, str], *, folder: Path = ROOT, pass_fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in `folder` for as long as the block lasts; SIGTERM at the end, SIGKILL where that is not enough.

    It gets a session of its own: Ctrl-C reaches us alone, and we stop it when we are done with it.
    """
    with log.open("wb") as output, _interruptions_noted() as came:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    try:
        if came:
            raise KeyboardInterrupt
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _interruptions_noted() -> Iterator[list[int]]:
    """Only note SIGINT and SIGTERM: between a fork and the moment we hold the child, they would leave it behind."""
    came: list[int] = []
    kept = {
        each: signal.signal(each, lambda number, _: came.append(number)) for each in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield came
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
