"""What the simulations came to: the tables and pictures of the document."""

from collections.abc import Sequence
from pathlib import Path

import pygal

from loadtests.benchmark.figures import table
from loadtests.benchmark.plots import OPTIONS, write
from loadtests.onsale.run import GOOD_S, Result

PICTURES = ("onsale-p99", "onsale-shedding")
FLOOR_MS = 1  # of an axis that is logarithmic
LOGARITHMIC = {
    **OPTIONS,
    "logarithmic": True,
    "y_labels": (1, 10, 100, 1_000, 10_000),
    "truncate_legend": -1,
    "truncate_label": -1,
}


def grid(results: Sequence[Result]) -> str:
    """Every number of web processes and shards: what the crowd met."""
    rows = [
        [
            f"{result.setting.webs}",
            f"{result.setting.shards}",
            f"{result.p50_ms:,.0f}",
            f"**{result.p99_ms:,.0f}**" if result.p99_ms <= GOOD_S * 1000 else f"{result.p99_ms:,.0f}",
            f"{result.shed_share:.1%}",
            f"{result.reloads:,}",
            f"{result.gave_up / result.setting.habits.users:.1%}",
            f"{result.seats_sold:,}",
            f"{result.sold_by_s} s",
            f"{min(1, result.web_use):.0%}",
            f"{min(1, result.shard_use):.0%}",
            "-" if result.breaks_at_s is None else f"{result.breaks}, second {result.breaks_at_s + 1}",
        ]
        for result in results
    ]
    head = ["web processes", "shards", "p50 ms", "p99 ms", "503", "reloads", "gave up", "seats sold", "99 % of them by"]
    return table([*head, "busiest web process", "busiest shard", "breaks first"], rows)


def shedding(results: Sequence[Result]) -> str:
    """The same with and without bounds."""
    rows = [
        [
            f"{result.setting.webs}",
            f"{result.setting.shards}",
            "yes" if result.setting.sheds else "no",
            f"{result.p50_ms:,.0f}",
            f"{result.p99_ms:,.0f}",
            f"{result.shed_share:.1%}",
            f"{result.reloads:,}",
            f"{result.gave_up:,}",
            f"{result.seats_sold:,}",
            f"{result.sold_by_s} s",
        ]
        for result in results
    ]
    head = ["web processes", "shards", "refuses", "p50 ms", "p99 ms", "503", "reloads", "gave up", "seats sold"]
    return table([*head, "99 % of them by"], rows)


def draw(results: Sequence[Result], pairs: Sequence[Result], folder: Path) -> None:
    """The p99 by web processes, a line for each number of shards; and second by second, with and without bounds."""
    webs = sorted({result.setting.webs for result in results})
    chart = pygal.Line(title="p99 of an answer, ms, by web processes", **LOGARITHMIC)
    chart.x_labels = [str(number) for number in webs]
    for shards in sorted({result.setting.shards for result in results}):
        by_webs = {result.setting.webs: result.p99_ms for result in results if result.setting.shards == shards}
        chart.add(f"{shards} shard{'s' if shards > 1 else ''}", [round(by_webs[number], 1) for number in webs])
    write(chart, folder / f"{PICTURES[0]}.svg")
    chart = pygal.Line(title="p99 of an answer, ms, second by second", show_dots=False, **LOGARITHMIC)
    most = max(len(result.seconds) for result in pairs)
    chart.x_labels = [str(second) if second % 20 == 0 else "" for second in range(most)]
    for result in pairs:
        name = f"{result.setting.webs} web, {'refusing' if result.setting.sheds else 'taking all'}"
        chart.add(name, [each.p99_ms and max(FLOOR_MS, round(each.p99_ms, 1)) for each in result.seconds])
    write(chart, folder / f"{PICTURES[1]}.svg")
