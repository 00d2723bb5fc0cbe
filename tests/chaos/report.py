"""What a run came to: as JSON, and as the table in docs/reliability.md."""

import re
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.chaos.stage import Scenario

DOCS = Path(__file__).parent.parent.parent / "docs"
RECORD = DOCS / "reliability.json"
PAGE = DOCS / "reliability.md"
BEGIN, END = "<!-- chaos: filled by make chaos RECORD=1 -->", "<!-- end of chaos -->"


class Result(msgspec.Struct, frozen=True):
    """What one scenario came to; `date` is UTC."""

    scenario: str
    date: str
    seed: int
    calls: int
    accepted: int
    unknown: int
    refused: int
    violations: list[str]
    figures: dict[str, float | int | str]
    seconds: float


def write(path: Path, results: Iterable[Result]) -> None:
    """Write results as JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(list(results)), indent=2) + b"\n")


def read(path: Path) -> list[Result]:
    """Read them back."""
    return msgspec.json.decode(path.read_bytes(), type=list[Result])


def record(results: Iterable[Result], scenarios: dict[str, Scenario]) -> None:
    """Put results in the place of those of earlier runs, in the record and in the page."""
    known = {result.scenario: result for result in (read(RECORD) if RECORD.exists() else [])}
    known |= {result.scenario: result for result in results}
    kept = [known[name] for name in scenarios if name in known]
    write(RECORD, kept)
    PAGE.write_text(filled(PAGE.read_text(), kept, scenarios))


def filled(page: str, results: Iterable[Result], scenarios: dict[str, Scenario]) -> str:
    """The page with the table of these results between its markers."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{_table(results, scenarios)}\n{END}{after}"


def _table(results: Iterable[Result], scenarios: dict[str, Scenario]) -> str:
    head = ["failure", "promise", "scenario", "calls", "accepted", "unknown", "refused", "violations", "figures"]
    rows = [head, ["---"] * len(head)]
    for result in results:
        scenario = scenarios[result.scenario]
        counts = (result.calls, result.accepted, result.unknown, result.refused, len(result.violations))
        figures = "; ".join(f"{name}: {figure}" for name, figure in result.figures.items())
        words = [scenario.failure, scenario.promise, f"`{scenario.name}`", *(f"{count:,}" for count in counts), figures]
        rows.append([re.sub(r"\|", r"\\|", word) for word in words])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
