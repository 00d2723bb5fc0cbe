"""redis-py's objects for an address: a pool of connections to one server, or the client of a cluster."""

import asyncio
import contextlib
import logging
from typing import Any, cast

from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from service.address import Address

log = logging.getLogger(__name__)

ASK_S = 0.5  # how long a Sentinel, or a node that is asked for the map of slots, may take
WATCH_EVERY_S = 0.4


class WatchedPool(SentinelConnectionPool):
    """Connections to the primary that the Sentinels name, for as long as they do.

    redis-py asks when it connects, and takes the word of the first Sentinel. Here all are asked, and the one with the
    newest knowledge counts; and they are asked again and again, for a former primary may go on for ten seconds before
    it learns that it is none, and whatever is sold there meanwhile is lost.
    """

    _connection: Connection | None = None
    _watching: asyncio.Task[None] | None = None

    def make_connection(self) -> Connection:
        """A connection that is cut when its server is the primary no more. There is one at a time."""
        self._connection = super().make_connection()  # type: ignore[no-untyped-call]  # redis-py's
        return self._connection

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the Sentinels. Raises redis-py's MasterNotFoundError where none of them names a primary."""
        states = await asyncio.gather(*map(self._ask, self.sentinel_manager.sentinels))
        known = [state for state in states if state and not state["is_sdown"] and not state["is_odown"]]
        if not known:
            raise MasterNotFoundError(f"no Sentinel names a primary for {self.service_name}")
        newest = max(known, key=lambda state: state["config-epoch"])
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return newest["ip"], newest["port"]

    async def aclose(self) -> None:
        """Close the connections, those to the Sentinels too."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        await super().aclose()
        await self.sentinel_manager.aclose()

    async def _ask(self, sentinel: Redis) -> dict[str, Any] | None:
        with contextlib.suppress(RedisError, OSError):
            state: Any = await sentinel.sentinel_master(self.service_name)
            return cast("dict[str, Any]", state)
        return None

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            connection = self._connection
            with contextlib.suppress(MasterNotFoundError):
                address = await self.get_master_address()
                if connection and connection.is_connected and (connection.host, connection.port) != address:
                    log.warning("the Sentinels name another primary")
                    await connection.disconnect(nowait=True)


def pool_for(text: str) -> ConnectionPool | RedisCluster:
    """What makes connections to the address; nothing in it repeats a command on its own."""
    address = Address.parse(text)
    if address.kind == "cluster":
        return _cluster(address)
    if address.kind == "sentinel":
        return _watched(address)
    return ConnectionPool.from_url(text, retry=_no_repeats(), socket_timeout=None)


def _watched(address: Address) -> WatchedPool:
    sentinel = Sentinel([])  # type: ignore[no-untyped-call]  # redis-py's
    sentinel.sentinels = [
        Redis.from_url(url, retry=_no_repeats(), socket_timeout=ASK_S, socket_connect_timeout=ASK_S)
        for url in address.urls
    ]
    options = dict(parse_url(address.node_url("primary", 0)))
    del options["host"]
    tls = options.pop("connection_class", None) is SSLConnection
    return WatchedPool(  # type: ignore[no-untyped-call]  # redis-py's
        address.service, sentinel, ssl=tls, retry=_no_repeats(), socket_timeout=None, **options
    )


def _cluster(address: Address) -> RedisCluster:
    first, *others = ((options["host"], options.get("port", 6379)) for options in map(parse_url, address.urls))
    return RedisCluster.from_url(
        address.node_url(*first),
        startup_nodes=[ClusterNode(*node) for node in others],
        require_full_coverage=False,
        retry=_no_repeats(),
        socket_timeout=ASK_S,
        socket_connect_timeout=ASK_S,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


def _no_repeats() -> Retry:
    return Retry(NoBackoff(), 0)
