"""A fakeredis server whose clock the test sets: hours pass at once, and keys expire as they do on a real server."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from unittest.mock import patch

# The modules in which fakeredis reads the time, for TIME, for expiry and for what a script sees.
READERS = ("fakeredis._socket._base", "fakeredis._helpers", "fakeredis.commands_mixins.server_mixin")


class ServerClock:
    """Stands in for the module `time` inside fakeredis. It stands still until it is set."""

    def __init__(self, at: str) -> None:
        self.now_ms = 0
        self.set(at)

    def set(self, at: str) -> None:
        """Set it to an instant, RFC 3339."""
        self.now_ms = int(datetime.fromisoformat(at).timestamp() * 1000)

    def time(self) -> float:
        """Seconds since 1970."""
        return self.now_ms / 1000


@contextmanager
def server_clock(at: str) -> Iterator[ServerClock]:
    """Every fakeredis server of this process lives by this clock, meanwhile."""
    clock = ServerClock(at)
    with patch(f"{READERS[0]}.time", clock), patch(f"{READERS[1]}.time", clock), patch(f"{READERS[2]}.time", clock):
        yield clock
