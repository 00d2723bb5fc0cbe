"""A primary and its replicas, each behind a link that can be held: what the primary writes then stays on the way.

To stop the replica's process would not do: the kernel goes on taking the stream for it, and it loses nothing.
"""

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.servers import start_server


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a state of a server; there is no event to wait for."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Link:
    """Listens on a free port of loopback for the server at `upstream`, a Unix socket's URL or a port of loopback.

    It can hold back what replicas are told; nobody else notices.
    """

    def __init__(self, upstream: str | int) -> None:
        self.lead_to(upstream)
        self._free = threading.Event()
        self._free.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, upstream: str | int) -> None:
        """Take the next connections to this server."""
        self._upstream = upstream

    def hold(self) -> None:
        """Let nothing through to a replica any more, nor back."""
        self._free.clear()

    def release(self) -> None:
        """Let it all through."""
        self._free.set()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                try:
                    there = self._connected()
                except OSError:  # the server is gone
                    here.close()
                    continue
                is_replica = threading.Event()
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._forward, args=(*pair, is_replica), daemon=True).start()

    def _connected(self) -> socket.socket:
        if isinstance(self._upstream, int):
            return socket.create_connection(("127.0.0.1", self._upstream))
        there = socket.socket(socket.AF_UNIX)
        there.connect(self._upstream.removeprefix("unix://"))
        return there

    def _forward(self, source: socket.socket, sink: socket.socket, is_replica: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if b"PSYNC" in data:  # a replica asks for what its primary writes
                    is_replica.set()
                if is_replica.is_set():
                    self._free.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Replica:
    """A server that follows the primary over its own link."""

    def __init__(self, binary: str, folder: Path, link: Link, *options: str) -> None:
        self.folder = folder
        self.process, self.url = start_server(binary, folder, "--replicaof", f"127.0.0.1 {link.port}", *options)
        self.client = redis.Redis.from_url(self.url)
        self.wait_for_copy()

    def wait_for_copy(self) -> None:
        """Wait until the first copy of the primary's data is there."""
        # Neither `connected_slaves` nor `online` of the primary means that the first copy has arrived.
        wait_until(lambda: self.client.info("replication")["master_link_status"] == "up")


class Replicated:
    """A primary with replicas; `options` are for all of these servers."""

    def __init__(self, binary: str, folder: Path, replicas: int, *options: str) -> None:
        for name in ("p", *(f"r{n}" for n in range(replicas))):
            (folder / name).mkdir()
        self.process, self.url = start_server(binary, folder / "p", "--repl-diskless-sync-delay", "0", *options)
        self.client = redis.Redis.from_url(self.url)
        self.links = [Link(self.url) for _ in range(replicas)]
        self.replicas = [Replica(binary, folder / f"r{n}", link, *options) for n, link in enumerate(self.links)]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it nothing reaches a replica."""
        for link in self.links:
            link.hold()
        try:
            yield
        finally:
            for link in self.links:
                link.release()

    def has_all(self) -> bool:
        """Whether every replica has all that the primary wrote."""
        written = self.client.info("replication")["master_repl_offset"]
        return all(replica.client.info("replication")["slave_repl_offset"] == written for replica in self.replicas)

    def stop(self) -> None:
        """End all servers."""
        processes: list[subprocess.Popen[bytes]] = [self.process, *(replica.process for replica in self.replicas)]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait(10)
        for link in self.links:
            link.close()
