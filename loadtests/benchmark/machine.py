"""Processors and clocks (Linux): what a round cost each process, and what else was running meanwhile."""

import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec

PACKAGES = ("aiohttp", "uvloop", "msgspec", "redis", "hiredis")


class Machine(msgspec.Struct, frozen=True):
    """Where the figures come from."""

    cpu: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    stores: dict[str, str]


class Cores(msgspec.Struct, frozen=True):
    """Who runs where, as far as there are cores."""

    web: int
    store: int
    crowd: int

    @classmethod
    def here(cls) -> "Cores":
        """The cores that this process may use, shared out."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1 % len(cores)], cores[2] if len(cores) > 2 else cores[1 % len(cores)])


def describe(stores: dict[str, str]) -> Machine:
    """This machine; `stores` are the versions of the servers."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    packages = {name: version(name) for name in PACKAGES}
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    return Machine(cpu, len(os.sched_getaffinity(0)), system, platform.python_version(), packages, stores)


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Whatever is started in the block runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """The processor time of a process until now, by its own clock, whose id clock_getcpuclockid(3) makes of the pid."""
    return time.clock_gettime((~pid << 3) | 2)


class Meter:
    """Reads all clocks at the beginning and at the end of a round.

    `own` are all processes of the benchmark; `finished_s` is the time of its children that ended meanwhile, such as
    the crowd. What the machine did beyond them is `others_s`, time stolen by other machines included.
    """

    def __init__(self, own: Iterable[int]) -> None:
        self._own = tuple(own)
        self._began = self._read()

    def stop(self) -> None:
        """The round is over."""
        ended = self._read()
        self.seconds = ended[0] - self._began[0]
        self.cpu_s = {pid: ended[1][pid] - self._began[1][pid] for pid in self._own}
        self.finished_s = ended[2] - self._began[2]
        self.others_s = max(0.0, ended[3] - self._began[3] - sum(self.cpu_s.values()) - self.finished_s)

    def _read(self) -> tuple[float, dict[int, float], float, float]:
        children = os.times()
        own = {pid: cpu_s(pid) for pid in self._own}
        return time.monotonic(), own, children.children_user + children.children_system, _busy_s()


def _busy_s() -> float:
    """What all processors did since the start of the machine (proc(5), /proc/stat)."""
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = map(
        int, Path("/proc/stat").read_text().partition("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
