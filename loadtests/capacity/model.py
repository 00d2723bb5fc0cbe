"""The capacity model: from what a request costs to how many web processes, shards and gigabytes a demand takes.

An event loop does in one turn all that waits for it, and writes to each shard once. So its processor time is

    µs per answer = request_us + write_us * writes per answer

and the busier it is, the fewer writes there are per answer: the second part dwindles. What fills a process in the end
is `request_us` alone. The same holds for a shard, whose turn begins with what its connections have written.
"""

import math
import statistics
from collections.abc import Mapping

import msgspec

from loadtests.capacity.measure import (
    BOOKING,
    BROWSE,
    BROWSES_PER_BOOKING,
    CHECKS,
    COSTS,
    EXTRAS,
    MANY,
    MIX,
    SOLD_OUT,
    UNCHANGED,
    Record,
    Sample,
    Side,
)

KINDS = (BOOKING, SOLD_OUT, BROWSE, UNCHANGED)
PARTS_OF_MIX = {BOOKING: 1 / (1 + BROWSES_PER_BOOKING), BROWSE: BROWSES_PER_BOOKING / (1 + BROWSES_PER_BOOKING)}


class Price(msgspec.Struct, frozen=True):
    """Microseconds of processor time: of an answer, and of a write to a shard or from a web process."""

    request_us: float
    write_us: float

    def at(self, writes: float) -> float:
        """What an answer costs where there are so many writes per answer."""
        return self.request_us + self.write_us * writes


class Costs(msgspec.Struct, frozen=True):
    """What each kind of answer costs a web process and the shard that it asks."""

    web: Mapping[str, Price]
    shard: Mapping[str, Price]


class Demand(msgspec.Struct, frozen=True):
    """Answers per second by kind, tickets kept, and the share of all bookings that the most popular theatre has."""

    per_s: Mapping[str, float]
    tickets: int = 0
    hottest: float = 0.0


class Plan(msgspec.Struct, frozen=True):
    """What a demand takes. `shards` is None where no number is enough: the most popular theatre fills one alone."""

    web_processes: int
    shards: int | None
    shard_bytes: float


def median(samples: list[Sample], field: str) -> float:
    """Of a field, of the turns that nothing disturbed, if there are any."""
    quiet = [sample for sample in samples if not sample.is_disturbed]
    return statistics.median(getattr(sample, field) for sample in quiet or samples)


def costs(record: Record, shards: int) -> Costs:
    """The prices before so many shards: of each turn the line through few and many connections, then the medians."""
    web, shard = {}, {}
    for kind in KINDS:
        sides = [record.samples[side.name] for side in COSTS if (side.kind, side.shards) == (kind, shards)]
        turns = _quiet(list(zip(*sides, strict=True)))
        for prices, field in ((web, "web_us"), (shard, "shard_us")):
            fits = [
                statistics.linear_regression([one.writes for one in turn], [getattr(one, field) for one in turn])
                for turn in turns
            ]
            prices[kind] = Price(
                statistics.median(fit.intercept for fit in fits), statistics.median(fit.slope for fit in fits)
            )
    return Costs(web, shard)


def _quiet(turns: list[tuple[Sample, ...]]) -> list[tuple[Sample, ...]]:
    """Those that nothing disturbed, if there are any."""
    return [turn for turn in turns if not any(sample.is_disturbed for sample in turn)] or turns


def connection_us(record: Record) -> float:
    """What it costs a web process that a browse comes on a connection of its own, beyond the browse."""
    [side] = EXTRAS
    samples = record.samples[side.name]
    return median(samples, "web_us") - costs(record, side.shards).web[BROWSE].at(median(samples, "writes"))


def plan(costs: Costs, demand: Demand, utilisation: float, bytes_per_ticket: float) -> Plan:
    """So many processes and shards that none is used beyond `utilisation` (0 to 1)."""
    web_s, shard_s = (
        sum(per_s * prices[kind].request_us for kind, per_s in demand.per_s.items()) / 1e6
        for prices in (costs.web, costs.shard)
    )
    shards = max(1, math.ceil(shard_s / utilisation))
    # A theatre never straddles shards: the one that has the most popular has that besides its part of the rest.
    hot_s = shard_s * demand.hottest
    while hot_s + (shard_s - hot_s) / shards > utilisation:
        shards += 1
        if hot_s >= utilisation:
            return Plan(max(1, math.ceil(web_s / utilisation)), None, demand.tickets * bytes_per_ticket)
    return Plan(max(1, math.ceil(web_s / utilisation)), shards, demand.tickets * bytes_per_ticket / shards)


class Prediction(msgspec.Struct, frozen=True):
    """Of a side that the costs were not taken from: each figure as predicted, as measured, and the ratio.

    All three are medians; the ratio is that within a turn, for the machine's speed changes from turn to turn.
    """

    side: Side
    figures: dict[str, tuple[float, float, float]]


def predictions(record: Record) -> list[Prediction]:
    """What one web process says of two, and bookings and browses of the mix."""
    return [_predict(record, side) for side in CHECKS]


def _predict(record: Record, side: Side) -> Prediction:
    parts = PARTS_OF_MIX if side.kind == MIX else {side.kind: 1.0}
    # As many connections to a web process make as few writes per answer, however many processes there are.
    alike = [record.samples[Side(kind, 1, side.shards, MANY).name] for kind in parts]
    turns = _quiet(list(zip(record.samples[side.name], *alike, strict=True)))
    found: dict[str, list[tuple[float, float]]] = {"web_us": [], "shard_us": [], "answers_per_s": []}
    for measured, *ones in turns:
        web_us, shard_us, crowd_us = (
            sum(share * getattr(one, field) for share, one in zip(parts.values(), ones, strict=True))
            for field in ("web_us", "shard_us", "crowd_us")
        )
        per_s = 1e6 * min(side.workers / web_us, record.machine.cores / (web_us + shard_us + crowd_us))
        for field, predicted in (("web_us", web_us), ("shard_us", shard_us), ("answers_per_s", per_s)):
            found[field].append((predicted, getattr(measured, field)))
    figures = {
        field: (
            statistics.median(predicted for predicted, _ in each),
            statistics.median(measured for _, measured in each),
            statistics.median(measured / predicted for predicted, measured in each),
        )
        for field, each in found.items()
    }
    return Prediction(side, figures)
