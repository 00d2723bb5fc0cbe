"""How many commands one server may have to work on: as many as it answers in time, and not more."""

from collections import deque

FIRST = 256  # commands in flight until the server has shown how fast it is
LEAST = 16
SLOW_S = 0.6  # a command in flight for so long shows a slow server; longer than a wait for replicas
AIM_S = 0.3  # in such a time a slow server shall answer all that is in flight


class Window:
    """The bounds of a pipeline, fitted to its server now and then from counts that are kept anyway.

    At most `in_flight` commands may be written and unanswered, and `waiting` more wait; both are at most what the
    window is made with. Whoever finds no room in flight sets `limited`.
    """

    __slots__ = ("_first", "_grow_at", "_most_in_flight", "_most_waiting", "_ticks", "in_flight", "limited", "waiting")

    def __init__(self, most_in_flight: int, most_waiting: int) -> None:
        self._most_in_flight = most_in_flight
        self._most_waiting = most_waiting
        self._first = self.in_flight = min(FIRST, most_in_flight)
        self.waiting = most_waiting
        self.limited = False
        self._grow_at = 0  # once so many of all commands are answered, it may grow
        self._ticks: deque[tuple[int, int, float]] = deque()  # commands written, answered, when

    def fit(self, written: int, answered: int, now: float) -> bool:
        """Shrink where the server is slow to answer, grow where it answered all; whether it answered any since.

        `written` and `answered` count all commands so far, `now` is a clock in seconds.
        """
        ticks = self._ticks
        heard = bool(ticks) and answered > ticks[-1][1]
        ticks.append((written, answered, now))
        # The command whose answer is due next was written after the first tick that stays.
        while len(ticks) > 1 and ticks[1][0] <= answered:
            ticks.popleft()
        _, answered_then, then = ticks[0]
        if now - then > SLOW_S:
            rate = (answered - answered_then) / (now - then)
            self.in_flight = min(self.in_flight, max(LEAST, int(rate * AIM_S)))
            self._grow_at = written
        elif not self.limited or now - then > AIM_S:
            self._grow_at = written
        elif answered >= self._grow_at:
            self.in_flight = min(self._most_in_flight, 2 * self.in_flight)
            self._grow_at = written
        self.limited = False
        self.waiting = self._most_waiting if self.in_flight >= self._first else 2 * self.in_flight
        return heard
