"""The composition root: opens Redis, wires store → box office → routes."""

from collections.abc import AsyncIterator

from aiohttp import web
from redis.asyncio import ConnectionPool, RedisCluster

from service import openapi
from service.box_office import BoxOffice
from service.cluster import Cluster
from service.edge import BODY_LIMIT
from service.handlers.desk import Desk
from service.handlers.front import Fronts
from service.live import Live
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.programme import Programme
from service.rendering import Pages
from service.routes import add_routes
from service.security import Gate
from service.settings import Settings
from service.store import Store

# Read by the master, as all code is: a web process that starts later, after the files were replaced by those of another
# version, has the pages that its code was written for.
PAGES = Pages()


def create_app(settings: Settings, programme: Programme, pool: ConnectionPool | RedisCluster) -> web.Application:
    """The service on the Redis of `pool`, whose connections must not repeat commands on their own.

    Starts without Redis too, and answers 503 until it is there.
    """
    replicas = settings.wait_replicas
    pipeline = Cluster(pool, replicas=replicas) if isinstance(pool, RedisCluster) else Pipeline(pool, replicas=replicas)
    metrics = Metrics(pipeline)
    store = Store(pipeline, programme)
    box_office = BoxOffice(store, programme)
    live = Live(box_office)
    metrics.listeners = lambda: live.listeners
    desk = Desk(
        box_office=box_office,
        programme=programme,
        gate=Gate(settings.staff_token),
        store=store,
        metrics=metrics,
        live=live,
        openapi=openapi.document(),
        pages=PAGES,
        fronts=Fronts(box_office, programme, PAGES),
    )
    app = web.Application(client_max_size=BODY_LIMIT)
    add_routes(app, desk, access_log=settings.access_log)

    async def connection(_app: web.Application) -> AsyncIterator[None]:
        await pipeline.open()
        async with metrics.running():
            yield
        await pipeline.close()

    async def begin_draining(_app: web.Application) -> None:
        desk.draining = True
        live.end()

    app.cleanup_ctx.append(connection)
    app.on_shutdown.append(begin_draining)
    return app
