"""What the document shows of a record: the costs, what a process and a shard can take, the check."""

from loadtests.benchmark.figures import table
from loadtests.capacity.measure import BOOKING, BROWSE, MIX, SOLD_OUT, UNCHANGED, Record
from loadtests.capacity.model import KINDS, Demand, connection_us, costs, plan, predictions

NAMES = {
    BOOKING: "a booking",
    SOLD_OUT: "“sold out”",
    BROWSE: "the seats of a day",
    UNCHANGED: "the same, unchanged: 304",
    MIX: "four browses to a booking",
}
PLACES = {1: "one server", 3: "cluster"}
UTILISATION = 0.6

# Chains of different size, in a busy minute: answers per second, tickets kept, share of the most popular theatre.
CHAINS = {
    "one cinema of 8 halls": Demand({BOOKING: 10, BROWSE: 100}, 20_000, 0.3),
    "a city's 100 theatres": Demand({BOOKING: 200, BROWSE: 2_000}, 200_000, 0.1),
    "1,000 theatres, a blockbuster": Demand({BOOKING: 2_000, SOLD_OUT: 2_000, BROWSE: 20_000}, 2_000_000, 0.05),
    "10,000 theatres, a national on-sale": Demand(
        {BOOKING: 15_000, SOLD_OUT: 30_000, BROWSE: 100_000}, 8_400_000, 0.02
    ),
}


def mark(name: str) -> tuple[str, str]:
    """The lines between which a table stands in the document."""
    return f"<!-- {name}: written by make capacity -->\n", f"<!-- end of {name} -->\n"


def answers(record: Record, bytes_per_ticket: float) -> str:
    """What chains of different size take."""
    prices = costs(record, 3)
    rows = []
    for name, demand in CHAINS.items():
        found = plan(prices, demand, UTILISATION, bytes_per_ticket)
        per_s = [f"{demand.per_s.get(kind, 0):,.0f}" for kind in (BOOKING, SOLD_OUT, BROWSE)]
        memory = f"{found.shard_bytes * (found.shards or 1) / 1e6:,.0f} MB"
        rows.append([name, *per_s, str(found.web_processes), str(found.shards), f"{demand.tickets:,}", memory])
    head = ["chain", "bookings/s", "sold out/s", "browses/s", "web processes", "shards", "tickets", "their memory"]
    return table(head, rows)


def prices(record: Record) -> str:
    """What each kind of answer costs, and how many a second a process and a shard take at the utilisation."""
    rows = []
    for shards, place in PLACES.items():
        found = costs(record, shards)
        for kind in KINDS:
            web, shard = found.web[kind], found.shard[kind]
            cells = [f"{value:.1f}" for value in (web.request_us, web.write_us, shard.request_us, shard.write_us)]
            rates = [f"{UTILISATION * 1e6 / each.request_us:,.0f}" for each in (web, shard)]
            rows.append([f"{NAMES[kind]}, {place}", *cells, *rates])
    head = ["", "web µs", "web µs/write", "shard µs", "shard µs/write", "a web process/s", "a shard/s"]
    machine = record.machine
    return (
        f"Measured {record.date[:16].replace('T', ' ')} UTC ({record.seconds:.0f} s; medians of {record.scale.rounds} "
        f"turns, {_disturbed(record)}). {machine.cpu}, {machine.cores} cores, {machine.system}, Python "
        f"{machine.python}, Valkey {machine.stores['valkey']}.\n\n{table(head, rows)}\n\n"
        f"A browse on a connection of its own costs the web process {connection_us(record):.0f} µs more. "
        f"A web process took {record.web_bytes / 1e6:.0f} MB of memory."
    )


def check(record: Record) -> str:
    """Predictions beside measurements."""
    rows = []
    for one in predictions(record):
        side = one.side
        for figure, what, places in (
            ("web_us", "web µs per answer", 1),
            ("shard_us", "shards µs per answer", 1),
            ("answers_per_s", "answers per second", 0),
        ):
            predicted, measured, ratio = one.figures[figure]
            cells = [f"{predicted:,.{places}f}", f"{measured:,.{places}f}", f"{ratio:.2f}"]
            rows.append([NAMES[side.kind], str(side.workers), str(side.shards), what, *cells])
    return table(["asked for", "web processes", "shards", "figure", "predicted", "measured", "ratio"], rows)


def _disturbed(record: Record) -> str:
    samples = [sample for each in record.samples.values() for sample in each]
    count = sum(sample.is_disturbed for sample in samples)
    return f"{count} of {len(samples)} rounds beside other work, left out where there are quiet ones"
