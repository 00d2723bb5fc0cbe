"""The pictures of a run, as SVG."""

import statistics
from collections.abc import Callable
from pathlib import Path

import pygal
from pygal.etree import etree
from pygal.style import Style

from loadtests.benchmark.figures import Part, Round, Run

STYLE = Style(
    background="white",
    plot_background="white",
    font_family="sans-serif",
    colors=("#1f6f8b", "#d98324", "#7a7a7a"),
    value_font_size=12,
    value_label_font_size=12,
)
OPTIONS = {
    "style": STYLE,
    "js": [],  # a picture needs no script, least of all from elsewhere
    "width": 760,
    "height": 340,
    "legend_at_bottom": True,
    "disable_xml_declaration": True,
}


def draw(run: Run, folder: Path) -> None:
    """Draw every part that was measured into the folder."""
    if part := run.parts.get("sides"):
        chart = pygal.HorizontalBar(title="Processor time per answer, µs", print_values=True, **OPTIONS)
        chart.x_labels = list(part)
        chart.add("web process", [_median(rounds, lambda one: one.web_us) for rounds in part.values()])
        chart.add("store", [_median(rounds, lambda one: one.store_us) for rounds in part.values()])
        write(chart, folder / "sides.svg")
    if part := run.parts.get("connections"):
        _lines("Accepted bookings per second, by connections", part, lambda one: one.rate, folder / "connections.svg")
    if part := run.parts.get("live-tickets"):
        title = "Time per booking, µs, by tickets that are stored already"
        _lines(title, part, lambda one: 1e6 / one.rate, folder / "live-tickets.svg")


def _lines(title: str, part: Part, measure: Callable[[Round], float], file: Path) -> None:
    """The median of all rounds, and the least and the most."""
    chart = pygal.Line(title=title, range=(0, 1.15 * max(map(max, _values(part, measure)))), **OPTIONS)
    chart.x_labels = list(part)
    for name, of in (("median", statistics.median), ("most", max), ("least", min)):
        chart.add(name, [round(of(values), 1) for values in _values(part, measure)])
    write(chart, file)


def write(chart: pygal.graph.graph.Graph, file: Path) -> None:
    """Write it without the settings that pygal leaves in a script for its own viewer."""
    tree = chart.render_tree()
    for element in list(tree.iter()):
        for child in list(element):
            if str(child.tag).rpartition("}")[2] == "script":
                element.remove(child)
    file.write_bytes(etree.tostring(tree, encoding="utf-8"))


def _values(part: Part, measure: Callable[[Round], float]) -> list[list[float]]:
    return [[measure(one) for one in rounds] for rounds in part.values()]


def _median(rounds: list[Round], measure: Callable[[Round], float]) -> float:
    return round(statistics.median(map(measure, rounds)), 1)
