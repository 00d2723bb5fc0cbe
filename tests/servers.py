"""Starts a Redis or Valkey of the tests' own. What tests import is no part of a conftest.py: one hides another."""

import subprocess
import time
from pathlib import Path

import redis

from tests.tools import tool


def start_server(binary: str, folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server without persistence on a Unix socket in `folder`; return it and its URL once it answers."""
    socket = folder / "redis.sock"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"unix://{socket}"
    deadline = time.monotonic() + 10
    while True:
        try:
            with redis.Redis.from_url(url, retry=None) as client:
                client.ping()
            return process, url
        except redis.ConnectionError:
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                raise
            time.sleep(0.01)


def redis_binary() -> str:
    """The system's redis-server."""
    return tool("redis-server", package="redis-server")
