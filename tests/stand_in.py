"""A small application for the tests of `serve`: `python stand_in.py SETTINGS_JSON` serves it like Matinee.

Counters in the store stand for bookings, so that these tests do not depend on what the service does.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web
from redis.asyncio import ConnectionError as StoreGone
from redis.asyncio import ConnectionPool, Redis

sys.path.insert(0, str(Path(__file__).parent.parent))

from service import logs
from service import serve as serve_module
from service.model import Theatre
from service.programme import Programme
from service.serve import CANNOT_START, Web
from service.settings import Settings

BROKEN = "broken"  # while a file of this name is in the data folder, no web process can start
EARLY = "early"  # the web process that takes such a file away is told to end before its event loop runs


class EarlyWeb(Web):
    """Gunicorn asks a web process for its application after it has taken the signals, and before the loop runs."""

    def load(self) -> Callable[[], Any]:
        early = self._settings.data_dir / EARLY
        with contextlib.suppress(FileNotFoundError):
            early.rename(early.with_suffix(f".{os.getpid()}"))
            os.kill(os.getpid(), signal.SIGTERM)
        return super().load()


def create_app(settings: Settings, _programme: Programme, pool: ConnectionPool) -> web.Application:
    if (settings.data_dir / BROKEN).exists():
        raise RuntimeError("this is broken")
    store = Redis(connection_pool=pool)
    app = web.Application()

    async def count(request: web.Request) -> web.Response:
        try:
            return web.Response(text=str(await store.incrby(request.match_info["key"], request.query["by"])))
        except StoreGone:
            raise web.HTTPServiceUnavailable from None

    async def process(_request: web.Request) -> web.Response:
        await asyncio.sleep(0.002)
        return web.Response(text=str(os.getpid()))

    async def slow(request: web.Request) -> web.Response:
        await store.incr("slow")
        await asyncio.sleep(float(request.query["s"]))
        return web.Response(text="done")

    app.router.add_post("/count/{key}", count)
    app.router.add_get("/process", process)
    app.router.add_get("/slow", slow)
    return app


def main() -> None:
    logs.configure("text")
    given = json.loads(sys.argv[1])
    settings = Settings(
        host="127.0.0.1",
        port=given["port"],
        redis_url=given["redis_url"],
        data_dir=Path(given["data_dir"]),
        workers=given["workers"],
        programme=None,
        timings=("18:00",),
        capacity=20,
        timezone=ZoneInfo("UTC"),
        staff_token=None,
        durability="everysec",
        wait_replicas=0,
        share_port=given["share_port"],
        ticket_life_ms=1000,
        log_format="text",
        access_log=False,
    )
    theatre = Theatre("main", "Main", settings.timezone, settings.capacity, settings.timings)
    try:
        serve_module.Web = EarlyWeb  # ours but for when a signal comes, which chance decides
        serve_module.serve(settings, Programme([theatre], settings.ticket_life_ms), create_app)
    except CANNOT_START as error:
        sys.exit(f"matinee: {error}")


if __name__ == "__main__":
    main()
