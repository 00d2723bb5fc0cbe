"""MATINEE_REDIS_URL for Sentinels and clusters: what may be written, what redis-py makes of it, and no secret told.

The addresses of single servers are with the settings, in `test_settings.py`.
"""

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelManagedSSLConnection

from service.address import Address, without_secrets
from service.pools import WatchedPool, pool_for

TLS = "ssl=true&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false"


def test_sentinels_have_a_user_of_their_own() -> None:
    address = Address.parse(
        "redis+sentinel://clerk:p%40ss@one:1,[::1]:2,three/boxes/7?sentinel_username=usher&sentinel_password=p%2Fss"
    )
    assert (address.kind, address.service) == ("sentinel", "boxes")
    assert address.urls == (
        "redis://usher:p%2Fss@one:1",
        "redis://usher:p%2Fss@[::1]:2",
        "redis://usher:p%2Fss@three:26379",
    )
    assert address.node_url("ten", 6379) == "redis://clerk:p%40ss@ten:6379/7"
    assert address.node_url("::1", 6379) == "redis://clerk:p%40ss@[::1]:6379/7"


def test_sentinels_may_have_a_password_and_no_user() -> None:
    [url] = Address.parse("redis+sentinel://one/boxes?sentinel_password=secret").urls
    assert url == "redis://:secret@one:26379"


def test_a_cluster_is_known_by_some_of_its_nodes() -> None:
    address = Address.parse("redis+cluster://clerk:secret@one,two:7001")
    assert address.kind == "cluster"
    assert address.urls == ("redis://clerk:secret@one:6379", "redis://clerk:secret@two:7001")
    assert address.node_url("ten", 7002) == "redis://clerk:secret@ten:7002"


def test_tls_is_for_every_server() -> None:
    cluster = Address.parse(f"redis+cluster://one?{TLS}")
    assert cluster.urls == ("rediss://one:6379?ssl_ca_certs=%2Fetc%2Fca.pem&ssl_check_hostname=false",)
    sentinels = Address.parse(f"redis+sentinel://one/boxes/1?{TLS}")
    assert sentinels.urls[0].startswith("rediss://one:26379?ssl_ca")
    assert sentinels.node_url("ten", 1).startswith("rediss://ten:1/1?ssl_ca")
    assert Address.parse("redis+cluster://one?ssl=false").urls == ("redis://one:6379",)


def test_redis_py_asks_the_sentinels_and_connects_to_the_primary() -> None:
    pool = pool_for(f"redis+sentinel://clerk:secret@one:1,two:2/boxes/7?{TLS}&sentinel_password=usher")
    assert isinstance(pool, WatchedPool)
    assert pool.service_name == "boxes"
    for sentinel, host in zip(pool.sentinel_manager.sentinels, ("one", "two"), strict=True):
        connection = sentinel.connection_pool.make_connection()
        assert isinstance(connection, SSLConnection)
        assert (connection.host, connection.username, connection.password) == (host, None, "usher")
    connection = pool.make_connection()
    assert isinstance(connection, SentinelManagedSSLConnection)
    assert (connection.username, connection.password, connection.db) == ("clerk", "secret", 7)
    assert connection.ca_certs == "/etc/ca.pem"


async def test_redis_py_learns_a_cluster_from_every_named_node() -> None:
    client = pool_for(f"redis+cluster://clerk:secret@one,two:7001?{TLS}")
    assert isinstance(client, RedisCluster)
    assert sorted(client.nodes_manager.startup_nodes) == ["one:6379", "two:7001"]
    for node in client.nodes_manager.startup_nodes.values():
        connection = node.acquire_connection()
        assert isinstance(connection, SSLConnection)
        assert (connection.username, connection.password) == ("clerk", "secret")


def test_what_is_shown_of_an_address_has_no_secret() -> None:
    shown = without_secrets("redis+sentinel://clerk:s3cret@one:1,two:2/boxes?sentinel_password=s3cret")
    assert shown == "redis+sentinel://***@one:1,two:2/boxes?..."


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:s3cret@one",
        "redis+sentinel://:s3cret@one/",
        "redis+sentinel://:s3cret@one/boxes/main",
        "redis+sentinel://:s3cret@one/boxes/1/2",
        "redis+sentinel://:s3cret@/boxes",
        "redis+sentinel://:s3cret@one,/boxes",
        "redis+sentinel://:s3cret@one:0/boxes",
        "redis+sentinel://:s3cret@one:65536/boxes",
        "redis+sentinel://:s3cret@one:port/boxes",
        "redis+sentinel://:s3/cret@one/boxes",
        "redis+sentinel://one/boxes?password=s3cret",
        "redis+sentinel://one/boxes?db=1&sentinel_password=s3cret",
        "redis+cluster://:s3cret@",
        "redis+cluster://:s3cret@one/1",
        "redis+cluster://:s3cret@one?db=1",
        "redis+cluster://:s3cret@one?ssl=maybe",
        "redis+cluster://:s3cret@one?ssl_ca_certs=/etc/ca.pem",
        "redis+cluster://:s3cret@one?sentinel_password=s3cret",
        "redis+cluster://:s3cret@one#two",
        "rediss+cluster://:s3cret@one",
    ],
)
def test_a_bad_address_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as error:
        Address.parse(url)
    assert "s3" not in str(error.value)
    assert "cret" not in str(error.value)
