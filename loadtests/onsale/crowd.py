"""People at an on-sale: when they come, what they want, how they take no for an answer.

Each looks at the seats of a theatre, thinks, and books a showtime that had seats. Told that it is sold out, they look
again, a few times. Told 503, most do as `docs/reliability.md` asks: they wait for `Retry-After`, longer each time, with
some jitter; others try again at once. Who waits too long reloads, and the service still does the work of the first try.
"""

import msgspec
import numpy as np

from loadtests.onsale.messages import (
    BOOKING,
    BROWSE,
    CROWDED,
    DONE,
    NOTHING,
    SHED,
    SOLD_OUT,
    Calendar,
    Numbers,
    Times,
    attempt_of,
    kind_of,
    message,
    state_of,
    user_of,
)
from service.problems import RETRY_AFTER_S

# What became of somebody in the end; GOING are those who are not done yet.
GOING, TICKET, NO_SEAT, GAVE_UP = range(4)

CROWDED_RETRY_AFTER_S = 1  # docs/decisions/0038


class Habits(msgspec.Struct, frozen=True, kw_only=True):
    """How people come and what they do. `rush_s` says how soon: within it comes two thirds of whoever comes.

    `skew` is the exponent of Zipf's law over the theatres. The `impatient` share waits `impatient_s` for an answer, the
    others `patient_s`; nobody tries more than `tries` times for one answer, nor after `refusals` times sold out.
    """

    users: int = 1_000_000
    arrive_within_s: float = 60
    rush_s: float = 20
    theatres: int = 1000
    timings: int = 6
    seats: int = 20
    skew: float = 0.8
    think_least_s: float = 1
    think_more_s: float = 3
    impatient: float = 0.2
    patient_s: float = 10
    impatient_s: float = 2
    tries: int = 6
    refusals: int = 3


class Crowd:
    """Arrays by user. `reloads` counts requests that were given up while the service had them."""

    def __init__(self, habits: Habits, random: np.random.Generator, tick_s: float) -> None:
        self.habits = habits
        self._random = random
        number = habits.users
        scale = 1 - np.exp(-habits.arrive_within_s / habits.rush_s)
        self.arrives = np.sort(-habits.rush_s * np.log(1 - scale * random.random(number)))
        weights = 1 / np.arange(1, habits.theatres + 1) ** habits.skew
        ranks = np.searchsorted(np.cumsum(weights / weights.sum()), random.random(number)).clip(max=habits.theatres - 1)
        self.theatre = random.permutation(habits.theatres)[ranks]
        self.showtime = self.theatre * habits.timings
        self.outcome = np.full(number, GOING, np.int8)
        self.is_impatient = random.random(number) < habits.impatient
        self._patience_s = np.where(self.is_impatient, habits.impatient_s, habits.patient_s)
        self._kind = np.zeros(number, np.int64)
        self._attempt = np.zeros(number, np.int64)
        self._tries = np.zeros(number, np.int64)
        self._refused = np.zeros(number, np.int64)
        self._sees_seats = np.zeros(number, bool)
        self._sent_at = np.full(number, np.inf)  # of the request that is waited for
        self._next = Calendar(tick_s)
        self._next.put(np.arange(number), self.arrives)
        self.reloads = 0
        self.sent = 0

    @property
    def is_done(self) -> bool:
        """Whether everybody has come and gone."""
        return not (self.outcome == GOING).any()

    def due(self, tick: int, webs: int) -> tuple[Numbers, Times]:
        """Requests that are sent in this tick, each to one of so many web processes."""
        users, at = self._next.take(tick)
        if not len(users):
            return NOTHING
        self._attempt[users] += 1
        self._sent_at[users] = at
        self.sent += len(users)
        web = self._random.integers(webs, size=len(users))
        return message(users, self._kind[users], web, self._attempt[users]), at

    def see(self, users: Numbers, is_open: np.ndarray) -> None:
        """Choose one of the showtimes that have seats."""
        taste = self._random.random(is_open.shape) * is_open
        best = np.argmax(taste, axis=1)
        self.showtime[users] = self.theatre[users] * self.habits.timings + best
        self._sees_seats[users] = taste[np.arange(len(users)), best] > 0

    def still_wait(self, messages: Numbers) -> np.ndarray:
        """Which of these requests somebody still waits for."""
        user = user_of(messages)
        return (attempt_of(messages) == self._attempt[user]) & np.isfinite(self._sent_at[user])

    def hear(self, answers: Numbers, at: Times) -> tuple[Times, Numbers]:
        """Take answers; how long those who still waited for them had waited, and what they are."""
        user = user_of(answers)
        waited_for = self.still_wait(answers)
        user, state, kind, at = (
            user[waited_for],
            state_of(answers[waited_for]),
            kind_of(answers[waited_for]),
            at[waited_for],
        )
        waited_s = at - self._sent_at[user]
        self._sent_at[user] = np.inf
        served = state < SHED
        self._tries[user[served]] = 0
        looked = served & (kind == BROWSE)
        self._after_a_look(user[looked], at[looked])
        booked = user[(kind == BOOKING) & (state == DONE)]
        self.outcome[booked] = TICKET
        too_late = state == SOLD_OUT
        self._after_sold_out(user[too_late], at[too_late])
        self._try_again(user[~served], at[~served], state[~served])
        return waited_s, state

    def lose_patience(self, now: float) -> Times:
        """Whoever has waited too long sends the request again, or gives up; how long they had waited."""
        users = np.flatnonzero(now - self._sent_at > self._patience_s)
        self.reloads += len(users)
        self._sent_at[users] = np.inf
        self._attempt[users] += 1  # whatever comes for the one before comes to nobody
        self._tries[users] += 1
        goes_on = self._tries[users] < self.habits.tries
        self.outcome[users[~goes_on]] = GAVE_UP
        again = users[goes_on]
        self._next.put(again, now + 0.5 * self._random.random(len(again)))
        return self._patience_s[users]

    def _after_a_look(self, users: Numbers, at: Times) -> None:
        finds = self._sees_seats[users]
        self.outcome[users[~finds]] = NO_SEAT
        wanting = users[finds]
        self._kind[wanting] = BOOKING
        self._next.put(wanting, at[finds] + self._pause_s(len(wanting)))

    def _after_sold_out(self, users: Numbers, at: Times) -> None:
        self._refused[users] += 1
        goes_on = self._refused[users] < self.habits.refusals
        self.outcome[users[~goes_on]] = NO_SEAT
        again = users[goes_on]
        self._kind[again] = BROWSE
        self._next.put(again, at[goes_on] + self._pause_s(len(again)))

    def _try_again(self, users: Numbers, at: Times, state: Numbers) -> None:
        self._tries[users] += 1
        goes_on = self._tries[users] < self.habits.tries
        self.outcome[users[~goes_on]] = GAVE_UP
        users, at, state = users[goes_on], at[goes_on], state[goes_on]
        low, high = RETRY_AFTER_S
        told_s = np.where(state == CROWDED, CROWDED_RETRY_AFTER_S, self._random.integers(low, high + 1, len(users)))
        obeys_s = told_s * 1.5 ** (self._tries[users] - 1) + self._random.random(len(users))
        hurries_s = 0.2 + 0.8 * self._random.random(len(users))
        self._next.put(users, at + np.where(self.is_impatient[users], hurries_s, obeys_s))

    def _pause_s(self, number: int) -> Times:
        return self.habits.think_least_s + self.habits.think_more_s * self._random.standard_exponential(number)
