"""The embedded server: one writer to a folder, no orphan, nothing lost, personal data gone in time."""

import contextlib
import fcntl
import logging
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import redis

from service import embedded
from service.embedded import EmbeddedServer, EmbeddedServerError, Holder, first_damage, holder_of

WAIT_S = 25
ROOT = Path(__file__).parent.parent
# Another process that owns an embedded server: it says when it is ready, and stops at the end of its input.
OWNER = """
import logging, pathlib, sys
from service.embedded import EmbeddedServer, EmbeddedServerError
logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
try:
    server = EmbeddedServer.start(pathlib.Path(sys.argv[1]))
except EmbeddedServerError as error:
    sys.exit(str(error))
print("ready", flush=True)
sys.stdin.read()
server.stop()
"""


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.01)


def start_owner(data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, data_dir],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A ready owner of the folder, in another process."""
    process = start_owner(tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate(timeout=WAIT_S)


@pytest.fixture
def start() -> Iterator[Callable[[Path], EmbeddedServer]]:
    """Start an embedded server of this process; stopped at the latest when the test ends."""
    started: list[EmbeddedServer] = []

    def start(data_dir: Path) -> EmbeddedServer:
        started.append(EmbeddedServer.start(data_dir))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=None, decode_responses=True)


def count(url: str) -> int:
    """Count up in the store: a ticket, as it were."""
    with client(url) as store:
        return int(store.incr("tickets"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def holder(data_dir: Path) -> Holder:
    found = holder_of(data_dir)
    assert found is not None
    return found


def test_is_a_private_server_that_keeps_everything(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    data_dir = tmp_path / "made" / "as needed"
    server = start(data_dir)
    assert server.alive
    with client(server.url) as store:
        assert store.config_get("maxmemory-policy", "appendonly", "appendfsync", "save", "port") == {
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "port": "0",
        }
    assert mode(data_dir) == 0o700
    assert mode(data_dir / "valkey.sock") == 0o700
    assert mode(data_dir / "lock") == 0o600


def test_it_may_flush_once_a_second(tmp_path: Path) -> None:
    server = EmbeddedServer.start(tmp_path, "everysec")
    try:
        with client(server.url) as store:
            assert store.config_get("appendfsync") == {"appendfsync": "everysec"}
    finally:
        server.stop()


def test_there_is_no_use_in_a_start_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushing before every answer, Valkey ends at its first write; flushing once a second, it refuses writes."""
    servers = [EmbeddedServer.start(tmp_path / name, name) for name in ("always", "everysec")]
    try:
        assert [server.has_room for server in servers] == [True, True]
        monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=embedded.DISK_FULL_BYTES - 1))
        assert [server.has_room for server in servers] == [False, True]
    finally:
        for server in servers:
            server.stop()


def test_data_survive_a_stop_and_a_start(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    assert count(server.url) == 1
    server.stop()
    assert not server.alive
    assert holder_of(tmp_path) is None
    assert count(start(tmp_path).url) == 2


def test_restarts_after_a_kill(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    assert count(server.url) == 1
    os.kill(holder(tmp_path).server_pid, signal.SIGKILL)
    until(lambda: not server.alive, "the end")
    assert server.why_it_died() == f"it was killed (its log: {tmp_path / 'valkey.log'})"
    server.restart()
    server._wait_until_ready()
    assert count(server.url) == 2


def test_a_disowned_copy_stops_nothing(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    child = os.fork()
    if child == 0:
        server.disown()
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert count(server.url) == 1
    assert holder_of(tmp_path) is not None, "the lock is still ours"


def test_a_folder_in_use_is_refused_and_not_touched(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    url = holder(tmp_path).url
    assert count(url) == 1
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(EmbeddedServerError) as refusal:
        EmbeddedServer.start(tmp_path)
    assert str(refusal.value) == (
        f"another Matinee (process {owner.pid}) runs on the data folder {tmp_path}: "
        "stop it, or choose another folder with MATINEE_DATA_DIR"
    )
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert count(url) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed owner leaves its server")
def test_a_killed_owner_takes_the_server_along(
    tmp_path: Path, owner: subprocess.Popen[str], start: Callable[[Path], EmbeddedServer]
) -> None:
    assert count(holder(tmp_path).url) == 1
    owner.kill()
    owner.wait(WAIT_S)
    assert count(start(tmp_path).url) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed owner leaves its server")
def test_waits_for_what_a_killed_owner_left(tmp_path: Path, owner: subprocess.Popen[str]) -> None:
    assert count(holder(tmp_path).url) == 1
    left = holder(tmp_path).server_pid
    os.kill(left, signal.SIGSTOP)
    owner.kill()
    owner.wait(WAIT_S)
    heir = start_owner(tmp_path)
    try:
        assert heir.stdout is not None
        assert heir.stdout.readline() == f"waiting for what an earlier run left in {tmp_path} to end\n"
        os.kill(left, signal.SIGCONT)
        assert heir.stdout.readline() == "ready\n"
        assert count(holder(tmp_path).url) == 2
    finally:
        heir.communicate(timeout=WAIT_S)


@pytest.mark.parametrize("owner_pid", [os.getpid(), 2**22 + 1], ids=["another container's", "dead"])
def test_does_not_wait_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner_pid: int) -> None:
    """The lock is held, and not by a living process that this one can see."""
    monkeypatch.setattr(embedded, "PREDECESSOR_WAIT_S", 0.05)
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, msgspec.json.encode(Holder(owner_pid, 4711, "nowhere")))
    with pytest.raises(EmbeddedServerError, match=r"process 4711\) still holds the data folder .*: end it"):
        EmbeddedServer.start(tmp_path)
    os.close(lock)


def test_a_lock_that_tells_nothing_of_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "PREDECESSOR_WAIT_S", 0.05)
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EmbeddedServerError, match=r"another process still holds the data folder .*: end it"):
            EmbeddedServer.start(tmp_path)


def log_of_commands(data_dir: Path) -> Path:
    (found,) = (data_dir / "appendonlydir").glob("*.incr.aof")
    return found


def test_an_append_only_file_cut_short_loads(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(tmp_path)
    assert [count(server.url), count(server.url)] == [1, 2]
    server.stop()
    assert caplog.text == ""
    commands = log_of_commands(tmp_path)
    os.truncate(commands, commands.stat().st_size - 7)
    server = start(tmp_path)
    assert "ended in the middle of a command" in caplog.text
    assert count(server.url) == 2, "the second one was cut"


def test_a_damaged_append_only_file_stops_the_start_and_its_advice_works(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer]
) -> None:
    server = start(tmp_path)
    for _ in range(3):
        count(server.url)
    server.stop()
    commands = log_of_commands(tmp_path)
    content = bytearray(commands.read_bytes())
    second = content.index(b"*", content.index(b"INCR", content.index(b"INCR") + 1) - 14)
    content[second] = ord("?")
    commands.write_bytes(content)
    with pytest.raises(EmbeddedServerError) as stopped:
        start(tmp_path)
    advice = f"truncate -s {second} {commands}"
    assert str(stopped.value) == (
        f"the embedded Valkey did not start: the append-only file {commands} is damaged at byte {second} of "
        f"{len(content)}: restore {commands.parent} from a backup, or, to give up every booking "
        f"after that point, keep a copy and run `{advice}`"
    )
    assert commands.read_bytes() == content
    subprocess.run(advice, shell=True, check=True)
    assert count(start(tmp_path).url) == 2


def test_a_damaged_base_stops_the_start(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    start(tmp_path).stop()
    (base,) = (tmp_path / "appendonlydir").glob("*.base.rdb")
    base.write_bytes(base.read_bytes()[:20])
    with pytest.raises(EmbeddedServerError, match=r"base of the append-only file is damaged .* from a backup$"):
        start(tmp_path)


def test_a_healthy_append_only_file_has_no_damage(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    with client(server.url) as store:
        store.set("text", "two\r\nlines $3 *4 ☺")
    server.stop()
    commands = log_of_commands(tmp_path)
    assert first_damage(commands) == commands.stat().st_size


@pytest.mark.parametrize(
    ("content", "damage"),
    [
        (b"#TS:1\r\n*1\r\n$4\r\nPING\r\n", 21),  # none: an annotation and a command
        (b"*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPIN", 14),
        (b"*1\r\n$4\r\nPINGxx", 0),
        (b"*1\r\n4\r\nPING\r\n", 0),
        (b"*x\r\n", 0),
        (b"PING\r\n", 0),
    ],
)
def test_the_first_damage_is_found_where_the_command_begins(tmp_path: Path, content: bytes, damage: int) -> None:
    path = tmp_path / "commands.aof"
    path.write_bytes(content)
    assert first_damage(path) == damage


def test_a_reason_is_told_also_when_the_files_are_gone(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    server.stop()
    log = tmp_path / "valkey.log"
    log.write_text("# Bad file format reading the append only file gone.aof: make a backup")
    folder = tmp_path / "appendonlydir"
    assert server.why_it_died() == f"the append-only file {folder}/gone.aof is damaged: restore {folder} from a backup"
    log.unlink()
    assert server.why_it_died() == f"it was killed (its log: {log})"


def test_a_disk_that_has_become_full_is_the_reason(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(tmp_path)
    server.stop()
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=0))
    assert server.why_it_died().startswith(f"the disk of the data folder {tmp_path} is full")


def test_names_leave_the_folder_when_the_last_rewrite_is_a_day_old(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer]
) -> None:
    server = start(tmp_path)
    with client(server.url) as store:
        store.hset("ticket", "name", "Ada Lovelace")
        store.pexpire("ticket", 1)
        until(lambda: not store.exists("ticket"), "the expiry")
    server.stop()
    folder = tmp_path / "appendonlydir"

    def contents() -> Iterator[bytes]:
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a rewrite renames files meanwhile
                yield path.read_bytes()

    def named() -> bool:
        return any(b"Ada" in content for content in contents())

    start(tmp_path).stop()
    assert named(), "younger than a day: as it was"
    (base,) = folder.glob("*.base.rdb")
    day_ago = time.time() - 24 * 3600
    os.utime(base, (day_ago, day_ago))
    start(tmp_path)
    until(lambda: not base.exists(), "the rewrite")
    until(lambda: not named(), "the end of the old file")


def a_day_older(data_dir: Path) -> None:
    (base,) = (data_dir / "appendonlydir").glob("*.base.rdb")
    day_ago = time.time() - 24 * 3600
    os.utime(base, (day_ago, day_ago))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the rewriting process in Linux's /proc")
def test_a_rewrite_that_failed_is_told_and_tried_again(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(tmp_path)
    count(server.url)
    a_day_older(tmp_path)
    with client(server.url) as store:
        store.config_set("rdb-key-save-delay", 10_000_000)  # microseconds a key: it does not end by itself
        server.rewrite_if_due()
        until(lambda: store.info("persistence")["aof_rewrite_in_progress"], "the rewrite")
        server.rewrite_if_due()
        assert caplog.text == "", "one that is under way is left alone"
        pid = holder(tmp_path).server_pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        store.config_set("rdb-key-save-delay", 0)
        os.kill(int(child), signal.SIGKILL)
        until(lambda: store.info("persistence")["aof_last_bgrewrite_status"] == "err", "its failure")
        server.rewrite_if_due()
        assert "the last rewrite of the append-only file failed" in caplog.text
        until(lambda: store.info("persistence")["aof_last_bgrewrite_status"] == "ok", "the next one")


def test_a_rewrite_while_the_server_is_away_is_told_and_harms_nothing(
    tmp_path: Path, start: Callable[[Path], EmbeddedServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(tmp_path)
    os.kill(holder(tmp_path).server_pid, signal.SIGKILL)
    until(lambda: not server.alive, "the end")
    a_day_older(tmp_path)
    server.rewrite_if_due()
    assert "could not be rewritten, it will be tried again" in caplog.text


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path,
    start: Callable[[Path], EmbeddedServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedded, "STOP_WAIT_S", 0.1)
    server = start(tmp_path)
    count(server.url)
    os.kill(holder(tmp_path).server_pid, signal.SIGSTOP)
    server.stop()
    assert "killing it" in caplog.text
    assert not server.alive
    assert count(start(tmp_path).url) == 2, "what was answered had been written"


def test_what_was_disowned_cannot_be_started_again(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    server = start(tmp_path)
    server.stop()
    with pytest.raises(EmbeddedServerError, match="belongs to another process"):
        server.restart()


def test_a_path_too_long_for_a_socket_has_it_elsewhere(tmp_path: Path, start: Callable[[Path], EmbeddedServer]) -> None:
    data_dir = tmp_path / ("long" * 30)
    server = start(data_dir)
    socket = Path(holder(data_dir).socket)
    assert len(os.fsencode(socket)) <= 103
    assert mode(socket.parent) == 0o700
    assert count(server.url) == 1
    server.stop()
    assert not socket.parent.exists()
    assert count(start(data_dir).url) == 2


def test_no_binary_for_this_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedServerError, match=r"no Valkey is bundled .*riscv64.* set MATINEE_REDIS_URL"):
        EmbeddedServer.start(tmp_path)


def test_a_binary_that_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "valkey-server"
    binary.write_text("not a program")
    monkeypatch.setattr(embedded, "get_binary_path", lambda: binary)
    with pytest.raises(EmbeddedServerError, match=r"Valkey cannot be run here \(permission denied\): set MATINEE"):
        EmbeddedServer.start(tmp_path / "data")


def test_a_binary_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system's loader does where a library is too old."""
    binary = tmp_path / "valkey-server"
    binary.write_text("#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2\nexit 1\n")
    binary.chmod(0o700)
    monkeypatch.setattr(embedded, "get_binary_path", lambda: binary)
    with pytest.raises(EmbeddedServerError, match=r"did not start: version GLIBC_2\.99 not found"):
        EmbeddedServer.start(tmp_path / "data")


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"file/data cannot be used \(not a directory\): set MATINEE_DATA"):
        EmbeddedServer.start(tmp_path / "file" / "data")


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder that its owner may not write. Root may write anywhere, so there the test is somebody else meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        Path(folder).chmod(0o500)
        user = os.geteuid()
        if user == 0:
            os.chown(folder, 65534, -1)
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


def test_a_folder_that_cannot_be_written(locked_folder: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"cannot be used \(permission denied\)"):
        EmbeddedServer.start(locked_folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("/dev/full")
    with pytest.raises(EmbeddedServerError, match=r"the disk of the data folder .* is full: free some space"):
        EmbeddedServer.start(tmp_path)


def test_a_slow_load_is_waited_for_with_a_line(
    tmp_path: Path,
    start: Callable[[Path], EmbeddedServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(embedded, "PROGRESS_EVERY_S", 0.0)
    assert count(start(tmp_path).url) == 1
    assert f"Valkey is loading {tmp_path} (0 s so far)" in caplog.text
