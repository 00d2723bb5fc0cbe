"""The capacity model: its prices are the lines through what was measured, its plans keep to the utilisation."""

import re
import sys
from pathlib import Path

import msgspec
import pytest

from loadtests.benchmark.figures import put_in
from loadtests.benchmark.machine import Machine
from loadtests.capacity import __main__ as command
from loadtests.capacity import tables
from loadtests.capacity.measure import ALL, BOOKING, BROWSE, MIX, Bench, Record, Sample, Scale, Side
from loadtests.capacity.model import KINDS, Costs, Demand, Price, connection_us, costs, plan, predictions
from loadtests.onsale import __main__ as onsale
from loadtests.onsale import probe, report
from tests.tools import tool

PRICES = Costs(
    web={kind: Price(40, 60) for kind in KINDS},
    shard={kind: Price(10, 20) for kind in KINDS},
)


def sample(web_us: float, shard_us: float, writes: float, others: float = 0.0) -> Sample:
    return Sample(
        answers_per_s=1e6 / web_us,
        p50_ms=1,
        p99_ms=2,
        web_us=web_us,
        shard_us=shard_us,
        crowd_us=10,
        writes=writes,
        commands=1,
        others=others,
    )


def record() -> Record:
    """As if every answer cost exactly what PRICES says; one round in three was disturbed."""
    samples = {}
    for side in ALL:
        writes = 2 / (side.connections / side.workers)
        quiet = sample(PRICES.web[BOOKING].at(writes), PRICES.shard[BOOKING].at(writes), writes)
        samples[side.name] = [quiet, quiet, sample(500, 500, writes, others=1.0)]
    machine = Machine("cpu", 2, "Debian", "3.11", {}, {"valkey": "9.1.2"})
    scale = Scale(rounds=3, seconds=1, budget_s=0)
    return Record(
        date="2026-11-26T00:00:00+00:00", seconds=1, scale=scale, machine=machine, web_bytes=60_000_000, samples=samples
    )


# The model


@pytest.mark.parametrize("shards", [1, 3])
def test_prices_are_the_line_through_the_quiet_rounds(shards: int) -> None:
    found = costs(record(), shards)
    for kind in KINDS:
        assert msgspec.structs.astuple(found.web[kind]) == pytest.approx((40, 60))
        assert msgspec.structs.astuple(found.shard[kind]) == pytest.approx((10, 20))
    assert connection_us(record()) == pytest.approx(0)


def test_what_follows_the_model_is_predicted_exactly_but_for_the_cores_there_are() -> None:
    for one in predictions(record()):
        for figure in ("web_us", "shard_us"):
            assert one.figures[figure][2] == pytest.approx(1)
        web_us, shard_us = one.figures["web_us"][0], one.figures["shard_us"][0]
        of_cores, of_processes = 2e6 / (web_us + shard_us + 10), 1e6 * one.side.workers / web_us
        assert one.figures["answers_per_s"][0] == pytest.approx(min(of_cores, of_processes))


def test_a_plan_keeps_web_processes_and_shards_to_the_utilisation() -> None:
    demand = Demand({BOOKING: 30_000, BROWSE: 70_000}, 1_000_000)
    found = plan(PRICES, demand, 0.5, bytes_per_ticket=250)
    assert (found.web_processes, found.shards) == (8, 2)  # 4 s of web and 1 s of shard work a second, used to a half
    assert found.shard_bytes == 125_000_000
    assert plan(PRICES, Demand({}), 0.5, 250) == plan(PRICES, Demand({BOOKING: 1}), 0.5, 250)


def test_a_popular_theatre_takes_more_shards_and_one_that_fills_a_shard_takes_a_word() -> None:
    per_s = {BOOKING: 100_000}
    assert plan(PRICES, Demand(per_s, hottest=0.25), 0.5, 250).shards == 3
    assert plan(PRICES, Demand(per_s, hottest=0.4), 0.5, 250).shards == 6
    assert plan(PRICES, Demand(per_s, hottest=0.6), 0.5, 250).shards is None


# The command


def test_the_command_answers_and_refuses_nonsense(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--bookings", "100", "--browses", "1000", "--tickets", "1000000"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("100 booking/s, 1,000 browse/s; none used beyond 60%:\n")
    assert re.search(r"web processes +1, a core each\n +shards +1, a core each; one is a single server\n", told)
    assert command.main(["--bookings", "200000", "--hottest", "0.9"]) == 0
    assert "no number is enough: the theatre with 90% of it fills a shard alone" in capsys.readouterr().out
    for bad in (["--utilisation", "0"], ["--hottest", "2"], ["--bookings", "-1"]):
        with pytest.raises(SystemExit, match="2"):
            command.main(bad)


def test_the_page_shows_what_is_recorded() -> None:
    page = command.PAGE.read_text()
    found = command.recorded()
    for name, text in (
        ("answers", tables.answers(found, command.bytes_per_ticket())),
        ("costs", tables.prices(found)),
        ("check", tables.check(found)),
    ):
        assert put_in(page, text, *tables.mark(name)) == page, "make capacity ARGS=--pages writes it anew"
    simulated = msgspec.json.decode(onsale.RECORD.read_bytes(), type=onsale.Simulations)
    probed = msgspec.json.decode(onsale.PROBE.read_bytes(), type=probe.Probe)
    for name, text in (
        ("simulation", report.grid(simulated.results)),
        ("shedding", report.shedding(simulated.pairs)),
        ("probe", probe.comparison_table(probed)),
    ):
        assert put_in(page, text, *onsale.mark(name)) == page, "make simulate ARGS=--pages writes it anew"
    for picture in report.PICTURES:
        assert "<script" not in (onsale.RECORD.parent / f"{picture}.svg").read_text()
        assert f"](performance/{picture}.svg)" in page


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the clocks of processes in Linux's /proc")
def test_a_tiny_run_on_three_shards_goes_through(tmp_path: Path) -> None:
    tool("wrk", package="wrk")
    side = Side(MIX, 1, 3, 4)
    found = Bench(tmp_path, Scale(rounds=1, seconds=1, budget_s=0), lambda _line: None).run([side])
    [measured] = found.samples[side.name]
    assert measured.answers_per_s > 0
    assert 0 < measured.shard_us < measured.web_us
    assert 0.2 < measured.commands < 1.5
    assert found.web_bytes > 1e7
    assert msgspec.json.decode(msgspec.json.encode(found), type=Record) == found
