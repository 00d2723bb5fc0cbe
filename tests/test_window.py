"""How many commands a pipeline has in flight: a quick server gets more, a slow one what it answers in time."""

from service.window import FIRST, LEAST, Window

TICK_S = 0.05


class Server:
    """Answers `per_s` commands a second of those that are written to it, in its own time."""

    def __init__(self, window: Window, per_s: float) -> None:
        self.window = window
        self.per_s = per_s
        self.written = self.now = 0.0
        self.answered = 0.0

    def run(self, ticks: int, wanted_per_s: float) -> None:
        """Let so many ticks pass, while clients want so much; what finds no room is refused."""
        for _ in range(ticks):
            self.now += TICK_S
            wanted = self.written + wanted_per_s * TICK_S
            self.answered = min(self.answered + self.per_s * TICK_S, self.written)
            self.written = min(wanted, self.answered + self.window.in_flight)
            self.window.limited = self.written < wanted
            self.window.fit(int(self.written), int(self.answered), self.now)


def test_a_quick_server_is_given_more_up_to_the_bound() -> None:
    window = Window(1024, 4096)
    assert window.in_flight == FIRST
    Server(window, per_s=50_000).run(40, wanted_per_s=100_000)
    assert (window.in_flight, window.waiting) == (1024, 4096)


def test_what_nobody_needs_is_not_given() -> None:
    window = Window(1024, 4096)
    Server(window, per_s=50_000).run(100, wanted_per_s=1000)
    assert window.in_flight == FIRST


def test_a_slow_server_has_in_flight_what_it_answers_in_a_third_of_a_second() -> None:
    window = Window(1024, 4096)
    Server(window, per_s=200).run(200, wanted_per_s=2000)
    assert LEAST <= window.in_flight <= 120  # 0.6 s of 200 a second: it grows again until that shows
    assert window.waiting == 2 * window.in_flight


def test_a_server_that_stands_still_keeps_the_least_and_gets_more_when_it_is_quick_again() -> None:
    window = Window(1024, 4096)
    server = Server(window, per_s=0)
    server.run(100, wanted_per_s=2000)
    assert window.in_flight == LEAST
    server.per_s = 50_000
    server.run(100, wanted_per_s=100_000)
    assert window.in_flight == 1024


def test_a_small_bound_stays_one() -> None:
    window = Window(4, 8)
    Server(window, per_s=50_000).run(40, wanted_per_s=100_000)
    assert (window.in_flight, window.waiting) == (4, 8)


def test_it_tells_whether_anything_was_answered_since_the_last_look() -> None:
    window = Window(1024, 4096)
    assert not window.fit(10, 0, 0.0)
    assert window.fit(10, 4, 0.05)
    assert not window.fit(10, 4, 0.10)
