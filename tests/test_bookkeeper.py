"""`matinee audit` as a command: which database it reads, what it prints, how it ends."""

import sys
import time
from pathlib import Path

import pytest
import redis

from service import bookkeeper
from service.__main__ import main
from service.embedded import EmbeddedServer, holder_of
from service.keys import keys_of
from service.programme import programme_from
from service.settings import Settings
from tests.clusters import SERVICE, ClusterOfSix, PrimaryOfTwo

PROGRAMME = programme_from(Settings.from_environment({}))


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests have log handlers of their own."""
    monkeypatch.setattr("logging.basicConfig", lambda **_: None)


def test_an_embedded_server_that_stands_still_is_started_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_DATA_DIR", str(tmp_path))
    assert main(["audit"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"server: embedded, data in {tmp_path}",
        "books: 0 showtimes, 0 tickets: 0 disagreements",
    ]
    assert holder_of(tmp_path) is None


def test_one_that_runs_is_asked_and_mended_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_DATA_DIR", str(tmp_path))
    running = EmbeddedServer.start(tmp_path)
    try:
        with redis.Redis.from_url(running.url) as client:
            client.set("{main}:idempotency:" + "0" * 32, f"main-{'7' * 16} {'f' * 32}")
            client.set("stray", "x", px=60_000)
        assert main(["audit"]) == 1
        told = capsys.readouterr().out.splitlines()
        assert told[0] == f"server: embedded, running as process {holder_of(tmp_path).server_pid}"
        assert sorted(told[1:3]) == [
            "stray: no key of Matinee",
            "{main}:idempotency:00000000000000000000000000000000: never expires",
        ]
        assert told[3:] == ["books: 0 showtimes, 0 tickets: 2 disagreements"]
        assert main(["audit", "--repair"]) == 1, "one is left"
        told = capsys.readouterr().out.splitlines()
        assert sorted(told[1:3]) == [
            "stray: no key of Matinee: left to you",
            "{main}:idempotency:00000000000000000000000000000000: never expires: it expires as it should",
        ]
        assert told[3:] == ["books: 0 showtimes, 0 tickets: 2 disagreements, 1 mended, 1 left"]
    finally:
        running.stop()


def test_all_that_could_be_mended_is_well_afterwards(
    server_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", server_url)
    with redis.Redis.from_url(server_url) as client:
        client.hset("{main}:ticket:main-" + "7" * 16, mapping={"cancelled": "word", "version": 2})
    assert main(["audit"]) == 1
    assert main(["audit", "--repair"]) == 0
    capsys.readouterr()
    assert main(["audit"]) == 0
    assert capsys.readouterr().out.startswith(f"server: at {server_url.removeprefix('unix://')}\n")


def test_a_server_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", "redis://:s3cret@127.0.0.1:1")
    assert main(["audit"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("matinee: cannot reach the server at 127.0.0.1:1: ")
    assert "s3cret" not in line


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_long_audit_shows_how_far_it_is(
    server_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", server_url)
    monkeypatch.setattr(bookkeeper, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(bookkeeper, "BAR_EVERY_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    with redis.Redis.from_url(server_url) as client, client.pipeline() as pipe:
        for number in range(1200):
            pipe.set(f"stray:{number}", 1, px=60_000)
        pipe.execute()
    assert main(["audit"]) == 1
    told = capsys.readouterr().err
    if is_terminal:
        assert told.endswith("\r\033[K"), "the line is left clean"
        assert "\rread 1,200 of about 1,200 keys (100 %), 1,200 disagreements" in told
    else:
        assert "matinee: read 500 of about 1,200 keys (41 %), 500 disagreements\n" in told


def doctor(client: redis.Redis) -> None:
    """A showtime whose counter no ids bear out; the expiries are right."""
    [theatre] = PROGRAMME.theatres.values()
    showtime = PROGRAMME.resolve(theatre, "18:00", int(time.time() * 1000))
    key, _ = keys_of(showtime)
    client.hset(key, mapping={"booked": 1, "version": 1, "forgotten": showtime.moment.forgotten_ms, "zone": "UTC"})
    client.pexpireat(key, showtime.moment.forgotten_ms)


def test_of_a_cluster_each_primary_is_read(
    cluster: ClusterOfSix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", cluster.url)
    assert main(["audit"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sorted(told[::2]) == sorted(f"server: at {node.address}" for node in cluster.primaries())
    with redis.RedisCluster.from_url(f"redis://{cluster.nodes[0].address}") as client:
        doctor(client)
    assert main(["audit"]) == 1
    assert "1 booked, but 0 ids are listed" in capsys.readouterr().out
    assert main(["audit", "--repair"]) == 0
    assert main(["audit"]) == 0


def test_behind_sentinels_the_primary_is_read(
    sentinels: PrimaryOfTwo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", sentinels.url)
    primary = sentinels.primary
    with redis.Redis.from_url(f"redis://{primary.address}") as client:
        doctor(client)
    assert main(["audit"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"server: at {primary.address}"
    assert told[1].endswith("1 booked, but 0 ids are listed")
    assert main(["audit", "--repair"]) == 0
    assert main(["audit"]) == 0


def test_a_primary_that_no_sentinel_knows_is_one_line(
    sentinels: PrimaryOfTwo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MATINEE_REDIS_URL", sentinels.url.replace(SERVICE, "cinema"))
    assert main(["audit"]) == 1
    assert capsys.readouterr().err == (
        "matinee: no Sentinel knows a primary named cinema: correct the name in MATINEE_REDIS_URL\n"
    )
