"""What travels: a message is one number that says whose request it is and where it stands. And a calendar of them."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Times = NDArray[np.float64]

BROWSE, BOOKING = 0, 1
# Where a request stands: asked, or its answer. The last three are the service's 503: too much waits for a shard, the
# shard answered after the deadline, too many connections are busy.
ASKED, DONE, SOLD_OUT, SHED, LATE, CROWDED = range(6)

# The fields of a message and their widths in bits. A message that LEADS is a command to a shard; the others share one.
_USER, _KIND, _STATE, _LEADS, _WEB = (0, 21), (21, 1), (22, 3), (25, 1), (26, 10)
_ATTEMPT = 36
USERS_MAX = 1 << _USER[1]
WEB_MAX = 1 << _WEB[1]


def message(user: Numbers, kind: Numbers, web: Numbers, attempt: Numbers) -> Numbers:
    """A request on its way to a web process."""
    return user | (kind << _KIND[0]) | (web << _WEB[0]) | (attempt << _ATTEMPT)


def user_of(messages: Numbers) -> Numbers:
    """Whose they are."""
    return _get(messages, _USER)


def kind_of(messages: Numbers) -> Numbers:
    """BROWSE or BOOKING."""
    return _get(messages, _KIND)


def state_of(messages: Numbers) -> Numbers:
    """ASKED, or the answer."""
    return _get(messages, _STATE)


def leads(messages: Numbers) -> NDArray[np.bool_]:
    """Which are commands to a shard."""
    return _get(messages, _LEADS) > 0


def web_of(messages: Numbers) -> Numbers:
    """The web process that has them."""
    return _get(messages, _WEB)


def attempt_of(messages: Numbers) -> Numbers:
    """Which attempt of their user they are."""
    return messages >> _ATTEMPT


def answered(messages: Numbers, state: Numbers | int) -> Numbers:
    """Requests that were asked, with their answers."""
    return messages | (np.asarray(state, np.int64) << _STATE[0])


def leading(messages: Numbers, leads: NDArray[np.bool_]) -> Numbers:
    """The same; those for which it is true lead."""
    return messages | (leads.astype(np.int64) << _LEADS[0])


def _get(messages: Numbers, field: tuple[int, int]) -> Numbers:
    return (messages >> field[0]) & ((1 << field[1]) - 1)


class Calendar:
    """Messages and when they are due, in ticks of `tick_s`."""

    def __init__(self, tick_s: float) -> None:
        self._tick_s = tick_s
        self._due: dict[int, list[tuple[Numbers, Times]]] = defaultdict(list)
        self._now = -1

    def put(self, messages: Numbers, at: Times) -> None:
        """Have them due at these moments; what is past already, at the next tick."""
        if not len(messages):
            return
        ticks = np.maximum(np.ceil(at / self._tick_s).astype(np.int64), self._now + 1)
        if (ticks == ticks[0]).all():
            self._due[int(ticks[0])].append((messages, at))
            return
        order = np.argsort(ticks, kind="stable")
        ticks, messages, at = ticks[order], messages[order], at[order]
        bounds = np.flatnonzero(np.diff(ticks)) + 1
        lots = zip(np.split(messages, bounds), np.split(at, bounds), strict=True)
        for tick, lot in zip(ticks[np.concatenate(([0], bounds))].tolist(), lots, strict=True):
            self._due[tick].append(lot)

    def take(self, tick: int) -> tuple[Numbers, Times]:
        """All that is due at a tick."""
        self._now = tick
        lots = self._due.pop(tick, None)
        if lots is None:
            return NOTHING
        return np.concatenate([lot[0] for lot in lots]), np.concatenate([lot[1] for lot in lots])

    @property
    def is_empty(self) -> bool:
        """Whether nothing is due any more."""
        return not self._due


NOTHING: tuple[Numbers, Times] = (np.empty(0, np.int64), np.empty(0))
