"""What the tests of the pages share: a browser's headers, forms as a browser sends them, and reading what came."""

import datetime
import html
import re
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from http_api import Api, opened
from redis.asyncio import ConnectionPool, Redis

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"}
ASHA = {"name": "Asha Rao", "phone": "+91 98123-45678"}

PROGRAMME = """
[[theatre]]
id = "main"
name = "Lichtspiele Lumen"
capacity = 3
timings = [{at = "15:00", film = "Metropolis"}, {at = "18:00", film = "People on Sunday"}, "21:00"]
"""


async def with_programme(pool: ConnectionPool, folder: Path, text: str = PROGRAMME, **variables: str) -> Api:
    """A service whose programme is this file."""
    file = folder / "programme.toml"
    file.write_text(text)
    return await opened(pool, MATINEE_PROGRAMME=str(file), MATINEE_TIMINGS="", MATINEE_CAPACITY="", **variables)


async def page(api: Api, path: str, status: int = 200, **headers: str) -> str:
    """A page as a browser gets it, which must answer so."""
    answer = await api.get(path, headers={**BROWSER, **headers}, allow_redirects=False)
    return await read(answer, status)


async def read(answer: ClientResponse, status: int) -> str:
    text = await answer.text()
    assert answer.status == status, text
    assert answer.content_type == "text/html"
    return text


async def send(api: Api, path: str, form: dict[str, str], **headers: str) -> ClientResponse:
    """A form as a browser sends it from our own page; where it leads is not followed."""
    origin = str(api.client.make_url("/")).rstrip("/")
    return await api.post(path, data=form, headers={**BROWSER, "Origin": origin, **headers}, allow_redirects=False)


def timings(text: str) -> list[str]:
    """The showtimes that a page offers."""
    return re.findall(r'<input type="radio" name="timing" id="at-[^"]+" value="([^"]+)"[^>]*?(?<!disabled)>', text)


def key(text: str) -> str:
    """The hidden key of a page's form."""
    return re.search(r'name="key" value="([^"]+)"', text)[1]


def errors(text: str) -> list[str]:
    """What a page says was wrong, in its order."""
    return [html.unescape(told) for told in re.findall(r'<p class="error"[^>]*>([^<]+)</p>', text)]


async def book(api: Api, form: dict[str, str] | None = None) -> str:
    """Book by the page; return the address of the ticket's page."""
    front = await page(api, "/")
    wish: dict[str, Any] = {"timing": timings(front)[0], "key": key(front), **ASHA, **(form or {})}
    answer = await send(api, "/theatres/main", wish)
    assert answer.status == 303, errors(await answer.text())
    return answer.headers["Location"].partition("#")[0]


async def expire(client: Redis, ticket: dict[str, str]) -> None:
    """Let a ticket's time pass: move its showtime to 8 to 32 hours ago, and delete its hash as Redis does."""
    start = datetime.datetime.fromisoformat(ticket["starts_at"])
    day = datetime.timedelta(days=1)
    ago = datetime.datetime.now(datetime.UTC) - (start - day)
    over = start - (day if ago > datetime.timedelta(hours=8) else 2 * day)
    for suffix in ("", ":tickets"):
        here, there = (f"{{main}}:showtime:{at.strftime('%Y%m%dT%H%M')}{suffix}" for at in (start, over))
        await client.rename(here, there)
    await client.delete(f"{{main}}:ticket:{ticket['ticket_id']}")
