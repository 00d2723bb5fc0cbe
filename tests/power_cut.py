"""A power cut, as far as a machine that stays on can show one: of an append-only file only what was flushed is left.

SIGKILL does not do it, for the system still has what a killed process wrote. So strace notes each write to the file and
each flush of it; when the server has been killed, a copy of its data is cut off where the last flush began that ended.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Self

_CALL = re.compile(r"(\d+) +(?:<\.\.\. )?(write|fdatasync|fsync)\b(.*)")
_RESULT = re.compile(r"= (\d+)$")


class FlushLog:
    """Notes writes and flushes of a server's append-only file, from before its first write of interest.

    Raises RuntimeError where there is no strace, or where it may not follow the server.
    """

    def __init__(self, pid: int, data_dir: Path) -> None:
        self.data_dir = data_dir
        [self.file] = (data_dir / "appendonlydir").glob("*.incr.aof")
        self._log = data_dir / "strace.log"
        strace = shutil.which("strace")
        if strace is None:
            raise RuntimeError("no strace on this machine (Debian: apt install strace)")
        options = ["-f", "-s", "0", "-e", "trace=write,fdatasync,fsync", "-P", self.file, "-o", self._log]
        self._strace = subprocess.Popen(
            [strace, *options, "-p", str(pid)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        if "attached" not in said:
            raise RuntimeError(f"strace cannot follow the server: {said}")
        self._size_before = self.file.stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._strace.terminate()
        self._strace.communicate(timeout=10)

    @property
    def flushes(self) -> int:
        """How many flushes have ended so far."""
        return self._flushed()[1]

    def cut(self, folder: Path) -> int:
        """Copy the killed server's data to `folder` as a power cut would have left them; return the bytes lost."""
        self._strace.wait(10)  # it ends with the server, and then its log is whole
        flushed, _ = self._flushed()
        shutil.copytree(self.data_dir / "appendonlydir", folder / "appendonlydir")
        copy = folder / "appendonlydir" / self.file.name
        lost = copy.stat().st_size - flushed
        os.truncate(copy, flushed)
        return lost

    def _flushed(self) -> tuple[int, int]:
        """How much of the file is flushed, and how many flushes have ended."""
        written, flushed, flushes = self._size_before, self._size_before, 0
        begun: dict[str, int] = {}  # per thread, how much there was when its flush began
        for line in self._log.read_text().splitlines():
            call = _CALL.match(line)
            if call is None:
                continue
            thread, name, rest = call.groups()
            result = _RESULT.search(rest)
            if name == "write":
                written += int(result[1]) if result else 0
            elif result is None:
                begun[thread] = written
            else:
                flushed, flushes = max(flushed, begun.pop(thread, written)), flushes + 1
        return flushed, flushes
