"""`make fuzz`: schemathesis against a service of its own, all its checks in all its phases.

The service has a staff token, so that what is for the box office can be refused, and a timing every quarter of an hour,
so that one made up now and then exists.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.starter import LoadError, started

ROOT = Path(__file__).parent.parent
TOKEN = "a-staff-token-for-schemathesis"
TIMINGS = ",".join(f"{hour:02}:{minute:02}" for hour in range(24) for minute in (0, 15, 30, 45))


def fuzz(seconds: int, seed: int | None = None, output: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run it for about so long: exit code 0 where there is no finding. `output` as for subprocess.

    Raises LoadError where the service does not start.
    """
    with tempfile.TemporaryDirectory(prefix="matinee-fuzz-") as name:
        settings = {"MATINEE_STAFF_TOKEN": TOKEN, "MATINEE_TIMINGS": TIMINGS, "MATINEE_WORKERS": "1"}
        with started(Path(name), **settings) as service:
            command = [str(Path(sys.executable).with_name("st")), "run", f"{service.url}/openapi.json"]
            command += ["--checks", "all", "--phases", "examples,coverage,fuzzing,stateful"]
            command += ["--max-time", str(seconds), "--request-timeout", "10", "--no-color"]
            command += [] if seed is None else ["--seed", str(seed)]
            environment = {**os.environ, "MATINEE_STAFF_TOKEN": TOKEN}
            return subprocess.run(command, cwd=ROOT, env=environment, text=True, check=False, stdout=output)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="how long (60)")
    parser.add_argument("--seed", type=int, help="of what is made up; by default another each time")
    options = parser.parse_args()
    try:
        return fuzz(options.seconds, options.seed).returncode
    except LoadError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
