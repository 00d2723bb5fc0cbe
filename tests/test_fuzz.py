"""What the API's document allows is accepted, what it forbids is refused, and every answer is one of its own."""

import re
import subprocess

from fuzz import fuzz

SECONDS = 15  # `make fuzz SECONDS=300` goes on for longer, with another seed each time


def test_schemathesis_finds_nothing() -> None:
    done = fuzz(SECONDS, seed=1, output=subprocess.PIPE)
    assert done.returncode == 0, done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert re.search(rf"^  ✅ {phase}$", done.stdout, re.MULTILINE), done.stdout
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated, done.stdout
    assert generated[1] == generated[2]
