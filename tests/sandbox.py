"""Runs a command as tightly as a systemd unit would: `python sandbox.py UNIT COMMAND…`.

Whatever makes a system call that the unit's `SystemCallFilter` does not let through is killed, memory that may be
written is never executable, as `MemoryDenyWriteExecute` has it, and root has no capability. Neither systemd nor root is
needed for that, but `systemd-analyze`, which knows what the sets of calls contain, and libseccomp, which systemd uses.
"""

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

# https://github.com/seccomp/libseccomp/blob/main/include/seccomp.h.in
KILL, ALLOW = 0x80000000, 0x7FFF0000
# https://github.com/torvalds/linux/blob/master/include/uapi/linux/prctl.h
DROP_CAPABILITY, SET_NO_NEW_PRIVILEGES, SET_NO_WRITE_AND_EXECUTE = 24, 38, 65


def calls(word: str) -> set[str]:
    """The system calls that a word of a filter stands for: itself, or those of a set such as `@chown`."""
    if not word.startswith("@"):
        return {word}
    told = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    words = (line.strip() for line in told.stdout.splitlines()[1:])
    return {call for each in words if each and not each.startswith("#") for call in calls(each)}


def allowed_by(unit: str) -> set[str]:
    """The system calls that the lines of the unit leave; `~` takes away what the lines before gave."""
    found = calls("@default")
    for is_taken, words in re.findall(r"^SystemCallFilter=(~?)(.*)$", unit, re.MULTILINE):
        for word in words.split():
            found = found - calls(word) if is_taken else found | calls(word)
    return found


def main() -> None:
    unit, *command = sys.argv[1:]
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(KILL)))
    for name in allowed_by(Path(unit).read_text()):
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            seccomp.seccomp_rule_add(rules, ctypes.c_uint32(ALLOW), number, 0)
    libc = ctypes.CDLL(None)
    for capability in range(64):  # of root, who runs CI; nobody else has any
        libc.prctl(DROP_CAPABILITY, capability, 0, 0, 0)
    libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    libc.prctl(SET_NO_WRITE_AND_EXECUTE, 1, 0, 0, 0)  # of Linux 6.3; an older one has nothing of the kind
    if seccomp.seccomp_load(rules):
        sys.exit("the kernel does not take the filter")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
