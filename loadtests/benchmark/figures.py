"""What was measured: rounds, their medians, ratios within one run, and the goals they are held against."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

from loadtests.benchmark.crowd import Load
from loadtests.benchmark.machine import Machine

DISTURBED_ABOVE = 0.10  # of one core, taken by whatever else ran


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of one side.

    `web_us` and `store_us` are the processor time of the web processes and of the store per answer, `others` what
    everything else on the machine took, in cores. `stored` is how many tickets there were afterwards, where the side
    books.
    """

    load: Load
    web_us: float
    store_us: float
    others: float
    stored: int | None = None

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.load.answered / self.load.seconds

    @property
    def is_disturbed(self) -> bool:
        """Whether something else ran meanwhile, so that its figures say little."""
        return self.others > DISTURBED_ABOVE


class Scale(msgspec.Struct, frozen=True, kw_only=True):
    """How much is measured. After `budget_s` no round is repeated any more."""

    warm_up_s: int
    rounds: int
    seconds: int
    growth_rounds: int
    growth_seconds: int
    connections: tuple[int, ...]
    live: tuple[int, ...]
    memory_tickets: int
    budget_s: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What tickets cost a store, each: bytes of memory, commands, bytes that go in and are appended to the file."""

    tickets: int
    bytes_per_ticket: float
    commands_per_booking: float
    bytes_in_per_booking: float
    bytes_out_per_booking: float
    file_bytes_per_booking: float
    encodings: dict[str, str]


Part = dict[str, list[Round]]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the benchmark: of each part, the rounds of each side in turn."""

    date: str
    scale: Scale
    seconds: float
    machine: Machine
    parts: dict[str, Part]
    memory: dict[str, Memory]


Measure = Callable[[Round], float]


def rate(one: Round) -> float:
    """Answers per second."""
    return one.rate


def ratio(part: Part, side: str, base: str, measure: Measure, base_measure: Measure | None = None) -> float:
    """The median of the ratios within each turn, of the turns in which neither side was disturbed, if there are any."""
    turns = list(zip(part[side], part[base], strict=True))
    quiet = [turn for turn in turns if not any(one.is_disturbed for one in turn)]
    return statistics.median(measure(one) / (base_measure or measure)(other) for one, other in quiet or turns)


class Goal(msgspec.Struct, frozen=True):
    """A figure that a run must reach. `at_most` says on which side of `bound` it has to be."""

    name: str
    bound: float | None
    at_most: bool
    figure: Callable[[Run], float]
    places: int = 2

    def is_met(self, found: float) -> bool:
        """Whether the figure is as good as it should be."""
        return self.bound is None or (found <= self.bound if self.at_most else found >= self.bound)

    @property
    def wanted(self) -> str:
        """The goal in words."""
        return "reported" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:g}"


def _bytes(kind: str) -> Callable[[Run], float]:
    return lambda run: run.memory[kind].bytes_per_ticket


def _rejections(one: Round) -> float:
    return one.load.rejected / one.load.seconds


def _ends(part: Part) -> tuple[str, str]:
    """The smallest and the largest of what grew."""
    sides = list(part)
    return sides[0], sides[-1]


def _growth(run: Run) -> float:
    few, many = _ends(run.parts["live-tickets"])
    return 1 / ratio(run.parts["live-tickets"], many, few, rate)


def _many_connections(run: Run) -> float:
    part = run.parts["connections"]
    return ratio(part, _ends(part)[1], "64", rate)


def _errors(run: Run) -> float:
    return sum(one.load.errors for part in run.parts.values() for rounds in part.values() for one in rounds)


GOALS = (
    Goal("CPU of the web process per booking, to the floor's", 1.4, True,
         lambda run: ratio(run.parts["sides"], "matinee", "floor", lambda one: one.web_us)),
    Goal("accepted bookings per second, to plain redis-py's", 3, False,
         lambda run: ratio(run.parts["sides"], "matinee", "plain", rate)),
    Goal("p99 at 64 connections, to plain redis-py's", 0.4, True,
         lambda run: ratio(run.parts["sides"], "matinee", "plain", lambda one: one.load.p99_ms)),
    Goal("CPU of the store per booking, to a pipelined SET's", 5, True,
         lambda run: ratio(run.parts["sides"], "matinee", "set", lambda one: one.store_us)),
    Goal("bytes of memory per ticket, Valkey", 270, True, _bytes("valkey"), 0),
    Goal("bytes of memory per ticket, Redis 7", 310, True, _bytes("redis"), 0),
    Goal("time per booking with the most live tickets, to that with the fewest", 1.1, True, _growth),
    Goal("rejections per second when sold out, to accepted bookings", 1.2, False,
         lambda run: ratio(run.parts["sides"], "sold out", "matinee", _rejections, rate)),
    Goal("bookings per second on 1,024 connections, to 64", 0.85, False, _many_connections),
    Goal("errors of sockets in the whole run", 0, True, _errors, 0),
    Goal("bookings per second of two web processes, to one", None, False,
         lambda run: ratio(run.parts["workers"], "2", "1", rate)),
)  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; all columns but the first are aligned to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def goals_table(runs: Sequence[Run]) -> str:
    """The goals, and what each run came to."""
    rows = []
    for goal in GOALS:
        found = [_figure(goal, run) for run in runs]
        cells = ["-" if each is None else f"{each:,.{goal.places}f}" for each in found]
        measured = [each for each in found if each is not None]
        met = "yes" if all(map(goal.is_met, measured)) else "**no**"
        rows.append([goal.name, goal.wanted, *cells, met if measured and goal.bound is not None else ""])
    return table(["figure", "goal", *(f"run {number}" for number in range(1, len(runs) + 1)), "met"], rows)


def _figure(goal: Goal, run: Run) -> float | None:
    try:
        return goal.figure(run)
    except KeyError:  # a part that was not measured
        return None


def part_table(part: Part) -> str:
    """The sides of a part: medians, and in brackets the least and the most of all rounds."""
    rows = []
    for side, rounds in part.items():
        cells = [
            _spread([one.load.answered / one.load.seconds for one in rounds], 0),
            *(_spread([getattr(one.load, name) for one in rounds], 1) for name in ("p50_ms", "p99_ms", "p999_ms")),
            _spread([one.web_us for one in rounds], 1),
            _spread([one.store_us for one in rounds], 1),
            f"{max(one.others for one in rounds):.0%}",
        ]
        rows.append([side, *cells])
    head = ["", "answers/s", "p50 ms", "p99 ms", "p99.9 ms", "web µs", "store µs", "others"]
    return table(head, rows)


def _spread(values: list[float], places: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):,.{places}f} ({low:,.{places}f}-{high:,.{places}f})"


def memory_table(memory: dict[str, Memory]) -> str:
    """What tickets cost each store."""
    rows = [
        [
            kind,
            f"{one.bytes_per_ticket:.0f}",
            f"{one.commands_per_booking:.2f}",
            f"{one.bytes_in_per_booking:.0f}",
            f"{one.bytes_out_per_booking:.0f}",
            f"{one.file_bytes_per_booking:.0f}",
            ", ".join(f"{key}: {encoding}" for key, encoding in one.encodings.items()),
        ]
        for kind, one in memory.items()
    ]
    head = ["store", "bytes/ticket", "commands", "bytes in", "bytes out", "bytes to disk", "encodings"]
    return table(head, rows)


BEGIN, END = "<!-- figures: written by make bench -->\n", "<!-- end of figures -->\n"
TITLES = {
    "sides": "The same booking by other means, 64 connections",
    "connections": "Bookings, by connections",
    "workers": "Bookings, by web processes (nobody pinned: store and crowd share the two cores with them)",
    "live-tickets": "Bookings, by tickets that are stored already",
    "reads": "Reads",
    "browsing": "Bookings beside browsing",
}


def report(runs: Sequence[Run]) -> str:
    """The goals for all runs; everything else of the last one."""
    last = runs[-1]
    machine = last.machine
    software = ", ".join(f"{name} {version}" for name, version in {**machine.packages, **machine.stores}.items())
    dates = ", ".join(f"{run.date[:16].replace('T', ' ')} UTC ({run.seconds:.0f} s)" for run in runs)
    parts = [
        f"Measured {dates}. {machine.cpu}, {machine.cores} cores, {machine.system}, Python {machine.python}, "
        f"{software}.",
        goals_table(runs),
        "Medians of the rounds of the last run; in brackets the least and the most.",
    ]
    parts += [f"{TITLES[name]}:\n\n{part_table(part)}" for name, part in last.parts.items()]
    if last.memory:
        [tickets] = {each.tickets for each in last.memory.values()}
        parts.append(f"What a ticket costs the store, over {tickets:,} tickets:\n\n{memory_table(last.memory)}")
    return "\n\n".join(parts)


def put_in(page: str, tables: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with the tables between its marks."""
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no place for the figures: {begin.strip()} … {end.strip()}")
    return f"{before}{begin}\n{tables}\n\n{end}{after}"
