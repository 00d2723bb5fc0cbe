"""The benchmark: its rivals book as Matinee does, its figures are what the page shows, and a tiny run goes through."""

import sys
from pathlib import Path

import msgspec
import pytest
import redis
from aiohttp.test_utils import TestClient, TestServer

from loadtests import newcomers
from loadtests.benchmark import __main__ as command
from loadtests.benchmark import figures
from loadtests.benchmark.crowd import Load
from loadtests.benchmark.figures import BEGIN, END, Round, Run, Scale
from loadtests.benchmark.rivals import RIVALS
from loadtests.benchmark.servers import HALLS, NAME, PHONE, SEATS, TIMINGS, programme
from service.wire import TicketAnswer
from tests.tools import tool

TINY = Scale(
    warm_up_s=0,
    rounds=1,
    seconds=1,
    growth_rounds=1,
    growth_seconds=1,
    connections=(4,),
    live=(100,),
    memory_tickets=2_000,
    budget_s=0,
)
WISH = {"name": NAME, "phone": PHONE, "timing": TIMINGS[-1], "theatre": "h000"}


def one(rate: float = 100, *, web_us: float = 10, others: float = 0.0) -> Round:
    load = Load(issued=100, answered=100, rejected=0, errors=0, seconds=100 / rate, p50_ms=1, p99_ms=2, p999_ms=3)
    return Round(load=load, web_us=web_us, store_us=5, others=others)


# The rivals


@pytest.mark.parametrize("name", RIVALS)
async def test_a_rival_answers_a_booking(name: str, server_url: str) -> None:
    async with TestClient(TestServer(RIVALS[name](server_url))) as client:
        answer = await client.post("/v1/tickets", json=WISH)
        assert answer.status == 201
        body = await answer.read()
    with redis.Redis.from_url(server_url) as store:
        tickets = list(store.scan_iter("*:ticket:*"))
        assert len(tickets) == (name != "floor")
        if name == "plain":
            told = msgspec.json.decode(body)
            assert list(told) == list(TicketAnswer.__struct_fields__)
            assert store.hgetall(tickets[0])[b"name"] == NAME.encode()
            assert store.ttl(tickets[0]) > 0


def test_the_halls_have_seats_for_every_round_and_the_live_tickets() -> None:
    assert len(programme().theatres) == HALLS + 2
    seats_a_day = HALLS * len(TIMINGS) * SEATS
    assert seats_a_day > command.FULL.seconds * 60_000
    assert 5 * seats_a_day > max(command.FULL.live)


# The figures


def test_a_ratio_is_taken_within_each_turn_and_from_quiet_turns() -> None:
    part = {
        "a": [one(web_us=10), one(web_us=40), one(web_us=90, others=0.5)],
        "b": [one(web_us=5), one(web_us=10), one(web_us=1)],
    }
    assert figures.ratio(part, "a", "b", lambda each: each.web_us) == 3, "the median of 2 and 4, without 90"
    disturbed = {"a": part["a"][2:], "b": part["b"][2:]}
    assert figures.ratio(disturbed, "a", "b", lambda each: each.web_us) == 90, "if there are no others"


def test_a_goal_that_was_not_measured_is_neither_met_nor_missed() -> None:
    run = _run({"workers": {"1": [one(100)], "2": [one(150)]}})
    rows = {row.split(" | ")[0].removeprefix("| "): row for row in figures.goals_table([run]).splitlines()[2:]}
    assert rows["bookings per second of two web processes, to one"].endswith("| reported | 1.50 |  |")
    assert rows["accepted bookings per second, to plain redis-py's"].endswith("| ≥ 3 | - |  |")


def test_a_missed_goal_is_told() -> None:
    part = {"matinee": [one(200)], "plain": [one(100)]}
    assert "| accepted bookings per second, to plain redis-py's | ≥ 3 | 2.00 | **no** |" in figures.goals_table(
        [_run({"sides": part})]
    )


def test_tables_are_put_between_their_marks_and_nowhere_else() -> None:
    page = f"before\n{BEGIN}old\n{END}after\n"
    assert figures.put_in(page, "new") == f"before\n{BEGIN}\nnew\n\n{END}after\n"
    assert figures.put_in(figures.put_in(page, "newer"), "new") == figures.put_in(page, "new")
    with pytest.raises(ValueError, match="no place for the figures"):
        figures.put_in("a page without marks", "new")


def test_the_page_shows_the_recorded_runs() -> None:
    runs = msgspec.json.decode(command.RECORD.read_bytes(), type=list[Run])
    page = command.PAGE.read_text()
    assert figures.put_in(page, figures.report(runs)) == page, "make bench PAGES=1 writes it anew"
    assert all(run.machine == runs[0].machine for run in runs)
    for picture in ("sides", "connections", "live-tickets"):
        svg = command.RECORD.with_name(f"{picture}.svg").read_text()
        assert "<script" not in svg
        assert f"](performance/{picture}.svg)" in page


# The command


def test_without_wrk_the_command_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command.main(["--quick"]) == 2
    assert capsys.readouterr().err.startswith("bench: wrk, which makes the load, is missing (Debian, Ubuntu: apt")


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the clocks of processes in Linux's /proc")
def test_a_tiny_run_goes_through_and_its_books_agree(tmp_path: Path) -> None:
    tool("wrk", package="wrk")
    said: list[str] = []
    run = command.measure(TINY, ["connections", "memory"], said.append)
    [measured] = run.parts["connections"]["4"]
    assert measured.load.answered > 0
    assert measured.load.rejected == measured.load.errors == 0
    assert measured.load.answered <= measured.stored <= measured.load.issued
    assert 0 < measured.store_us < measured.web_us
    assert run.memory["valkey"].encodings["ticket"] == "hash listpack"
    assert 100 < run.memory["valkey"].bytes_per_ticket < 400
    assert any(line.startswith("connections 1/1") for line in said)
    command.publish([run], tmp_path / "runs.json", None)
    assert msgspec.json.decode((tmp_path / "runs.json").read_bytes(), type=list[Run]) == [run]
    assert (tmp_path / "connections.svg").read_text().startswith("<svg")


def _run(parts: dict[str, figures.Part]) -> Run:
    machine = figures.Machine("cpu", 2, "Debian", "3.11", {}, {})
    return Run(date="2026-11-24T18:00:00+00:00", scale=TINY, seconds=1, machine=machine, parts=parts, memory={})


@pytest.mark.skipif(sys.platform != "linux", reason="it pins processes to cores")
def test_newcomers_are_answered_while_a_crowd_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool("wrk", package="wrk")
    bench = newcomers.Bench(tmp_path, busy=8, count=8, seconds=1)
    [wait] = newcomers.take_turns(bench, {"after": newcomers.ROOT}, rounds=1)["after"]
    assert 0 < wait.p50_ms <= wait.p99_ms
    assert wait.busy_per_s > 0
    assert capsys.readouterr().out.startswith("1/1  after   newcomers p50")


@pytest.mark.skipif(sys.platform != "linux", reason="it pins processes to cores")
def test_a_version_that_git_does_not_know_cannot_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    tool("wrk", package="wrk")
    assert newcomers.main(["--before", "no-such-version"]) == 2
    assert capsys.readouterr().err.startswith("bench-newcomers: git does not give the service of no-such-version: ")
