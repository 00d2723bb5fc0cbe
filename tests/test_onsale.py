"""The simulation of an on-sale: its queues are those of the theory, nobody is lost, no seat is sold twice."""

import msgspec
import numpy as np
import pytest

from loadtests.onsale import __main__ as command
from loadtests.onsale.crowd import GOING, Crowd, Habits
from loadtests.onsale.messages import BOOKING, BROWSE, DONE, LATE, SHED, SOLD_OUT, Calendar, message, state_of, user_of
from loadtests.onsale.run import Setting, simulate
from loadtests.onsale.servers import Loops
from loadtests.onsale.service import Bounds, House, Prices, Service

PRICES = Prices(
    web_booking=35,
    web_sold_out=30,
    web_browse=45,
    web_write=40,
    web_refusal=80,
    shard_booking=15,
    shard_sold_out=3,
    shard_browse=9,
    shard_write=20,
)
SMALL = Habits(
    users=2_000, arrive_within_s=1, rush_s=1, theatres=20, timings=2, seats=20, think_least_s=0.2, think_more_s=0.2
)
TICK_S = 0.001


class Asking:
    """Whoever asks once, and does not mind the answer."""

    def __init__(self, theatre: np.ndarray, timings: int = 1) -> None:
        self.theatre = theatre
        self.showtime = theatre * timings

    def see(self, users: np.ndarray, is_open: np.ndarray) -> None:
        pass

    def still_wait(self, messages: np.ndarray) -> np.ndarray:
        return user_of(messages) % 2 == 0


def setting(**changes) -> Setting:
    return Setting(**{"webs": 2, "shards": 2, "habits": SMALL, "prices": PRICES, "seed": 1, "longest_s": 60, **changes})


def slow(times: float) -> Prices:
    return Prices(*(times * price for price in msgspec.structs.astuple(PRICES)))


def waits_s(loops: Loops, arrivals: np.ndarray, cost_s: float, turn_s: float = 0, tick_s: float = TICK_S) -> np.ndarray:
    """Let one server work; how long each arrival was there."""
    coming = Calendar(tick_s)
    coming.put(np.arange(len(arrivals)), arrivals)
    found = np.full(len(arrivals), np.nan)
    tick = served = 0
    while served < len(arrivals):
        messages, at = coming.take(tick)
        loops.add(messages, np.zeros(len(messages), np.int64), at)
        if turn := loops.begin(tick * tick_s):
            done, _ = loops.work(turn, np.full(len(turn.messages), cost_s), np.full(1, turn_s))
            found[turn.messages] = done - turn.at
            served += len(done)
        tick += 1
    return found


# The queues


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_server_is_the_queue_of_pollaczek_and_khinchine(load: float) -> None:
    cost_s, number = 0.005, 20_000
    arrivals = np.cumsum(np.random.default_rng(1).exponential(cost_s / load, number))
    expected_s = cost_s * (1 + load / (2 * (1 - load)))  # M/D/1
    assert waits_s(Loops(1), arrivals, cost_s, tick_s=0.1).mean() == pytest.approx(expected_s, rel=0.05)


def test_what_a_turn_costs_is_shared_by_all_that_waited() -> None:
    cost_s, turn_s, load, number = 0.001, 0.01, 0.8, 5_000
    arrivals = np.cumsum(np.random.default_rng(1).exponential(cost_s / load, number))
    loops = Loops(1)
    waits_s(loops, arrivals, cost_s, turn_s)
    turns = (loops.busy_s[0] - number * cost_s) / turn_s
    # A turn lasts for its own cost and for those who came during the one before: n = rate * (turn + n * cost).
    assert number / turns == pytest.approx(load / cost_s * turn_s / (1 - load), rel=0.05)


def test_an_idle_server_begins_when_a_message_comes() -> None:
    assert waits_s(Loops(1), np.array([0.0104, 0.5]), 0.002) == pytest.approx([0.002, 0.002])


def test_servers_do_not_wait_for_each_other() -> None:
    loops = Loops(2)
    loops.add(np.array([1, 2, 3]), np.array([0, 1, 0]), np.array([0.0, 0.001, 0.002]))
    turn = loops.begin(0.002)
    done, ends = loops.work(turn, np.full(3, 0.01), np.array([0.005, 0.001]))
    assert turn.messages.tolist() == [1, 3, 2]
    assert done == pytest.approx([0.010, 0.020, 0.011])
    assert ends == pytest.approx([0.025, 0.025, 0.012])
    loops.add(np.array([4]), np.array([0]), np.array([0.003]))
    assert loops.begin(0.02) is None
    assert loops.begin(0.025).messages.tolist() == [4]


# Seats


def test_the_last_seat_goes_to_who_came_first() -> None:
    house = House(theatres=2, timings=1, seats=2, shards=1, users=6)
    states = house.book(np.array([3, 1, 5, 0]), np.array([0, 1, 0, 0]))
    assert states.tolist() == [DONE, DONE, DONE, SOLD_OUT]
    assert house.booked.tolist() == [2, 1]


def test_who_asks_again_is_told_of_the_seat_they_have() -> None:
    house = House(theatres=1, timings=1, seats=2, shards=1, users=3)
    assert house.book(np.array([1, 1]), np.array([0, 0])).tolist() == [DONE, DONE]
    assert house.book(np.array([1, 0, 2]), np.array([0, 0, 0])).tolist() == [DONE, DONE, SOLD_OUT]
    assert house.booked.tolist() == [2]


# The service


def ask_all(bounds: Bounds, number: int, kind: int, prices: Prices = PRICES) -> tuple[Service, np.ndarray]:
    """So many ask at one moment, each at a theatre of its own; the states of their answers."""
    users = np.arange(number)
    house = House(theatres=number, timings=1, seats=1, shards=1, users=number)
    service = Service(1, 1, prices, bounds, house, Asking(users), TICK_S)
    service.ask(
        message(users, np.full(number, kind), np.zeros(number, np.int64), np.ones(number, np.int64)), np.zeros(number)
    )
    states = []
    for tick in range(100_000):
        answers, _ = service.step(tick, tick * TICK_S)
        states.append(state_of(answers))
        if service.is_idle:
            break
    return service, np.concatenate(states)


def test_everybody_is_answered_once() -> None:
    service, states = ask_all(Bounds(), 1_000, BOOKING)
    assert states.tolist() == [DONE] * 1_000
    assert service.house.booked.sum() == 1_000


def test_beyond_its_connections_a_web_process_refuses_and_then_does_not_even_hear() -> None:
    _, states = ask_all(Bounds(connections=100, backlog=30), 200, BROWSE)
    # Of the 70 who are not heard, half wait, and come in a second later.
    assert np.bincount(states).tolist() == [0, 135, 0, 0, 0, 30]


def test_beyond_what_may_wait_for_a_shard_requests_are_refused_at_once() -> None:
    _, states = ask_all(Bounds(in_flight=64, waiting=100), 300, BOOKING)
    assert (states == DONE).sum() == 100
    assert (states == SHED).sum() == 200


def test_a_shard_that_is_too_slow_gets_less_and_answers_in_time() -> None:
    # A second of work for 1,000 bookings: of 4,000 at once a quarter of the deadline's worth waits too long.
    _, states = ask_all(Bounds(), 4_000, BOOKING, msgspec.structs.replace(PRICES, shard_booking=1_000))
    counts = np.bincount(states, minlength=6)
    assert counts[DONE] > 1_000
    assert counts[SHED] > 1_000
    assert counts[LATE] == 0
    _, states = ask_all(Bounds.unbounded(), 4_000, BOOKING, msgspec.structs.replace(PRICES, shard_booking=1_000))
    assert (states == DONE).all()


def test_those_who_look_at_the_same_share_a_command() -> None:
    users = np.arange(50)
    nought = np.zeros(50, np.int64)
    house = House(theatres=1, timings=1, seats=1, shards=1, users=50)
    service = Service(1, 1, PRICES, Bounds(), house, Asking(nought), TICK_S)
    service.ask(message(users, nought, nought, nought), np.zeros(50))
    told = sum(len(service.step(tick, tick * TICK_S)[0]) for tick in range(100))
    assert told == 50
    assert service.shards.busy_s[0] == pytest.approx((PRICES.shard_browse + PRICES.shard_write) / 1e6)


# An on-sale


def test_the_command_simulates_what_is_asked_for_and_refuses_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--users", "100", "--webs", "1", "--shards", "1", "--processes", "1"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1/1  1 web process, 1 shard: p99 ")
    assert "| 1 | 1 | " in told
    for bad in (["--users", "0"], ["--webs", "0"], ["--webs", "2,x"], ["--shards", ""], ["--seats", "0"]):
        with pytest.raises(SystemExit, match="2"):
            command.main(bad)


@pytest.mark.parametrize(
    "change",
    [{}, {"prices": slow(40)}, {"prices": slow(40), "sheds": False}, {"prices": slow(40), "webs": 16, "shards": 1}],
    ids=["enough", "too few web processes", "without bounds", "too few shards"],
)
def test_nobody_is_lost_and_no_seat_is_sold_twice(change: dict) -> None:
    result = simulate(setting(**change))
    assert result.tickets + result.no_seat + result.gave_up == SMALL.users
    seats = SMALL.theatres * SMALL.timings * SMALL.seats
    assert result.tickets <= result.seats_sold <= seats
    assert result.seats_sold == sum(second.tickets for second in result.seconds)
    assert 0 <= result.shed <= result.answers


def test_the_same_seed_is_the_same_on_sale() -> None:
    first, again = (simulate(setting(seed=7)) for _ in range(2))
    assert first == again


def test_enough_servers_answer_all_at_once_and_sell_every_seat_that_is_wanted() -> None:
    result = simulate(setting())
    assert result.p99_ms < 50
    assert result.shed == result.reloads == result.gave_up == 0
    assert result.breaks_at_s is None


def test_too_few_web_processes_break_and_say_so() -> None:
    result = simulate(setting(prices=slow(40)))
    assert result.p99_ms > 200
    assert result.breaks == "web"


def test_one_shard_for_many_web_processes_breaks_and_says_so() -> None:
    result = simulate(
        setting(webs=8, shards=1, longest_s=10, prices=msgspec.structs.replace(PRICES, shard_browse=10_000))
    )
    assert result.breaks == "shard"


def test_people_come_within_their_time_and_popular_theatres_have_more_of_them() -> None:
    crowd = Crowd(msgspec.structs.replace(SMALL, skew=1.0), np.random.default_rng(1), TICK_S)
    assert 0 <= crowd.arrives.min() <= crowd.arrives.max() <= SMALL.arrive_within_s
    counts = np.sort(np.bincount(crowd.theatre, minlength=SMALL.theatres))[::-1]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.2)
    assert (crowd.outcome == GOING).all()
