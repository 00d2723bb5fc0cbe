"""Counting values into buckets: all that a busy path does for its metrics."""

from bisect import bisect_left


class Histogram:
    """How many values fell into each bucket (its upper bound included; one more for what is above), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def take(self) -> tuple[list[int], float]:
        """The counts of all buckets and the sum since the last time; begins anew."""
        taken = self.counts, self.total
        self.counts, self.total = [0] * (len(self.bounds) + 1), 0.0
        return taken
