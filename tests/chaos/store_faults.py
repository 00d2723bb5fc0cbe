"""Faults of Redis itself: killed, stalled, out of memory, out of disk, busy."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis.asyncio

from tests.chaos.client import Client
from tests.chaos.service import Service, until
from tests.chaos.stage import Stage, scenario

DISK_KIB = 4096


@scenario(
    "valkey-killed",
    failure="SIGKILL of the embedded Valkey under load, again and again; the master starts it on its append-only file",
    promise="no answered booking is lost, none is made twice; 503 in between",
)
async def valkey_killed(stage: Stage) -> None:
    async with stage.service() as service, stage.crowd(service) as crowd:
        returns = []
        for _ in range(stage.times(5)):
            await crowd.answers(500)
            os.kill(service.valkey(), signal.SIGKILL)
            returns.append(await crowd.recovers())
        stage.figures["first change after a kill, s"] = ", ".join(map(str, returns))


@scenario(
    "valkey-stalled",
    failure="SIGSTOP of Valkey for 5 s under load",
    promise="/readyz says so within a second and is back within one; each request is answered in the deadline of 2 s",
)
async def valkey_stalled(stage: Stage) -> None:
    with stage.valkey() as valkey:
        async with stage.service(store=valkey) as service, stage.crowd(service) as crowd:
            for _ in range(stage.times(2)):
                await crowd.answers(500)
                valkey.process.send_signal(signal.SIGSTOP)
                stopped = time.monotonic()
                noticed = await _readiness_becomes(service, 503)
                await asyncio.sleep(max(0.0, 5 - (time.monotonic() - stopped)))
                valkey.process.send_signal(signal.SIGCONT)
                back = await _readiness_becomes(service, 200)
                await crowd.recovers()
                stage.expect(noticed < 1.5, f"/readyz took {noticed:.2f} s to say that Redis is away")
                stage.expect(back < 1.5, f"/readyz took {back:.2f} s to say that Redis is back")
            stage.figures["/readyz 503 after, s"] = round(noticed, 2)
            stage.figures["/readyz 200 after, s"] = round(back, 2)
    stage.expect_prompt_answers()


async def _readiness_becomes(service: Service, status: int) -> float:
    """Until every web process says so: five answers in a row on connections of their own."""
    began = time.monotonic()
    in_a_row = 0
    while in_a_row < 5:
        client = Client(service.port)
        in_a_row = in_a_row + 1 if (await client.ask("GET", "/readyz")).status == status else 0
        client.close()
        if time.monotonic() - began > 20:
            raise TimeoutError(f"/readyz did not become {status}")
    return time.monotonic() - began


@scenario(
    "out-of-memory",
    failure="Redis at its maxmemory, with no eviction",
    promise="bookings are refused as unavailable; cancellations still work; nothing is evicted; then all goes on",
    quick=0.1,
)
async def out_of_memory(stage: Stage) -> None:
    with stage.valkey("--maxmemory-policy", "noeviction") as valkey:
        async with stage.service(store=valkey) as service:
            async with stage.crowd(service) as crowd:
                await crowd.answers(stage.times(2000))
            person = stage.person(service)
            held = [await person.book(label) for label in stage.labels[:6]]
            held = [booking for booking in held if booking.outcome == "done"]
            valkey.client.config_set("maxmemory", 1)
            refused = [await person.book(label) for label in stage.labels]
            # Where the crowd has filled a showtime, "sold out" is the truth, and the history is checked for that.
            codes = {call.code or call.outcome for call in refused}
            stage.expect(
                "unavailable" in codes <= {"unavailable", "sold_out"},
                f"bookings without memory were answered {sorted(codes)}",
            )
            moved = await person.move(held[0], stage.labels[-1])
            cancelled = [
                await person.cancel(moved if moved.outcome == "done" else held[0]),
                await person.cancel(held[1]),
            ]
            stage.expect(
                all(call.outcome == "done" for call in cancelled),
                f"cancellations without memory were answered {sorted({call.code for call in cancelled})}",
            )
            stage.figures["a move without memory"] = moved.code or moved.outcome
            async with stage.crowd(service) as crowd:
                await crowd.answers(200)
                valkey.client.config_set("maxmemory", 0)
                stage.figures["first change with memory again, s"] = await crowd.recovers()


@scenario(
    "disk-full",
    failure="the disk of the append-only file is full (a tmpfs of 4 MiB; where none can be mounted, too few replicas)",
    promise="changes are refused as unavailable while looks are served; with room again all goes on, nothing is lost",
)
async def disk_full(stage: Stage) -> None:
    with stage.valkey() as valkey, _tiny_disk(valkey.folder) as is_tiny:
        if is_tiny:
            valkey.stop()
            valkey.start()
        async with stage.service(store=valkey) as service, stage.crowd(service) as crowd:
            await crowd.answers(500)
            if is_tiny:
                ballast = valkey.folder / "ballast"
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            else:
                valkey.client.config_set("min-replicas-to-write", 1)
            await until(lambda: any(call.code == "unavailable" for call in stage.calls[-200:]), "a refusal")
            known = len(stage.calls)
            await crowd.answers(500)
            while_full = stage.calls[known:]
            stage.expect(
                any(call.kind == "seats" and call.outcome == "done" for call in while_full), "no look was served"
            )
            if is_tiny:
                ballast.unlink()
            else:
                valkey.client.config_set("min-replicas-to-write", 0)
            stage.figures["first change with room again, s"] = await crowd.recovers()
            stage.figures["disk"] = f"tmpfs of {DISK_KIB} KiB" if is_tiny else "stand-in: too few replicas"
            await crowd.answers(500)


@contextlib.contextmanager
def _tiny_disk(folder: Path) -> Iterator[bool]:
    """Whether a small file system could be mounted at `folder` for as long as the block runs."""
    size = f"size={DISK_KIB}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", folder], capture_output=True, check=False)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@scenario(
    "script-busy",
    failure="somebody's script runs for ever; Redis answers BUSY to everybody",
    promise="refused as unavailable or unknown within the deadline; after SCRIPT KILL all goes on",
)
async def script_busy(stage: Stage) -> None:
    with stage.valkey("--busy-reply-threshold", "100") as valkey:
        async with stage.service(store=valkey) as service, stage.crowd(service) as crowd:
            for _ in range(stage.times(3)):
                await crowd.answers(300)
                endless = redis.asyncio.Redis.from_url(valkey.url, retry=None)
                busy = asyncio.create_task(endless.eval("while true do end", 0))
                await asyncio.sleep(3)
                valkey.client.script_kill()
                with contextlib.suppress(redis.ResponseError):
                    await busy
                await endless.aclose()
                stage.figures["first change after it, s"] = await crowd.recovers()
    stage.expect(any(call.code == "unavailable" for call in stage.calls), "nobody was refused")
