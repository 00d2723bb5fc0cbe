"""Where the Redis or Valkey servers are: MATINEE_REDIS_URL, taken apart.

    redis://[user:password@]host[:port][/db]                      one server; rediss:// for TLS
    unix://[user:password@]/path/to/socket[?db=n]                 one server on this machine
    redis+sentinel://[user:password@]host:port,.../service[/db]   a primary and its replicas, watched by Sentinels
    redis+cluster://[user:password@]host:port,...                 a cluster; at least one of its nodes

The last two take `ssl=true`; Sentinels have a user of their own, `sentinel_username` and `sentinel_password`.
"""

import os
import re
from typing import Literal
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import msgspec

_SOCKET_PATH_MAX = 107  # bytes; the kernel's limit for a Unix socket
_PORTS = {"redis+sentinel": 26379, "redis+cluster": 6379}
_TLS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})
# redis-py takes more options; those are the service's to decide (replies as bytes, no hidden repeats).
_OPTIONS = {
    "redis": frozenset({"db"}),
    "rediss": _TLS | {"db"},
    "unix": frozenset({"db"}),
    "redis+sentinel": _TLS | {"ssl", "sentinel_username", "sentinel_password"},
    "redis+cluster": _TLS | {"ssl"},
}
_NODE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/]+)(?::([0-9]{1,5}))?")
_SERVICE = re.compile(r"/([A-Za-z0-9._-]+)(/[0-9]{1,9})?")


class Address(msgspec.Struct, frozen=True):
    """One server, a primary watched by Sentinels, or a cluster.

    `urls` are such as redis-py takes: of the server, of the Sentinels, or of the cluster's nodes that were named.
    `service` is the Sentinels' name for the primary.
    """

    kind: Literal["server", "sentinel", "cluster"]
    urls: tuple[str, ...]
    service: str = ""
    before_node: str = ""
    after_node: str = ""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Take a URL apart. ValueError tells what it must be, and quotes nothing of it."""
        try:
            url = urlsplit(text)
            options = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query)))
            well_formed = text.isprintable() and " " not in text and not url.fragment and _has_its_parts(url)
        except ValueError:  # a port that is no number, a bracket left open, an option without "="
            well_formed = False
        if not well_formed:
            raise ValueError(
                "must be redis://[user:password@]host[:port][/db], rediss://... for TLS, unix:///path/to/socket[?db=n],"
                " redis+sentinel://host:port,.../service[/db] or redis+cluster://host:port,...;"
                " special characters of a password are percent-encoded"
            )
        _check_options(url.scheme, options)
        return _of_many(url, options) if url.scheme in _PORTS else cls("server", (text,))

    def node_url(self, host: str, port: int) -> str:
        """The URL of a node of the cluster, or of a server that a Sentinel has named."""
        return f"{self.before_node}{f'[{host}]' if ':' in host else host}:{port}{self.after_node}"


def without_secrets(text: str) -> str:
    """A URL as it may be shown."""
    url = urlsplit(text)
    credentials, at, place = url.netloc.rpartition("@")
    return f"{url.scheme}://{'***' if credentials else ''}{at}{place}{url.path}{'?...' if url.query else ''}"


def _has_its_parts(url: SplitResult) -> bool:
    match url.scheme:
        case "unix":
            return len(url.path) > 1 and len(os.fsencode(unquote(url.path))) <= _SOCKET_PATH_MAX
        case "redis" | "rediss":
            # `.port` raises ValueError beyond 65535. A path that is no number would silently mean database 0.
            return bool(url.hostname) and url.port != 0 and re.fullmatch("/?|/[0-9]{1,9}", url.path) is not None
        case "redis+sentinel":
            return bool(_nodes(url)) and _SERVICE.fullmatch(url.path) is not None
        case "redis+cluster":
            return bool(_nodes(url)) and url.path in {"", "/"}
    return False


def _nodes(url: SplitResult) -> list[str]:
    """The `host:port` of each server that is named. ValueError where one is malformed."""
    nodes = []
    for text in url.netloc.rpartition("@")[2].split(","):
        match = _NODE.fullmatch(text)
        if match is None or not 0 < int(match[2] or 1) <= 65535:  # noqa: PLR2004  the last port
            raise ValueError
        nodes.append(f"{match[1]}:{match[2] or _PORTS[url.scheme]}")
    return nodes


def _check_options(scheme: str, options: dict[str, str]) -> None:
    allowed = _OPTIONS[scheme]
    if not options.keys() <= allowed:
        raise ValueError(f"must have no options but {', '.join(sorted(allowed))} after the '?' of {scheme}://")
    if not re.fullmatch("[0-9]{1,9}", options.get("db", "0")):
        raise ValueError("must have a number as its option db")
    if options.get("ssl", "true") not in {"true", "false"}:
        raise ValueError("must have true or false as its option ssl")
    if "ssl" in allowed and options.get("ssl") != "true" and options.keys() & _TLS:
        raise ValueError("must have ssl=true where it has other options that begin with ssl_")


def _of_many(url: SplitResult, options: dict[str, str]) -> Address:
    """Sentinels or a cluster: one user and one way of TLS for all servers."""
    scheme = "rediss://" if options.get("ssl") == "true" else "redis://"
    credentials = "".join(url.netloc.rpartition("@")[:2])
    tls = urlencode({name: value for name, value in options.items() if name in _TLS})
    tail = f"?{tls}" if tls else ""
    if url.scheme == "redis+cluster":
        urls = tuple(f"{scheme}{credentials}{node}{tail}" for node in _nodes(url))
        return Address("cluster", urls, before_node=scheme + credentials, after_node=tail)
    user, password = (quote(options.get(f"sentinel_{part}", ""), safe="") for part in ("username", "password"))
    own = f"{user}:{password}@" if user or password else ""
    _, service, *database = url.path.split("/")
    return Address(
        "sentinel",
        tuple(f"{scheme}{own}{node}{tail}" for node in _nodes(url)),
        service,
        before_node=scheme + credentials,
        after_node="".join(f"/{db}" for db in database) + tail,
    )
