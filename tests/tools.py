"""Programs that tests need and no Python package brings along."""

import os
import shutil

import pytest


def tool(*names: str, package: str) -> str:
    """Where a program is, by the first of its names that is found; its absence skips on a laptop and fails in CI."""
    for name in names:
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail(f"{names[0]} is missing: in CI that is a failure")
    pytest.skip(f"no {names[0]} on this machine (Debian: apt install {package})")  # a laptop need not have all of CI's
