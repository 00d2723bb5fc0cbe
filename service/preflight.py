"""The checks on one Redis or Valkey server before the service uses it; `deployment` has those on several."""

import re
from typing import Any, Literal

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

TIMEOUT_S = 3.0
REDIS_MINIMUM = (7, 0)
VALKEY_MINIMUM = (8, 0)
_FLUSHED = {
    "always": "flushed before every answer",
    "everysec": "flushed once a second: a power cut may lose the last second",
    "no": "flushed when the operating system does it",
}


class PreflightError(Exception):
    """The server will not do; the message is one line that says what to change and never holds a password."""


class ServerReport(msgspec.Struct, frozen=True):
    """What was found: `address` is host:port or a socket's path, `policy` None where the server hides it.

    `persistence` is for people; `replicas` are connected at this moment.
    """

    address: str
    kind: Literal["Redis", "Valkey"]
    version: str
    role: str
    policy: str | None
    persistence: str
    replicas: int
    warnings: tuple[str, ...] = ()


def inspect_server(url: str, wait_replicas: int = 0) -> ServerReport:
    """Look at the server at `url` (redis://, rediss://, unix://), which stands alone, and report it.

    Raises PreflightError when it is out of reach, too old, a replica, a cluster node, would evict tickets, or
    forbids scripts, or WAIT where `wait_replicas` is set. That nothing persists is a warning: some deployments want
    it so; and so is that fewer replicas are connected than are waited for.
    """
    report, info = look(url, wait_replicas)
    if info.get("cluster_enabled"):
        raise PreflightError(
            f"the server at {report.address} is a node of a cluster: set MATINEE_REDIS_URL to "
            f"redis+cluster://{report.address}"
        )
    refuse_replica(report)
    return report


def look(url: str, wait_replicas: int = 0) -> tuple[ServerReport, dict[str, Any]]:
    """What a server is, whatever its role, and its whole INFO.

    Raises PreflightError as `inspect_server` does, but for a replica and a cluster node.
    """
    client = connect(url)
    address = address_of(client)
    with client:
        try:
            info: dict[str, Any] = client.info()
            policy = info.get("maxmemory_policy") or _configured(client, "maxmemory-policy")
            flush = _configured(client, "appendfsync")
            _try_scripts(client, address)
            if wait_replicas:
                _try_wait(client, address)
        except redis.RedisError as error:
            raise PreflightError(trouble(f"the server at {address}", error)) from error
    report = _report(address, info, policy, flush, wait_replicas)
    _refuse_unfit(report)
    return report, info


def connect(url: str) -> redis.Redis:
    """A client that waits `TIMEOUT_S` at most and repeats nothing; PreflightError where `url` is none."""
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )
    except ValueError:  # its text may quote the URL, and with it the password
        raise PreflightError(
            "MATINEE_REDIS_URL is no URL of a server: it reads redis://[user:password@]host:port/db, "
            "rediss://… for TLS, or unix:///path/to/socket"
        ) from None


def address_of(client: redis.Redis) -> str:
    """Its host:port or socket, for people."""
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"


def _configured(client: redis.Redis, name: str) -> str | None:
    """A directive by CONFIG GET; None where that is forbidden."""
    try:
        found: dict[Any, Any] = client.config_get(name)
    except redis.ResponseError:
        return None
    return found.get(name)


def _try_scripts(client: redis.Redis, address: str) -> None:
    """Load and run a script as the service does; a server or a user without that right is of no use."""
    try:
        client.evalsha(client.script_load("return 1"), 0)
    except redis.ResponseError as error:
        if isinstance(error, redis.exceptions.ReadOnlyError):
            raise
        raise PreflightError(
            f"the server at {address} forbids scripts to this user: allow EVALSHA and SCRIPT LOAD "
            "(ACL SETUSER … +evalsha +script|load)"
        ) from error


def _try_wait(client: redis.Redis, address: str) -> None:
    """Ask for the replicas as the service does, and don't wait."""
    try:
        client.wait(0, 1)
    except redis.ResponseError as error:
        raise PreflightError(
            f"the server at {address} forbids WAIT to this user, and MATINEE_WAIT_REPLICAS is set: allow it "
            "(ACL SETUSER … +wait)"
        ) from error


def trouble(who: str, error: redis.RedisError) -> str:
    """One line for a server that doesn't answer as it should; `who` is "the server at host:port"."""
    if isinstance(error, redis.AuthenticationError):
        return f"{who} refuses the user or password: correct those in MATINEE_REDIS_URL"
    if isinstance(error, redis.exceptions.BusyLoadingError):
        return f"{who} is still loading its data: start again when it has finished"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"{who} forbids INFO to this user: allow it (ACL SETUSER … +info)"
    if isinstance(error, redis.TimeoutError):
        return f"{who} did not answer within {TIMEOUT_S:g} s: check MATINEE_REDIS_URL"
    reason = " ".join(str(error).split()).rstrip(".")
    return f"cannot reach {who}: {reason}; check MATINEE_REDIS_URL and that the server runs"


def _report(
    address: str, info: dict[str, Any], policy: str | None, flush: str | None, wait_replicas: int
) -> ServerReport:
    warnings = []
    if not info.get("aof_enabled"):
        warnings.append(
            "the append-only file is off: a crash of the server loses every booking since its last snapshot "
            "(CONFIG SET appendonly yes)"
        )
    elif flush == "no":
        warnings.append(
            "appendfsync is no: a power cut may lose half a minute of bookings (CONFIG SET appendfsync everysec)"
        )
    if policy is None:
        warnings.append("the server hides its maxmemory-policy: make sure that it is noeviction")
    connected = int(info.get("connected_slaves", 0))
    if connected < wait_replicas:
        warnings.append(
            f"MATINEE_WAIT_REPLICAS is {wait_replicas}, but {connected} replicas are connected: "
            "bookings are refused until enough are"
        )
    valkey = info.get("valkey_version")
    return ServerReport(
        address=address,
        kind="Valkey" if valkey else "Redis",
        version=str(valkey or info.get("redis_version", "unknown")),
        role=str(info.get("role", "unknown")),
        policy=policy,
        persistence=_persistence(flush) if info.get("aof_enabled") else "none or snapshots",
        replicas=connected,
        warnings=tuple(warnings),
    )


def _persistence(flush: str | None) -> str:
    return f"append-only file, {_FLUSHED.get(flush or '', 'flushed as its configuration says')}"


def refuse_replica(report: ServerReport) -> None:
    """Raise PreflightError for a server that takes no bookings."""
    if report.role in {"slave", "replica"}:
        raise PreflightError(
            f"the server at {report.address} is a replica and takes no bookings: set MATINEE_REDIS_URL to its primary"
        )


def _refuse_unfit(report: ServerReport) -> None:
    """Raise PreflightError for a server on which bookings would fail or be lost."""
    minimum = VALKEY_MINIMUM if report.kind == "Valkey" else REDIS_MINIMUM
    numbers = tuple(int(number) for number in re.findall(r"\d+", report.version)[:2])
    if numbers < minimum:
        raise PreflightError(
            f"{report.kind} {report.version} at {report.address} is too old: "
            "Matinee needs Redis 7.0 or later, or Valkey 8.0 or later"
        )
    if report.policy not in {None, "noeviction"}:
        raise PreflightError(
            f"the server at {report.address} has maxmemory-policy {report.policy}, which would delete "
            "sold tickets: set it to noeviction, in its configuration file and by CONFIG SET"
        )
