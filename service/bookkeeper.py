"""`matinee audit`: reads the books while the service runs, says what disagrees, and with `--repair` mends it."""

import contextlib
import sys
import time
from collections.abc import Iterator

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.audit import audit
from service.check import reach
from service.deployment import primaries
from service.preflight import PreflightError, address_of, trouble
from service.programme import Programme, programme_from
from service.repair import repair
from service.settings import Settings

PROGRESS_EVERY_S = 3.0
BAR_EVERY_S = 0.1
TIMEOUT_S = 30.0  # for one round trip; a large showtime is read in one


def keep_books(settings: Settings, *, mends: bool) -> bool:
    """Audit the database of these settings and print what is found; whether all is well, or has been mended.

    An embedded server that runs is asked; else it is started and stopped. Of Sentinels' servers the primary is read, of
    a cluster each primary. Raises one of `serve.CANNOT_START`.
    """
    programme = programme_from(settings)
    with reach(settings) as (url, where):
        is_well = [_keep_books_of(node, where, programme, mends=mends) for node in primaries(url)]
    return all(is_well)


def _keep_books_of(url: str, where: str, programme: Programme, *, mends: bool) -> bool:
    with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)) as client:
        print(f"server: {where or f'at {address_of(client)}'}")
        try:
            return _audit(client, programme, mends=mends)
        except redis.exceptions.AskError as error:  # MovedError is one too
            raise PreflightError("the cluster is moving keys to other nodes: audit again when that is over") from error
        except redis.RedisError as error:
            raise PreflightError(trouble(f"the server at {address_of(client)}", error)) from error


def _audit(client: redis.Redis, programme: Programme, *, mends: bool) -> bool:
    with _progress(int(client.dbsize())) as progress:
        report = audit(client, programme, progress=progress)
    left = len(report.disagreements)
    if mends:
        for line, mended in repair(client, programme, report.disagreements):
            print(line)
            left -= mended
    else:
        for disagreement in report.disagreements:
            print(disagreement)
    for remark in report.remarks:
        print(f"note: {remark}")
    print(report.line + (f", {len(report.disagreements) - left:,} mended, {left:,} left" if mends else ""))
    return left == 0


class _Progress:
    """How far the reading is: a line on stderr every few seconds, or on a terminal one line that moves."""

    def __init__(self, keys: int) -> None:
        self._keys = max(keys, 1)
        self._moves = sys.stderr.isatty()
        self._every_s = BAR_EVERY_S if self._moves else PROGRESS_EVERY_S
        self._next_at = time.monotonic() + self._every_s

    def __call__(self, read: int, found: int) -> None:
        """Say it, if it is time."""
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._every_s
        share = min(100, 100 * read // self._keys)
        line = f"read {read:,} of about {self._keys:,} keys ({share} %), {found:,} disagreements"
        if self._moves:
            print(f"\r{line}\033[K", end="", file=sys.stderr, flush=True)
        else:
            print(f"matinee: {line}", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave the terminal's line to what comes next."""
        if self._moves:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress(keys: int) -> Iterator[_Progress]:
    progress = _Progress(keys)
    try:
        yield progress
    finally:
        progress.clear()
