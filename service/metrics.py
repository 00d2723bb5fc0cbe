"""What the service counts of itself, for Prometheus.

A request only adds to plain numbers of its process, about half a microsecond; once a second they are handed to
prometheus_client, whose own counters would cost a booking six times that (measured: 3.1 µs for a counter and a
histogram that several processes share). So what /metrics answers is up to a second old.

Every label has a bounded set of values: route templates, statuses, problem codes. No name, phone, ticket or theatre.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from service import __version__
from service.cluster import Cluster
from service.histogram import Histogram
from service.pipeline import BATCH_BOUNDS, ROUND_TRIP_BOUNDS_S, Pipeline

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

FLUSH_EVERY_S = 1.0
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported

# 1 ms is a booking on a quiet machine, 200 ms what an on-sale crowd may see, 2 s the deadline of Redis.
LATENCY_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


# Counters that are there from the start, at 0: Prometheus sees no growth in one that begins with its first event.
KNOWN_LABELS = {
    "bookings": ("booked", "replayed", "sold_out", "unavailable", "outcome_unknown"),
    "tickets": ("booked", "moved", "cancelled", "admitted"),
    "shed": ("command", "listener", "connection"),
}


class RouteTally:
    """The requests of one route: durations, and how often each status was the answer."""

    __slots__ = ("seconds", "statuses")

    def __init__(self) -> None:
        self.seconds = Histogram(LATENCY_BOUNDS_S)
        self.statuses: dict[int, int] = {}

    def add(self, status: int, duration_s: float) -> None:
        """Count one request."""
        self.seconds.add(duration_s)
        self.statuses[status] = self.statuses.get(status, 0) + 1


class Metrics:
    """The counts of one web process.

    `bookings` counts outcomes of booking: `booked`, `replayed`, or the problem's code. `tickets` counts what became of
    seats: `booked`, `moved`, `cancelled`, `admitted`. `shed` counts who was refused at once for want of room:
    `listener`, `connection`; what the pipeline refuses, it counts itself. `listeners` tells how many clients follow a
    live stream.
    """

    def __init__(self, pipeline: Pipeline | Cluster) -> None:
        self._pipeline = pipeline
        self._routes: dict[tuple[str, str], RouteTally] = {}
        self.bookings: Tally[str] = Tally()
        self.tickets: Tally[str] = Tally()
        self.shed: Tally[str] = Tally()
        self.listeners: Callable[[], int] = lambda: 0
        self._lag = Histogram(LATENCY_BOUNDS_S)
        self._seen = Tally[str]()

    def route(self, method: str, template: str) -> RouteTally:
        """The tally of a route, by its method and its path as the table of routes has it."""
        return self._routes.setdefault((method, template), RouteTally())

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hand the counts over once a second, until the process ends."""
        self._make()
        task = asyncio.create_task(self._keep_flushing())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._flush()

    async def exposition(self) -> bytes:
        """All processes' counts in Prometheus's text format 0.0.4."""
        from prometheus_client import generate_latest  # noqa: PLC0415  its import reads FOLDER_VARIABLE

        self._flush()
        # The files of all processes are read: tens of milliseconds that the other requests need not wait for.
        return await asyncio.to_thread(generate_latest, _across_processes(self._registry))

    def _make(self) -> None:
        # Imported here, in the web process: prometheus_client chooses by FOLDER_VARIABLE how to keep its numbers.
        from prometheus_client import CollectorRegistry, Counter, Gauge  # noqa: PLC0415  see above
        from prometheus_client import Histogram as Shown  # noqa: PLC0415  see above

        registry = self._registry = CollectorRegistry()
        route = ("method", "route")
        self._requests = Counter("matinee_http_requests", "Requests answered.", (*route, "status"), registry=registry)
        self._durations = Shown(
            "matinee_http_request_duration_seconds",
            "Time from a request's head to its answer.",
            route,
            buckets=LATENCY_BOUNDS_S,
            registry=registry,
        )
        self._counters = {
            name: Counter(f"matinee_{name}", text, labels, registry=registry)
            for name, text, labels in (
                ("bookings", "Bookings asked for, by outcome.", ("outcome",)),
                ("tickets", "Seats booked, moved, cancelled and admitted.", ("event",)),
                ("redis_commands", "Commands written to Redis.", ()),
                ("redis_batches", "Writes to Redis; each carries the commands of all who wait.", ()),
                ("redis_reconnects", "Lost connections to Redis that were made anew.", ()),
                ("redis_unconfirmed_batches", "Writes that too few replicas confirmed in time.", ()),
                ("shed", "Refused at once: commands, listeners and connections there was no room for.", ("what",)),
            )
        }
        for counter, labels in KNOWN_LABELS.items():
            for label in labels:
                self._counters[counter].labels(label)
        self._batches = Shown(
            "matinee_redis_batch_commands", "Commands in one write.", buckets=BATCH_BOUNDS, registry=registry
        )
        self._round_trips = Shown(
            "matinee_redis_round_trip_seconds",
            "Time from a probe's write to its reply, through the same queue as every booking.",
            buckets=ROUND_TRIP_BOUNDS_S,
            registry=registry,
        )
        self._lags = Shown(
            "matinee_event_loop_lag_seconds",
            "How late the event loop wakes a process that asked for one second.",
            buckets=LATENCY_BOUNDS_S,
            registry=registry,
        )
        self._gauges = {
            name: Gauge(f"matinee_{name}", text, multiprocess_mode="livesum", registry=registry)
            for name, text in (
                ("redis_waiting_commands", "Commands that wait to be written."),
                ("redis_in_flight_commands", "Commands written whose replies have not come."),
                ("redis_ready", "Web processes for which Redis answered lately."),
                ("listeners", "Clients that follow a live stream."),
                ("web_processes", "Web processes that run."),
            )
        }
        self._gauges["web_processes"].set(1)
        versions = Gauge(
            "matinee_build_info",
            "Always 1; its label is the version.",
            ("version",),
            multiprocess_mode="livemax",
            registry=registry,
        )
        versions.labels(__version__).set(1)

    async def _keep_flushing(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            await asyncio.sleep(FLUSH_EVERY_S)
            self._lag.add(max(0.0, loop.time() - asked - FLUSH_EVERY_S))
            self._flush()

    def _flush(self) -> None:
        for (method, template), tally in self._routes.items():
            if not tally.statuses:
                continue
            statuses, tally.statuses = tally.statuses, {}
            for status, count in statuses.items():
                self._requests.labels(method, template, status).inc(count)
            _hand_over(tally.seconds, self._durations.labels(method, template))
        pipeline = self._pipeline
        self.shed["command"], self._seen["shed"] = pipeline.shed - self._seen["shed"], pipeline.shed
        for counter, tallied in (("bookings", self.bookings), ("tickets", self.tickets), ("shed", self.shed)):
            for label, count in tallied.items():
                self._counters[counter].labels(label).inc(count)
            tallied.clear()
        for counter, grown in (
            ("redis_commands", pipeline.commands),
            ("redis_batches", pipeline.batches),
            ("redis_reconnects", pipeline.reconnects),
            ("redis_unconfirmed_batches", pipeline.unconfirmed),
        ):
            self._counters[counter].inc(grown - self._seen[counter])
            self._seen[counter] = grown
        _hand_over(pipeline.batch_sizes, self._batches)
        _hand_over(pipeline.round_trips_s, self._round_trips)
        _hand_over(self._lag, self._lags)
        self._gauges["redis_waiting_commands"].set(pipeline.waiting)
        self._gauges["redis_in_flight_commands"].set(pipeline.in_flight)
        self._gauges["redis_ready"].set(int(pipeline.ready))
        self._gauges["listeners"].set(self.listeners())


def _hand_over(histogram: Histogram, shown: Any) -> None:
    """Add all values to a histogram of prometheus_client and begin anew.

    It has no way to take many at once but its private parts; tests/test_metrics.py fails when they change.
    """
    counts, total = histogram.take()
    for bucket, count in zip(shown._buckets, counts, strict=True):
        if count:
            bucket.inc(count)
    shown._sum.inc(total)


def _across_processes(registry: "CollectorRegistry") -> "CollectorRegistry":
    """What to answer from: the files of all processes, or, where there is one process without files, its own."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415  as above
    from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415  as above

    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        return registry

    class EveryProcess(MultiProcessCollector):
        def collect(self) -> Any:
            # A process that starts makes its files first, empty, and prometheus_client stumbles over those.
            files = [entry.path for entry in os.scandir(folder) if _has_begun(entry)]
            return self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]  # prometheus_client's

    every = CollectorRegistry()
    EveryProcess(every)  # type: ignore[no-untyped-call]  # prometheus_client's
    return every


def _has_begun(file: "os.DirEntry[str]") -> bool:
    with contextlib.suppress(FileNotFoundError):  # of a process that has just ended
        return file.stat().st_size > 0
    return False


@contextlib.contextmanager
def shared_folder() -> Iterator[None]:
    """A folder where the web processes forked meanwhile keep their counts side by side."""
    folder = tempfile.mkdtemp(prefix="matinee-metrics-")
    maker = os.getpid()
    os.environ[FOLDER_VARIABLE] = folder
    try:
        yield
    finally:
        # A forked process that ends by SystemExit passes here too, and must leave the folder to the others.
        if os.getpid() == maker:
            del os.environ[FOLDER_VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)


def process_ended(pid: int) -> None:
    """In the master: the gauges of a web process that has ended count no more; what it counted stays."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        from prometheus_client import multiprocess  # noqa: PLC0415  as above

        multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]  # prometheus_client's
