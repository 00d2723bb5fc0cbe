"""What a power cut leaves of the embedded server's data; that needs a server of its own, killed while it writes."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from power_cut import FlushLog

from service.embedded import EmbeddedServer, holder_of
from service.settings import Durability
from tests.tools import tool


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder whose path is short enough for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        yield Path(folder)


def answered_and_left(folder: Path, durability: Durability) -> tuple[int, int]:
    """Count up until the power is cut: the last number that was answered, and the one that a new start finds."""
    tool("strace", package="strace")
    server = EmbeddedServer.start(folder / "data", durability)
    holder = holder_of(folder / "data")
    assert holder is not None
    with redis.Redis.from_url(server.url) as client, FlushLog(holder.server_pid, folder / "data") as log:
        client.incr("count")
        while log.flushes == 0:
            client.incr("count")
        answered = 0
        for _ in range(100):  # far less than a second: with everysec, no flush of all of these can have ended
            answered = client.incr("count")
        os.kill(holder.server_pid, signal.SIGKILL)
        (folder / "cut").mkdir()
        log.cut(folder / "cut")
    server.stop()
    left = EmbeddedServer.start(folder / "cut", durability)
    try:
        with redis.Redis.from_url(left.url) as client:
            return answered, int(client.get("count") or 0)
    finally:
        left.stop()


def test_a_power_cut_loses_nothing_that_was_answered(folder: Path) -> None:
    answered, left = answered_and_left(folder, "always")
    assert left == answered


def test_with_everysec_it_loses_what_was_answered_since_the_last_flush(folder: Path) -> None:
    """Which also shows that the test above could have failed."""
    answered, left = answered_and_left(folder, "everysec")
    assert 0 < left < answered
