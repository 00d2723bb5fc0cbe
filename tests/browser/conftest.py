"""The pages in a real browser: Debian's Chromium, driven by Playwright, one for all tests.

Whatever a test does, three things must hold of it: no request leaves the machine, the Content-Security-Policy is not
touched, and no script fails.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from http_api import Api
from http_pages import with_programme
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright, expect
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from windows import DESKTOP, FLAGS, WAIT_MS, Serve, Visit

from service import live, sessions
from tests.tools import tool

expect.set_options(timeout=WAIT_MS)


def chromium_binary() -> str:
    """The system's Chromium."""
    return tool("chromium", "chromium-browser", "google-chrome", package="chromium")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong token is answered at once, and seats are looked up more often than a person would notice."""
    monkeypatch.setattr(sessions, "GUESS_PAUSE_S", 0.0)
    monkeypatch.setattr(live, "LOOK_EVERY_S", 0.05)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    binary = chromium_binary()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=binary, args=list(FLAGS))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def redis(real_urls: dict[str, str]) -> AsyncIterator[Redis]:
    """An empty Valkey."""
    pool = ConnectionPool.from_url(real_urls["valkey"], retry=Retry(NoBackoff(), 0), socket_timeout=None)
    client = Redis(connection_pool=pool)
    await client.flushall()
    yield client
    await pool.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def serve(redis: Redis, tmp_path: Path) -> AsyncIterator[Serve]:
    """Start a service: of the small theatre of `http_pages`, or another programme, with settings of one's own."""
    running: list[Api] = []

    async def start(programme: str | None = None, **variables: str) -> Api:
        text = () if programme is None else (programme,)
        running.append(await with_programme(redis.connection_pool, tmp_path, *text, **variables))
        return running[-1]

    yield start
    for api in running:
        await api.client.close()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, serve: Serve) -> AsyncIterator[Visit]:
    """Open a page in a window of its own: `await visit(api, "/")`, with a context's options for the rest."""
    contexts: list[BrowserContext] = []
    hosts: set[str] = set()
    broken: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        # A status of 400 and more is what the test asked for; everything else that a browser complains of is a fault.
        if message.type in ("error", "warning") and "the server responded with a status of" not in message.text:
            broken.append(message.text)

    async def open_page(api: Api, path: str, **options: object) -> Page:
        context = await browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        context.on("console", hear)
        context.on("weberror", lambda error: broken.append(str(error.error)))
        page = await context.new_page()
        await page.goto(str(api.client.make_url(path)))
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert all(urlsplit(f"//{host}").hostname == "127.0.0.1" for host in hosts), hosts
    assert broken == []
