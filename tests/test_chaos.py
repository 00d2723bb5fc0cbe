"""`make chaos` at a fraction of its size; and that it fails where a promise is broken."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import redis

from tests.chaos import __main__ as chaos
from tests.chaos import report
from tests.chaos.stage import SCENARIOS, Scenario, Stage

ROOT = Path(__file__).parent.parent
QUICK = [name for name, scenario in SCENARIOS.items() if scenario.quick]


@pytest.mark.parametrize("name", QUICK)
async def test_no_promise_is_broken(name: str) -> None:
    result = await chaos.perform(SCENARIOS[name], seed=1, scale=SCENARIOS[name].quick)
    assert result.violations == []
    assert result.accepted > 0


async def seat_stolen(stage: Stage) -> None:
    """A fault that no promise covers: somebody writes to Redis by hand."""
    async with stage.service(workers=1) as service, stage.crowd(service, people=4) as crowd:
        await crowd.answers(100)
        with redis.Redis.from_url(service.store_url) as client:
            key = next(client.scan_iter("*:tickets")).decode().removesuffix(":tickets")
            client.hincrby(key, "booked", 1)


async def breaks_off(stage: Stage) -> None:
    raise RuntimeError("the stage is on fire")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for run in (seat_stolen, breaks_off):
        monkeypatch.setitem(SCENARIOS, run.__name__, Scenario(run.__name__, "a fault", "a promise", run))


def test_a_broken_promise_fails_the_run(planted: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.json"
    assert chaos.main(["--scenario", "seat_stolen", "--report", str(path)]) == 1
    [result] = report.read(path)
    assert any("booked, but" in violation for violation in result.violations)
    assert "VIOLATION" in capsys.readouterr().out


def test_a_scenario_that_breaks_off_shows_nothing_and_fails_the_run(planted: None, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert chaos.main(["--scenario", "breaks_off", "--report", str(path)]) == 1
    assert "the stage is on fire" in report.read(path)[0].violations[0]


def test_an_interrupted_run_leaves_no_process_behind() -> None:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:  # pytest's own are too long for a socket's path
        command = [sys.executable, "-m", "tests.chaos", "--scenario", "web-killed"]
        run = subprocess.Popen(
            [*command, "--report", f"{folder}/report.json"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while len(processes_of(folder)) < 5:  # itself, the service with two web processes, its Valkey
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 130, said
        assert said.endswith("chaos: interrupted; every process has been stopped\n")
        assert processes_of(folder) == set()


def processes_of(folder: str) -> set[int]:
    """The live processes that carry the folder's path in their arguments or their environment."""
    listing = subprocess.run(["ps", "axeww", "-o", "pid,args"], capture_output=True, text=True, check=True).stdout
    return {int(line.split()[0]) for line in listing.splitlines() if folder in line}


def test_the_same_seed_makes_the_same_choices(tmp_path: Path) -> None:
    first, again, other = (Stage(f"name/{seed}", tmp_path).dice.random() for seed in (1, 1, 2))
    assert first == again != other
    assert isinstance(Stage("name/1", tmp_path).dice, random.Random)


def test_the_list_names_every_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENARIOS)


@pytest.mark.parametrize("option", ["--scenario", "--server"])
def test_an_unknown_scenario_or_server_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        chaos.main([option, "no-such"])
    assert error.value.code == 2
    assert "no-such" in capsys.readouterr().err


def test_the_page_has_the_figures_of_the_last_recorded_run_of_every_scenario() -> None:
    recorded = report.read(report.RECORD)
    assert [result.scenario for result in recorded] == list(SCENARIOS), "make chaos SCENARIO=… RECORD=1"
    assert [result.violations for result in recorded if result.violations] == []
    page = report.PAGE.read_text()
    assert page == report.filled(page, recorded, SCENARIOS)
