"""Web processes and shards as what they are to a queue: a loop that does, in a turn, all that waits for it.

That is where auto-pipelining has its effect: a turn pays for each of its answers, and once for each connection that it
writes to. The more wait, the less each costs. While a turn lasts, what comes waits for the next one.
"""

import numpy as np

from loadtests.onsale.messages import Numbers, Times

FAR_S = 1e5  # further apart than any two moments of a simulation


class Turn:
    """What some servers begin to do: messages server by server, each server's in the order in which they came."""

    def __init__(self, messages: Numbers, server: Numbers, at: Times) -> None:
        order = np.lexsort((at, server))
        self.messages, self.server, self.at = messages[order], server[order], at[order]
        self.firsts = np.concatenate(([0], np.flatnonzero(np.diff(self.server)) + 1))
        self.lasts = np.concatenate((self.firsts[1:], [len(self.messages)])) - 1
        self.of = np.repeat(np.arange(len(self.firsts)), np.diff(np.concatenate((self.firsts, [len(self.messages)]))))

    @property
    def servers(self) -> Numbers:
        """Those that have something to do."""
        return self.server[self.firsts]


class Loops:
    """Servers of a kind. `busy_s` is the processor time that each has used so far."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.busy_until = np.zeros(count)
        self.busy_s = np.zeros(count)
        self._waiting: list[tuple[Numbers, Numbers, Times]] = []
        self._waits = np.zeros(count, bool)

    def add(self, messages: Numbers, server: Numbers, at: Times) -> None:
        """Messages that wait for the next turn of these servers."""
        if len(messages):
            self._waiting.append((messages, server, at))
            self._waits[server] = True

    def begin(self, now: float) -> Turn | None:
        """The turn of those who are free and have something to do, if there are any."""
        if not self._waiting:
            return None
        free = self.busy_until <= now
        if not (free & self._waits).any():
            return None
        columns = tuple(map(np.concatenate, zip(*self._waiting, strict=True)))
        ready = free[columns[1]]
        self._waiting = [] if ready.all() else [tuple(column[~ready] for column in columns)]
        self._waits[free] = False
        return Turn(*(column[ready] for column in columns))

    def work(self, turn: Turn, cost_s: Times, end_s: Times) -> tuple[Times, Times]:
        """Do it: each message takes `cost_s`, the end of each server's turn `end_s`. When each is done, and its turn.

        A message is begun when it is there and those before it are done: Lindley's recursion, for all servers at once.
        """
        total = np.cumsum(cost_s)
        before = total - cost_s
        before -= before[turn.firsts][turn.of]
        ready = turn.at - before
        ready[turn.firsts] = np.maximum(turn.at[turn.firsts], self.busy_until[turn.servers])
        apart = turn.of * FAR_S
        done = np.maximum.accumulate(ready + apart) - apart + before + cost_s
        ends = done[turn.lasts] + end_s
        self.busy_until[turn.servers] = ends
        self.busy_s[turn.servers] += np.add.reduceat(cost_s, turn.firsts) + end_s
        return done, ends[turn.of]

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waits.any()
