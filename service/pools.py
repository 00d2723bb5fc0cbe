"""redis-py's objects for an address: a pool of connections to one server, or the client of a cluster."""

from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from service.address import Address

ASK_S = 0.5  # how long a Sentinel, or a node that is asked for the map of slots, may take


class WatchedPool(SentinelConnectionPool):
    """Connections to the primary that the Sentinels name at that moment."""

    async def get_master_address(self) -> tuple[str, int]:
        """Ask the Sentinels. Raises redis-py's ConnectionError where none of them names a primary."""
        try:
            address: tuple[str, int] = await super().get_master_address()  # type: ignore[no-untyped-call]  # redis-py's
        except MasterNotFoundError:  # its text is long, and holds what is known of every Sentinel
            raise MasterNotFoundError(f"no Sentinel names a primary for {self.service_name}") from None
        return address

    async def aclose(self) -> None:
        """Close the connections, those to the Sentinels too."""
        await super().aclose()
        await self.sentinel_manager.aclose()


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
