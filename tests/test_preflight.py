"""The checks on a server: what passes, what is refused, and that no line shows a password."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from servers import redis_binary, start_server

from service import preflight
from service.preflight import PreflightError, inspect_server


def refusal(url: str) -> str:
    with pytest.raises(PreflightError) as error:
        inspect_server(url)
    line = str(error.value)
    assert "\n" not in line
    assert "s3cret" not in line
    return line


@contextmanager
def running(folder: Path, *options: str) -> Iterator[str]:
    """A Redis of one's own with these options."""
    process, url = start_server(redis_binary(), folder, *options)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(10)


def test_reports_a_good_server(server_url: str) -> None:
    report = inspect_server(server_url)
    assert report.address == server_url.removeprefix("unix://")
    assert (report.kind, report.version[0]) in {("Valkey", "9"), ("Redis", "7")}
    assert report.role == "master"
    assert report.policy == "noeviction"


def test_warns_where_nothing_persists(server_url: str) -> None:
    report = inspect_server(server_url)
    assert report.persistence == "none or snapshots"
    assert len(report.warnings) == 1
    assert "append-only file is off" in report.warnings[0]
    with redis.Redis.from_url(server_url) as client:
        client.config_set("appendonly", "yes")
        try:
            report = inspect_server(server_url)
            client.config_set("appendfsync", "always")
            assert inspect_server(server_url).persistence == "append-only file, flushed before every answer"
            client.config_set("appendfsync", "no")
            assert "a power cut may lose half a minute of bookings" in inspect_server(server_url).warnings[0]
        finally:
            client.config_set("appendonly", "no", "appendfsync", "everysec")
    assert report.persistence.startswith("append-only file, flushed once a second: a power cut may lose")
    assert report.warnings == ()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_refuses_a_server_that_would_delete_tickets(server_url: str, policy: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.config_set("maxmemory-policy", policy)
        try:
            line = refusal(server_url)
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    assert f"maxmemory-policy {policy}, which would delete sold tickets: set it to noeviction" in line


def test_refuses_a_replica(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.replicaof("127.0.0.1", "1")
        try:
            line = refusal(server_url)
        finally:
            client.replicaof("NO", "ONE")
    assert "is a replica and takes no bookings: set MATINEE_REDIS_URL to its primary" in line


def test_refuses_a_cluster_node(tmp_path: Path) -> None:
    with running(tmp_path, "--cluster-enabled", "yes") as url:
        assert "is a node of a cluster: set MATINEE_REDIS_URL to redis+cluster://" in refusal(url)


@pytest.mark.parametrize(
    "rights", ["-evalsha", "-script", "-@scripting"], ids=["no EVALSHA", "no SCRIPT LOAD", "no scripts"]
)
def test_refuses_a_user_without_the_right_to_scripts(server_url: str, rights: str) -> None:
    with as_user(server_url, f"+@all {rights}") as url:
        assert "forbids scripts to this user: allow EVALSHA and SCRIPT LOAD" in refusal(url)


def test_does_not_need_config(server_url: str) -> None:
    with as_user(server_url, "+@all -config") as url:
        assert inspect_server(url).policy == "noeviction"


def test_needs_info(server_url: str) -> None:
    with as_user(server_url, "+@all -info") as url:
        assert "forbids INFO to this user: allow it" in refusal(url)


@contextmanager
def as_user(url: str, rights: str) -> Iterator[str]:
    """The URL of a new user with these rights."""
    with redis.Redis.from_url(url) as client:
        client.execute_command("ACL", "SETUSER", "clerk", "on", ">s3cret", "~*", *rights.split())
        try:
            yield url.replace("unix://", "unix://clerk:s3cret@")
        finally:
            client.acl_deluser("clerk")


def test_refuses_a_wrong_password(server_url: str) -> None:
    with as_user(server_url, "+@all") as url:
        line = refusal(url.replace("clerk:", "usher:"))
    assert line.endswith("refuses the user or password: correct those in MATINEE_REDIS_URL")


def test_names_a_password_that_is_missing(tmp_path: Path) -> None:
    with running(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.config_set("requirepass", "s3cret")
        assert "refuses the user or password" in refusal(url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://:s3cret@127.0.0.1:1/0", "127.0.0.1:1"),
        ("rediss://usher:s3cret@127.0.0.1:1", "127.0.0.1:1"),
        ("unix://:s3cret@/no/such.sock", "/no/such.sock"),
        ("redis://:s3cret@no-such-host.invalid", "no-such-host.invalid:6379"),
    ],
)
def test_says_which_server_is_out_of_reach(url: str, address: str) -> None:
    line = refusal(url)
    assert line.startswith(f"cannot reach the server at {address}: ")
    assert line.endswith("; check MATINEE_REDIS_URL and that the server runs")


@pytest.mark.parametrize("url", ["http://usher:s3cret@host", "redis://:pa/s3cret@host/0", "redis://:s3cret@h:99999"])
def test_says_what_a_url_is(url: str) -> None:
    assert "it reads redis://[user:password@]host:port/db, rediss://… for TLS, or unix:///" in refusal(url)


@contextmanager
def speaking(answers: dict[bytes, bytes]) -> Iterator[str]:
    """A server that gives these answers to these commands, and `+OK` to all others."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.readline():
                words = []
                for _ in range(int(head[1:])):
                    words.append(self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2])
                self.wfile.write(answers.get(words[0].upper(), b"+OK\r\n"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}?protocol=2"
        server.shutdown()


def bulk(text: str) -> bytes:
    return f"${len(text)}\r\n{text}\r\n".encode()


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ("redis_version:6.2.14", "Redis 6.2.14"),
        ("redis_version:7.2.4\r\nvalkey_version:7.2.5", "Valkey 7.2.5"),
    ],
)
def test_refuses_an_old_server(info: str, named: str) -> None:
    with speaking({b"INFO": bulk(f"{info}\r\nmaxmemory_policy:noeviction\r\n")}) as url:
        line = refusal(url)
    assert line.startswith(named)
    assert line.endswith("is too old: Matinee needs Redis 7.0 or later, or Valkey 8.0 or later")


def test_warns_where_the_policy_is_hidden() -> None:
    info = bulk("redis_version:7.4.0\r\nrole:master\r\naof_enabled:1\r\n")
    with speaking({b"INFO": info, b"CONFIG": b"-ERR unknown command 'CONFIG'\r\n"}) as url:
        report = inspect_server(url)
    assert report.policy is None
    assert report.warnings == ("the server hides its maxmemory-policy: make sure that it is noeviction",)


def test_warns_where_fewer_replicas_are_connected_than_are_waited_for(server_url: str) -> None:
    assert inspect_server(server_url, wait_replicas=2).warnings[-1] == (
        "MATINEE_WAIT_REPLICAS is 2, but 0 replicas are connected: bookings are refused until enough are"
    )


def test_refuses_a_user_who_may_not_wait_for_replicas(server_url: str) -> None:
    with redis.Redis.from_url(server_url) as client:
        client.acl_setuser("clerk", enabled=True, nopass=True, commands=["+@all", "-wait"], keys=["*"])
        try:
            url = server_url.replace("unix://", "unix://clerk:any@")
            assert inspect_server(url).warnings
            with pytest.raises(PreflightError, match=r"forbids WAIT to this user.*\(ACL SETUSER … \+wait\)"):
                inspect_server(url, wait_replicas=1)
        finally:
            client.acl_deluser("clerk")


def test_a_hidden_flush_policy_is_told_as_such() -> None:
    info = bulk("redis_version:7.4.0\r\nrole:master\r\naof_enabled:1\r\nmaxmemory_policy:noeviction\r\n")
    with speaking({b"INFO": info, b"CONFIG": b"-NOPERM no CONFIG for you\r\n"}) as url:
        report = inspect_server(url)
    assert (report.persistence, report.warnings) == ("append-only file, flushed as its configuration says", ())


def test_says_that_a_server_is_still_loading() -> None:
    with speaking({b"INFO": b"-LOADING Redis is loading the dataset in memory\r\n"}) as url:
        assert "is still loading its data: start again when it has finished" in refusal(url)


def test_does_not_wait_for_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TIMEOUT_S", 0.1)
    with speaking({b"INFO": b""}) as url:
        assert "did not answer within 0.1 s: check MATINEE_REDIS_URL" in refusal(url)
