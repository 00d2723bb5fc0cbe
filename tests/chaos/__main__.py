"""`make chaos`: break one thing after the other while people book, and check that no promise was broken.

Each scenario runs real processes: `matinee serve` and a Valkey of its own in a temporary folder. The exit code is 0
only if no scenario found a violation.
"""

import argparse
import asyncio
import logging
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

# The scenarios register themselves.
from tests.chaos import deployment_faults, durability_faults, report, store_faults, web_faults, wire_faults  # noqa: F401  as said
from tests.chaos.report import Result
from tests.chaos.stage import SCENARIOS, Scenario, Stage

REPORT = Path(__file__).parent / "report.json"
SCENARIO_LIMIT_S = 240


async def perform(scenario: Scenario, seed: int, scale: float = 1.0, server: str | None = None) -> Result:
    """Run one scenario. Whatever it raises is a violation: a promise was not shown."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        stage = Stage(f"{scenario.name}/{seed}", Path(folder), scale, server)
        try:
            async with asyncio.timeout(SCENARIO_LIMIT_S):
                await scenario.run(stage)
        except Exception:
            stage.violations.append(f"the scenario broke off: {traceback.format_exc()}")
    outcomes = stage.outcomes()
    return Result(
        scenario.name,
        time.strftime("%Y-%m-%d", time.gmtime()),
        seed,
        len(stage.calls),
        outcomes["done"],
        outcomes["unknown"],
        outcomes["refused"],
        stage.violations,
        stage.figures,
        round(time.monotonic() - began, 1),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command: 0 if no promise was broken, 1 if one was."""
    options = _parse(argv)
    if options.list:
        for scenario in SCENARIOS.values():
            print(f"{scenario.name:20} {scenario.failure}: {scenario.promise}")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)
    logging.getLogger("service").addHandler(logging.NullHandler())  # what a rush in this process logs is no news here
    _allow_many_connections()
    try:
        chosen = [SCENARIOS[name] for name in options.scenario or SCENARIOS]
        results = list(_run(chosen, options.seed, options.server))
    except KeyboardInterrupt:
        print("chaos: interrupted; every process has been stopped", file=sys.stderr)
        return 130
    report.write(options.report, results)
    if options.record:
        report.record(results, SCENARIOS)
    broken = sum(bool(result.violations) for result in results)
    print(f"{len(results)} scenarios, {broken} with violations; report: {options.report}")
    return 1 if broken else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "make chaos", description=(__doc__ or "").partition("\n")[0], epilog="make chaos SEED=7 SCENARIO=web-killed"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of every choice (default: 1)")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, metavar="NAME", help="run this one; may be repeated"
    )
    parser.add_argument(
        "--server",
        type=_server,
        metavar="PROGRAM",
        help="of the servers that replicate to each other, such as redis-server (default: the bundled Valkey)",
    )
    parser.add_argument("--list", action="store_true", help="list the scenarios and what each must show")
    parser.add_argument("--record", action="store_true", help="put the figures into docs/reliability.md")
    parser.add_argument("--report", type=Path, default=REPORT, help="JSON file for the figures")
    return parser.parse_args(argv)


def _server(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise argparse.ArgumentTypeError(f"there is no program {program}")
    return found


def _allow_many_connections() -> None:
    """Raise our own limit of open files, for the scenarios with thousands of clients."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(scenarios: Iterable[Scenario], seed: int, server: str | None) -> Iterable[Result]:
    print(f"{'seed ' + str(seed):20}{'calls':>8}{'accepted':>10}{'unknown':>9}{'refused':>9}{'violations':>12}{'s':>7}")
    for scenario in scenarios:
        if sys.stderr.isatty():
            print(f"\r{scenario.name} …", end="\r", file=sys.stderr, flush=True)
        result = asyncio.run(perform(scenario, seed, server=server))
        print(
            f"{result.scenario:20}{result.calls:8,}{result.accepted:10,}{result.unknown:9,}{result.refused:9,}"
            f"{len(result.violations):12,}{result.seconds:7.1f}"
        )
        for name, figure in result.figures.items():
            print(f"    {name}: {figure}")
        for violation in result.violations:
            print(f"    VIOLATION {violation}", flush=True)
        yield result


if __name__ == "__main__":
    sys.exit(main())
