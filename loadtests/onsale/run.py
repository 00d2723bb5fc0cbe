"""One on-sale from its first second to its last, and what it came to."""

import math
from collections.abc import Callable

import msgspec
import numpy as np

from loadtests.onsale.crowd import GAVE_UP, NO_SEAT, TICKET, Crowd, Habits
from loadtests.onsale.messages import SHED, Times
from loadtests.onsale.service import Bounds, House, Prices, Service

TICK_S = 0.002
PATIENCE_EVERY = 50  # ticks
GOOD_S = 0.2  # what 99 of 100 answers should take at most
ENOUGH = 100  # answers in a second that make a percentile of it

# Times between 0.1 ms and 1,000 s, 24 to a factor of ten: a percentile is right to 10 %.
BINS = np.logspace(-4, 3, 7 * 24 + 1)


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated. Without `sheds` the service takes everything and lets it wait."""

    webs: int
    shards: int
    habits: Habits
    prices: Prices
    seed: int
    sheds: bool = True
    longest_s: int = 120


class Second(msgspec.Struct, frozen=True):
    """One second of it; without an answer it has no p99. The waits are the longest turns that had yet to end."""

    p99_ms: float | None
    served: int
    shed: int
    unheard: int
    tickets: int
    web_use: float
    shard_use: float
    web_wait_s: float
    shard_wait_s: float


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. Percentiles are of answers other than 503; whoever gave up on one counts with their patience.

    `breaks_at_s` is the first second with a p99 above 200 ms, `breaks` what had the longer queue then.
    """

    setting: Setting
    p50_ms: float
    p99_ms: float
    answers: int
    shed: int
    reloads: int
    tickets: int
    no_seat: int
    gave_up: int
    seats_sold: int
    most_tickets_per_s: int
    sold_by_s: int
    breaks_at_s: int | None
    breaks: str
    web_use: float
    shard_use: float
    seconds: list[Second]

    @property
    def shed_share(self) -> float:
        """Of all answers, those that were 503."""
        return self.shed / max(1, self.answers)


class Clock:
    """Answers by the second in which they came, and how long they had taken."""

    def __init__(self, longest_s: int) -> None:
        self.waits = np.zeros((longest_s + 1, len(BINS) + 1), np.int64)
        self.shed = np.zeros(longest_s + 1, np.int64)
        self.unheard = np.zeros(longest_s + 1, np.int64)

    def add(self, second: int, waited_s: Times) -> None:
        """Answers of a second."""
        np.add.at(self.waits[second], np.searchsorted(BINS, waited_s), 1)

    def percentile_ms(self, share: float, second: int | None = None) -> float:
        """The time within which so many answers came, of a second or of all; NaN where none came."""
        counts = self.waits.sum(axis=0) if second is None else self.waits[second]
        if not counts.sum():
            return math.nan
        return float(BINS[min(np.searchsorted(np.cumsum(counts), share * counts.sum()), len(BINS) - 1)]) * 1000


def simulate(setting: Setting, say: Callable[[str], None] = lambda _line: None) -> Result:
    """Let it happen, the same for the same setting; `say` hears of every ten seconds."""
    habits = setting.habits
    random = np.random.default_rng(setting.seed)
    crowd = Crowd(habits, random, TICK_S)
    house = House(habits.theatres, habits.timings, habits.seats, setting.shards, habits.users)
    bounds = Bounds() if setting.sheds else Bounds.unbounded()
    service = Service(setting.webs, setting.shards, setting.prices, bounds, house, crowd, TICK_S)
    clock = Clock(setting.longest_s)
    seconds: list[Second] = []
    ticks_per_s = round(1 / TICK_S)
    sold = 0
    busy = service.webs.busy_s.copy(), service.shards.busy_s.copy()
    for tick in range(setting.longest_s * ticks_per_s):
        now, second = tick * TICK_S, tick // ticks_per_s
        service.ask(*crowd.due(tick, setting.webs))
        answers, at = service.step(tick, now)
        if len(answers):
            waited_s, state = crowd.hear(answers, at)
            refused = state >= SHED
            clock.add(second, waited_s[~refused])
            clock.shed[second] += refused.sum()
        if tick % PATIENCE_EVERY == 0:
            gave_up_s = crowd.lose_patience(now)
            clock.add(second, gave_up_s)
            clock.unheard[second] += len(gave_up_s)
        if (tick + 1) % ticks_per_s == 0:
            seconds.append(_second(clock, second, service, busy, int(house.booked.sum()) - sold, now))
            sold, busy = int(house.booked.sum()), (service.webs.busy_s.copy(), service.shards.busy_s.copy())
            if (second + 1) % 10 == 0:
                say(f"second {second + 1}: {sold:,} seats sold, {seconds[-1].served:,} answers in it")
            if crowd.is_done and service.is_idle:
                break
    return _result(setting, crowd, clock, seconds)


def _second(
    clock: Clock, second: int, service: Service, before: tuple[Times, Times], tickets: int, now: float
) -> Second:
    webs, shards = service.webs, service.shards
    served = int(clock.waits[second].sum())
    return Second(
        p99_ms=clock.percentile_ms(0.99, second) if served else None,
        served=served,
        shed=int(clock.shed[second]),
        unheard=int(clock.unheard[second]),
        tickets=tickets,
        web_use=float((webs.busy_s - before[0]).max()),
        shard_use=float((shards.busy_s - before[1]).max()),
        web_wait_s=float((webs.busy_until - now).max()),
        shard_wait_s=float((shards.busy_until - now).max()),
    )


def _result(setting: Setting, crowd: Crowd, clock: Clock, seconds: list[Second]) -> Result:
    sold = np.cumsum([second.tickets for second in seconds])
    breaks_at = next(
        (
            number
            for number, second in enumerate(seconds)
            if second.p99_ms is not None and second.served >= ENOUGH and second.p99_ms > GOOD_S * 1000
        ),
        None,
    )
    breaks = "-"
    if breaks_at is not None:
        breaks = "web" if seconds[breaks_at].web_wait_s >= seconds[breaks_at].shard_wait_s else "shard"
    served = int(clock.waits.sum())
    shed = int(clock.shed.sum())
    return Result(
        setting=setting,
        p50_ms=clock.percentile_ms(0.5),
        p99_ms=clock.percentile_ms(0.99),
        answers=served + shed,
        shed=shed,
        reloads=crowd.reloads,
        tickets=int((crowd.outcome == TICKET).sum()),
        no_seat=int((crowd.outcome == NO_SEAT).sum()),
        gave_up=int((crowd.outcome == GAVE_UP).sum()),
        seats_sold=int(sold[-1]) if len(sold) else 0,
        most_tickets_per_s=max((second.tickets for second in seconds), default=0),
        sold_by_s=int(np.searchsorted(sold, 0.99 * sold[-1])) + 1 if len(sold) else 0,
        breaks_at_s=breaks_at,
        breaks=breaks,
        web_use=max((second.web_use for second in seconds), default=0.0),
        shard_use=max((second.shard_use for second in seconds), default=0.0),
        seconds=seconds,
    )
