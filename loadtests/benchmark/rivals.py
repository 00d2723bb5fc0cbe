"""What Matinee is held against, each a server of its own: `python -m loadtests.benchmark.rivals NAME PORT STORE_URL`.

floor   an aiohttp handler that reads nothing and answers a fixed body: less cannot be done
plain   the same booking as one writes it first: aiohttp, json, redis-py, one call per request
set     one plain SET in the place of the booking's script, sent by Matinee's own pipeline
"""

import asyncio
import re
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import redis.asyncio
import uvloop
from aiohttp import web

from service import scripts
from service.pipeline import Pipeline

BODY = b"x" * 300  # as long as the answer to a booking
ZONE = ZoneInfo("Europe/Berlin")
CAPACITY = 20
TICKET_LIFE = timedelta(hours=8)
PHONE = re.compile(r"\+?[0-9]{7,15}")


def floor(_url: str) -> web.Application:
    """The least that a handler can do."""

    async def answer(_request: web.Request) -> web.Response:
        return web.Response(body=BODY, status=201, content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/tickets", answer)
    return app


def plain(url: str) -> web.Application:
    """A booking, written straightforwardly. The script is Matinee's own, so that both do the same in Redis."""
    store = redis.asyncio.Redis.from_url(url)
    run_script = store.register_script(scripts.BOOK.source)

    async def book(request: web.Request) -> web.Response:
        wish = await request.json()
        name, phone, timing, theatre = wish["name"].strip(), wish["phone"], wish["timing"], wish["theatre"]
        if not 1 <= len(name) <= 80 or not PHONE.fullmatch(phone):
            return web.json_response({"error": "bad name or phone"}, status=422)
        now = datetime.now(ZONE)
        starts = datetime.combine(now.date(), time.fromisoformat(timing), ZONE)
        if starts <= now:
            starts += timedelta(days=1)
        expires = starts + TICKET_LIFE
        ticket_id = f"{theatre}-{secrets.token_hex(8).upper()}"
        showtime = starts.strftime("%Y%m%dT%H%M")
        key = f"{{{theatre}}}:showtime:{showtime}"
        limits = (int(moment.timestamp() * 1000) for moment in (starts, expires, expires + timedelta(days=1)))
        reply = await run_script(
            keys=[key, f"{key}:tickets", f"{{{theatre}}}:ticket:{ticket_id}"],
            args=[ticket_id, name, phone, showtime, CAPACITY, *limits, ZONE.key],
        )
        if reply[0] != b"booked":
            return web.json_response({"error": reply[0].decode()}, status=409)
        ticket = {
            "ticket_id": ticket_id,
            "theatre": theatre,
            "timing": timing,
            "showtime": starts.strftime("%Y-%m-%dT%H:%M"),
            "starts_at": starts.isoformat(),
            "expires_at": expires.isoformat(),
            "status": "booked",
            "name": name,
            "phone": "*" * (len(phone) - 2) + phone[-2:],
            "booked_at": datetime.fromtimestamp(reply[2] // 1000, ZONE).isoformat(),
            "admitted_at": None,
        }
        headers = {"Location": f"/v1/tickets/{ticket_id}", "Cache-Control": "no-store"}
        return web.json_response(ticket, status=201, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/tickets", book)
    return app


class Setting(Pipeline):
    """The pipeline with a SET in the place of a script."""

    async def set(self, key: str, value: str) -> None:
        """SET, in the next batch."""
        await self._own(self._loop.time() + self._deadline_s, "SET", key, value)


def plain_set(url: str) -> web.Application:
    """One SET of what a ticket holds."""
    pipeline = Setting(redis.asyncio.ConnectionPool.from_url(url))

    async def book(_request: web.Request) -> web.Response:
        ticket_id = f"main-{secrets.token_hex(8)}"
        await pipeline.set(f"{{main}}:ticket:{ticket_id}", "Asha Rao +919812345678 20261124T1800")
        return web.Response(body=BODY, status=201, content_type="application/json")

    async def connection(_app: web.Application) -> AsyncIterator[None]:
        await pipeline.open()
        yield
        await pipeline.close()

    app = web.Application()
    app.router.add_post("/v1/tickets", book)
    app.cleanup_ctx.append(connection)
    return app


RIVALS: dict[str, Callable[[str], web.Application]] = {"floor": floor, "plain": plain, "set": plain_set}


def main() -> None:
    """Serve until SIGTERM."""
    name, port, url = sys.argv[1:]
    asyncio.set_event_loop(loop := uvloop.new_event_loop())
    web.run_app(
        RIVALS[name](url), host="127.0.0.1", port=int(port), backlog=2048, access_log=None, print=None, loop=loop
    )


if __name__ == "__main__":
    main()
