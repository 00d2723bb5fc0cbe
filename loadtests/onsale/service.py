"""The way of a request through the service: web process, pipeline, shard, and back; and where it is refused.

A request is handled twice by its web process, as it comes and when Redis has answered; the measured cost is halved
between the two. Those who ask for the same in the same turn share one command, as they do in `service/store.py`. Of
the pipeline's bounds, its window (`service/window.py`) and its patience are followed for every pair of a web process
and a shard. One thing is simpler than in the service: a command that Redis answers after its deadline is told 503 then,
not at the deadline.
"""

import inspect
from typing import Protocol

import msgspec
import numpy as np
from redis.crc import key_slot

from loadtests.onsale.messages import (
    ASKED,
    BOOKING,
    BROWSE,
    CROWDED,
    DONE,
    LATE,
    NOTHING,
    SHED,
    SOLD_OUT,
    Calendar,
    Numbers,
    Times,
    answered,
    kind_of,
    leading,
    leads,
    state_of,
    user_of,
    web_of,
)
from loadtests.onsale.servers import Loops, Turn
from service.connections import CONNECTIONS_MAX
from service.pipeline import TICK_S, Pipeline
from service.serve import BACKLOG
from service.window import AIM_S, FIRST, LEAST, SLOW_S

SLOTS = 16384
_DEFAULTS = {name: option.default for name, option in inspect.signature(Pipeline.__init__).parameters.items()}
NEVER = np.inf


class Prices(msgspec.Struct, frozen=True):
    """Microseconds of processor time: answers by their kind, and a write, of a web process and of a shard."""

    web_booking: float
    web_sold_out: float
    web_browse: float
    web_write: float
    web_refusal: float
    shard_booking: float
    shard_sold_out: float
    shard_browse: float
    shard_write: float


class Bounds(msgspec.Struct, frozen=True):
    """Where the service refuses: by default as it does, `unbounded()` as if it never did."""

    connections: float = CONNECTIONS_MAX
    backlog: float = BACKLOG
    in_flight: float = _DEFAULTS["max_in_flight"]
    waiting: float = _DEFAULTS["max_waiting"]
    deadline_s: float = _DEFAULTS["deadline_s"]

    @classmethod
    def unbounded(cls) -> "Bounds":
        """Everything is taken, and waits for as long as it takes."""
        return cls(NEVER, NEVER, NEVER, NEVER, NEVER)


class Visitors(Protocol):
    """What the service knows of those who ask: arrays by user."""

    theatre: Numbers
    showtime: Numbers

    def see(self, users: Numbers, is_open: np.ndarray) -> None:
        """They are shown which showtimes of their theatre have seats left, a row each."""

    def still_wait(self, messages: Numbers) -> np.ndarray:
        """Which of these requests somebody still waits for."""


class House:
    """The theatres: their shards, their seats, who has one."""

    def __init__(self, theatres: int, timings: int, seats: int, shards: int, users: int) -> None:
        self.timings = timings
        self.seats = seats
        self.shard = np.array([key_slot(b"{h%03d}" % number) * shards // SLOTS for number in range(theatres)])
        self.booked = np.zeros(theatres * timings, np.int64)
        self.has_seat = np.zeros(users, bool)

    def book(self, users: Numbers, showtimes: Numbers) -> Numbers:
        """DONE or SOLD_OUT for each, in their order; whoever has a seat already is told of it again."""
        state = np.full(len(users), DONE, np.int64)
        fresh = ~self.has_seat[users]
        _, first = np.unique(users, return_index=True)
        is_first = np.zeros(len(users), bool)
        is_first[first] = True
        wanting = np.flatnonzero(fresh & is_first)
        order = wanting[np.argsort(showtimes[wanting], kind="stable")]
        shows = showtimes[order]
        starts = np.concatenate(([True], np.diff(shows) > 0)) if len(shows) else np.empty(0, bool)
        place = np.arange(len(shows)) - np.maximum.accumulate(np.where(starts, np.arange(len(shows)), 0))
        gets = place < self.seats - self.booked[shows]
        np.add.at(self.booked, shows[gets], 1)
        self.has_seat[users[order[gets]]] = True
        state[~self.has_seat[users]] = SOLD_OUT
        return state


class Service:
    """So many web processes and shards. `step` moves everything on by a tick."""

    def __init__(
        self, webs: int, shards: int, prices: Prices, bounds: Bounds, house: House, visitors: Visitors, tick_s: float
    ) -> None:
        self.webs, self.shards = Loops(webs), Loops(shards)
        self.house = house
        self.pending = np.zeros(webs, np.int64)
        self._at_door = np.zeros(webs, np.int64)
        self._prices = prices
        self._bounds = bounds
        self._visitors = visitors
        self._coming, self._there, self._back = Calendar(tick_s), Calendar(tick_s), Calendar(tick_s)
        self._pipelines = Pipelines(webs, shards, bounds)
        self._knows_full = np.zeros((webs, len(house.booked)), bool)
        self._asked_at = np.zeros(len(house.has_seat))
        self._knocks = np.zeros(len(house.has_seat), np.int64)
        micro = 1e-6
        half_browse, half = prices.web_browse / 2 * micro, prices.web_sold_out / 2 * micro
        # Of a booking nobody knows yet whether there is a seat: until then both cost the same.
        self._asked_s = np.array([half_browse, half])
        refusal = prices.web_refusal * micro
        self._answer_s = np.array(
            [
                [0, half_browse, 0, half, half, refusal],
                [0, prices.web_booking * micro - half, half, half, half, refusal],
            ]
        )
        self._shard_s = np.zeros((2, 3))
        self._shard_s[BROWSE, DONE] = prices.shard_browse * micro
        self._shard_s[BOOKING, DONE], self._shard_s[BOOKING, SOLD_OUT] = (
            prices.shard_booking * micro,
            prices.shard_sold_out * micro,
        )

    def ask(self, messages: Numbers, at: Times) -> None:
        """Requests that reach their web process at these moments."""
        self._coming.put(messages, at)

    def step(self, tick: int, now: float) -> tuple[Numbers, Times]:
        """Everything until `now`, the end of a tick; the answers, and when they come."""
        coming, at = self._coming.take(tick)
        if len(coming):
            self._let_in(coming, at)
        back, at = self._back.take(tick)
        if len(back):
            self._pipelines.hear(back, self._shard_of(back))
            self.webs.add(back, web_of(back), at)
        answers = NOTHING
        if turn := self.webs.begin(now):
            answers = self._web_turn(turn)
        for messages, when in self._pipelines.release(now):
            self._there.put(messages, when)
        refused = self._pipelines.give_up(now)
        self._back.put(answered(refused, SHED), np.full(len(refused), now))
        there, at = self._there.take(tick)
        if len(there):
            self.shards.add(there, self._shard_of(there), at)
        if turn := self.shards.begin(now):
            self._shard_turn(turn)
        return answers

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing to do."""
        calendars = (self._coming, self._there, self._back)
        return not (self.pending.any() or self._at_door.any()) and all(calendar.is_empty for calendar in calendars)

    def _shard_of(self, messages: Numbers) -> Numbers:
        return self.house.shard[self._visitors.theatre[user_of(messages)]]

    def _let_in(self, messages: Numbers, at: Times) -> None:
        """Where too many connections are busy, refuse newcomers, which costs too; beyond the backlog nobody hears them.

        Who is not heard knocks again after 1 s, 2 s, 4 s, …, as TCP does, for as long as they wait.
        """
        web = web_of(messages)
        order = np.lexsort((at, web))
        place = np.empty(len(messages), np.int64)
        place[order] = _place(web[order])
        refused = place >= self._bounds.connections - self.pending[web]
        unheard = place >= self._bounds.connections - self.pending[web] + self._bounds.backlog - self._at_door[web]
        self.pending += np.bincount(web[~refused], minlength=self.webs.count)
        self._at_door += np.bincount(web[refused & ~unheard], minlength=self.webs.count)
        heard = ~unheard
        user = user_of(messages)
        knocks = unheard & self._visitors.still_wait(messages)
        self._coming.put(messages[knocks], at[knocks] + 2.0 ** self._knocks[user[knocks]])
        self._knocks[user[knocks]] += 1
        self._knocks[user[heard]] = 0
        self.webs.add(np.where(refused, answered(messages, CROWDED), messages)[heard], web[heard], at[heard])

    def _web_turn(self, turn: Turn) -> tuple[Numbers, Times]:
        messages = turn.messages
        state, kind = state_of(messages), kind_of(messages)
        is_new = state == ASKED
        cost_s = np.where(is_new, self._asked_s[kind], self._answer_s[kind, state])
        new = np.flatnonzero(is_new)
        commands = self._share(messages[new])
        shard = self._shard_of(commands)
        pair = turn.of[new] * self.shards.count + shard
        written = np.zeros(len(turn.firsts) * self.shards.count, bool)
        written[pair] = True
        writes = written.reshape(-1, self.shards.count).sum(axis=1)
        done, ends = self.webs.work(turn, cost_s, writes * self._prices.web_write * 1e-6)
        if len(new):
            self._asked_at[user_of(commands)] = ends[new]
            refused = self._pipelines.take(commands, shard, ends[new])
            self._back.put(answered(commands[refused], SHED), ends[new][refused])
        told = ~is_new
        answers, web = messages[told], turn.server[told]
        self._knows_full[
            web[state[told] == SOLD_OUT], self._visitors.showtime[user_of(answers[state[told] == SOLD_OUT])]
        ] = True
        at_door = state[told] == CROWDED
        self.pending -= np.bincount(web[~at_door], minlength=self.webs.count)
        self._at_door -= np.bincount(web[at_door], minlength=self.webs.count)
        return answers, done[told]

    def _share(self, messages: Numbers) -> Numbers:
        """Mark one command of all who ask for the same: a look at a theatre, a showtime that is known to be full."""
        user, web = user_of(messages), web_of(messages)
        kind = kind_of(messages)
        showtime = self._visitors.showtime[user]
        theatres = len(self.house.booked)
        what = np.where(kind == BROWSE, self._visitors.theatre[user], theatres + showtime)
        alone = (kind == BOOKING) & ~self._knows_full[web, showtime]
        what = np.where(alone, -1 - np.arange(len(messages)), what)
        _, first = np.unique(what * self.webs.count + web, return_index=True)
        is_leading = np.zeros(len(messages), bool)
        is_leading[first] = True
        return leading(messages, is_leading)

    def _shard_turn(self, turn: Turn) -> None:
        messages = turn.messages
        user, kind = user_of(messages), kind_of(messages)
        state = np.full(len(messages), DONE, np.int64)
        booking = np.flatnonzero(kind == BOOKING)
        if len(booking):
            state[booking] = self.house.book(user[booking], self._visitors.showtime[user[booking]])
        looking = user[kind == BROWSE]
        if len(looking):
            of_day = self.house.booked.reshape(-1, self.house.timings)[self._visitors.theatre[looking]]
            self._visitors.see(looking, of_day < self.house.seats)
        cost_s = np.where(leads(messages), self._shard_s[kind, state], 0.0)
        written = np.zeros((len(turn.firsts), self.webs.count), bool)
        written[turn.of, web_of(messages)] = True
        self._pipelines.serve(turn.servers)
        _, ends = self.shards.work(turn, cost_s, written.sum(axis=1) * self._prices.shard_write * 1e-6)
        late = ends - self._asked_at[user] > self._bounds.deadline_s
        self._back.put(answered(messages, np.where(late, LATE, state)), ends)


class Pipelines:
    """From every web process to every shard: how many commands may be in flight, and how many more wait."""

    def __init__(self, webs: int, shards: int, bounds: Bounds) -> None:
        shape = (webs, shards)
        self._bounds = bounds
        self._first = min(FIRST, bounds.in_flight)
        self._window = np.full(shape, NEVER if bounds.in_flight == NEVER else float(self._first))
        self._most = np.full(shape, float(bounds.waiting))
        self._in_flight, self._waiting = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self._written, self._heard, self._grow_at = (np.zeros(shape, np.int64) for _ in range(3))
        self._limited = np.zeros(shape, bool)
        # Of the commands that a shard has not begun with, and of those it has: when the oldest was written, and how
        # many had been answered then.
        self._oldest = np.full((2, *shape), NEVER)
        self._heard_then = np.zeros((2, *shape), np.int64)
        self._queue: list[tuple[Numbers, Numbers, Times]] = []
        self._going: list[tuple[Numbers, Times]] = []
        self._fit_at = 0.0

    def take(self, messages: Numbers, shard: Numbers, at: Times) -> np.ndarray:
        """Commands, and those who share them, of a turn. Which are refused at once, since too many wait."""
        web = web_of(messages)
        count = np.zeros_like(self._in_flight)
        np.add.at(count, (web, shard), leads(messages))
        if (self._waiting == 0).all() and (self._in_flight + count <= self._window).all():
            self._write(messages, shard, at, count)
            return np.zeros(len(messages), bool)
        # One after the other: a command has room to wait, or is refused, and with it those who share it.
        pair = web * self._in_flight.shape[1] + shard
        order = np.lexsort((~leads(messages), pair))
        place = np.maximum(_count_within(pair[order], leads(messages)[order]), 1)
        refused = np.zeros(len(messages), bool)
        refused[order] = place > (self._most - self._waiting)[web[order], shard[order]]
        kept = ~refused
        np.add.at(self._waiting, (web[kept], shard[kept]), leads(messages[kept]))
        self._queue.append((messages[kept], shard[kept], at[kept]))
        return refused

    def release(self, now: float) -> list[tuple[Numbers, Times]]:
        """What is written now."""
        if now >= self._fit_at:
            self._fit(now)
            self._fit_at = now + TICK_S
        if self._queue:
            messages, shard, at = map(np.concatenate, zip(*self._queue, strict=True))
            web = web_of(messages)
            pair = web * self._in_flight.shape[1] + shard
            order = np.argsort(pair, kind="stable")
            place = _count_within(pair[order], leads(messages)[order])
            goes = np.zeros(len(messages), bool)
            goes[order] = place <= (self._window - self._in_flight)[web[order], shard[order]]
            self._limited[web[~goes], shard[~goes]] = True
            count = np.zeros_like(self._in_flight)
            np.add.at(count, (web[goes], shard[goes]), leads(messages[goes]))
            self._waiting -= count
            self._write(messages[goes], shard[goes], np.full(goes.sum(), now), count)
            self._queue = [] if goes.all() else [(messages[~goes], shard[~goes], at[~goes])]
        going, self._going = self._going, []
        return going

    def give_up(self, now: float) -> Numbers:
        """What has waited for half of its deadline."""
        if not self._queue or self._bounds.deadline_s == NEVER:
            return NOTHING[0]
        messages, shard, at = map(np.concatenate, zip(*self._queue, strict=True))
        late = at <= now - self._bounds.deadline_s / 2
        np.subtract.at(self._waiting, (web_of(messages[late]), shard[late]), leads(messages[late]))
        self._queue = [(messages[~late], shard[~late], at[~late])] if not late.all() else []
        return messages[late]

    def serve(self, shards: Numbers) -> None:
        """These shards begin with all that was written to them."""
        self._oldest[1][:, shards] = self._oldest[0][:, shards]
        self._heard_then[1][:, shards] = self._heard_then[0][:, shards]
        self._oldest[0][:, shards] = NEVER

    def hear(self, messages: Numbers, shard: Numbers) -> None:
        """Replies have come."""
        came = state_of(messages) != SHED
        web, shard = web_of(messages[came]), shard[came]
        count = np.zeros_like(self._in_flight)
        np.add.at(count, (web, shard), leads(messages[came]))
        self._in_flight = np.maximum(self._in_flight - count, 0)
        self._heard += count
        self._oldest[1][web, shard] = NEVER

    def _write(self, messages: Numbers, shard: Numbers, at: Times, count: np.ndarray) -> None:
        web = web_of(messages)
        unseen = self._oldest[0][web, shard] == NEVER
        self._oldest[0][web[unseen], shard[unseen]] = at[unseen]
        self._heard_then[0][web[unseen], shard[unseen]] = self._heard[web[unseen], shard[unseen]]
        self._in_flight += count
        self._written += count
        self._going.append((messages, at))

    def _fit(self, now: float) -> None:
        """As `Window.fit` does."""
        which = np.argmin(self._oldest, axis=0)[None]
        age = now - np.take_along_axis(self._oldest, which, 0)[0]
        answered_since = self._heard - np.take_along_axis(self._heard_then, which, 0)[0]
        slow = age > SLOW_S
        if slow.any() and self._bounds.in_flight != NEVER:
            rate = answered_since[slow] / age[slow]
            self._window[slow] = np.minimum(self._window[slow], np.maximum(LEAST, np.floor(rate * AIM_S)))
        still = slow | ~self._limited | (age > AIM_S)
        grows = ~still & (self._heard >= self._grow_at)
        self._window[grows] = np.minimum(self._bounds.in_flight, 2 * self._window[grows])
        self._grow_at = np.where(still | grows, self._written, self._grow_at)
        self._limited[:] = False
        self._most = np.where(self._window >= self._first, self._bounds.waiting, 2 * self._window)


def _place(group: Numbers) -> Numbers:
    """The place of each within its group, from 0; groups stand together."""
    index = np.arange(len(group))
    starts = np.concatenate(([True], np.diff(group) != 0)) if len(group) else np.empty(0, bool)
    return index - np.maximum.accumulate(np.where(starts, index, 0))


def _count_within(group: Numbers, counted: np.ndarray) -> Numbers:
    """How many of its group are counted up to each; groups stand together."""
    total = np.cumsum(counted)
    starts = np.concatenate(([0], np.flatnonzero(np.diff(group)) + 1)) if len(group) else np.empty(0, np.int64)
    before = (total - counted)[starts]
    sizes = np.diff(np.concatenate((starts, [len(group)])))
    return total - np.repeat(before, sizes)
