"""Health, and the API's own document."""

from aiohttp import web

from service.errors import Unavailable
from service.handlers.desk import Desk, private_answer
from service.lean import Answer
from service.wire import HealthAnswer


async def alive(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """Whether this process answers at all: if not, restart it."""
    return private_answer(HealthAnswer("ok"))


async def ready(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """Whether to send requests here: not while Redis is away, and not once the process drains."""
    if desk.draining:
        raise Unavailable("This process is ending and takes its last requests.")
    if not desk.store.ready:
        raise Unavailable("Redis does not answer.")
    return private_answer(HealthAnswer("ok"))


async def metrics(desk: Desk, request: web.Request) -> Answer:
    """The counts of all web processes in Prometheus's text format, up to a second old."""
    desk.gate.require_staff(request)
    text = await desk.metrics.exposition()
    return Answer(text, media_type="text/plain; version=0.0.4; charset=utf-8", headers=(("Cache-Control", "no-store"),))


async def openapi(desk: Desk, request: web.Request) -> Answer:  # noqa: ARG001  one signature for all
    """The OpenAPI 3.1 document of this interface."""
    return Answer(desk.openapi, headers=(("Cache-Control", "no-cache"),))
