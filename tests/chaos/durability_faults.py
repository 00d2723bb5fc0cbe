"""What is left of answered changes when the power goes, or when a replica takes the place of a lost primary."""

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from loadtests.books import audit
from tests.chaos.service import CAPACITY, Valkey
from tests.chaos.stage import Stage, scenario
from tests.history.calls import Call
from tests.history.checker import check
from tests.history.ending import read_ending
from tests.history.journal import attest, read_journal
from tests.power_cut import FlushLog
from tests.replication import Link, Replica, Replicated

STALL_S = (0.5, 1.5)  # shorter and longer than replicas have to confirm


@scenario(
    "power-cut",
    failure="the power goes under load, the embedded server flushes before every answer (MATINEE_DURABILITY=always)",
    promise="no answered change is lost; the books agree",
)
async def power_cut(stage: Stage) -> None:
    lost = await _lost_by_a_power_cut(stage, "always")
    stage.expect(not lost, f"{len(lost)} answered changes are gone, the last one {lost[-1:]}")


@scenario(
    "power-cut-everysec",
    failure="the power goes under load, the embedded server flushes once a second (MATINEE_DURABILITY=everysec)",
    promise="what is lost was answered within about the last second; the books agree",
)
async def power_cut_everysec(stage: Stage) -> None:
    lost = await _lost_by_a_power_cut(stage, "everysec")
    stage.expect(lost, "nothing is lost: the simulation cannot tell the two ways to flush apart")


async def _lost_by_a_power_cut(stage: Stage, durability: str) -> list[Call]:
    """Cut the power under load; the changes that were answered by then and are not in what is left.

    The service itself only sees a killed Valkey, and goes on with all of its data.
    """
    async with stage.service(environment={"MATINEE_DURABILITY": durability}) as service:
        pid = service.valkey()
        with FlushLog(pid, service.data_dir) as log:
            async with stage.crowd(service) as crowd:
                await crowd.answers(stage.times(2000) + stage.dice.randrange(500))
                flushes = log.flushes
                while log.flushes == flushes:  # noqa: ASYNC110  a file that grows has no event
                    await asyncio.sleep(0.002)
                await asyncio.sleep(stage.dice.uniform(0.1, 0.9))
                service.process.send_signal(signal.SIGSTOP)  # its master would start the server again
                os.kill(pid, signal.SIGKILL)
                cut_at = time.monotonic()
                copy = stage.new_folder()
                stage.figures["bytes written and not flushed"] = log.cut(copy)
                await asyncio.sleep(0.1)  # answers that were on their way
                answered = [call for call in stage.calls if call.changes and call.outcome == "done"]
                service.process.send_signal(signal.SIGCONT)
                await crowd.recovers()
    lost = _not_in(copy, answered)
    stage.figures["answered changes"] = len(answered)
    stage.figures["lost"] = len(lost)
    if lost:
        stage.figures["the oldest of them answered before the cut, s"] = round(cut_at - lost[0].answered, 2)
    _check_books(stage, copy)
    return lost


def _not_in(data: Path, answered: Iterable[Call]) -> list[Call]:
    """The calls whose change an append-only file lacks, in the order of their answers."""
    journal = read_journal(data / "appendonlydir")
    changes = Counter((change.kind, change.ticket_id, change.showtime) for change in journal)
    lost = []
    for call in sorted(answered, key=lambda call: call.answered):
        what = call.kind, call.ticket_id, call.showtime
        if changes[what]:
            changes[what] -= 1
        else:
            lost.append(call)
    return lost


def _check_books(stage: Stage, data: Path) -> None:
    """Start a server on what is left: it loads, and its counters, ids and tickets agree."""
    valkey = Valkey(data)
    valkey.start()
    try:
        for disagreement in audit(valkey.client, {"main": CAPACITY}).disagreements:
            stage.expect(False, f"after the cut: {disagreement}")
    finally:
        valkey.stop()


@scenario(
    "primary-lost",
    failure="the links to both replicas stall, after 0.5 s or more the primary is killed and a replica promoted "
    "(MATINEE_WAIT_REPLICAS=1)",
    promise="no answered change is lost; what no replica confirmed was told as unknown",
)
async def primary_lost(stage: Stage) -> None:
    lost = await _lost_with_the_primary(stage, wait_replicas=1)
    stage.expect(not lost, f"{len(lost)} answered changes are gone, the last one {lost[-1:]}")


@scenario(
    "primary-lost-async",
    failure="the same, and nobody waits for replicas (MATINEE_WAIT_REPLICAS=0)",
    promise="the answers of the stall are lost, and it is told how many",
)
async def primary_lost_async(stage: Stage) -> None:
    lost = await _lost_with_the_primary(stage, wait_replicas=0)
    stage.expect(lost, "nothing is lost: the links did not stall")


async def _lost_with_the_primary(stage: Stage, wait_replicas: int) -> list[Call]:
    """Lose the primary under load; the changes that were answered by then and are not in the promoted replica."""
    folder = stage.new_folder()
    servers = Replicated(stage.server, folder, 2, "--appendonly", "yes")
    way = Link(servers.url)  # what the service knows the primary by, whichever server that is
    try:
        variables = {"MATINEE_WAIT_REPLICAS": str(wait_replicas)}
        url = f"redis://127.0.0.1:{way.port}"
        async with stage.service(redis_url=url, environment=variables, checks=False) as service:
            async with stage.crowd(service) as crowd:
                await crowd.answers(stage.times(1500) + stage.dice.randrange(300))
                held_at = time.monotonic()
                for link in servers.links:
                    link.hold()
                await asyncio.sleep(stage.dice.uniform(*STALL_S))
                servers.process.kill()
                servers.process.wait()
                await asyncio.sleep(0.1)  # answers that were on their way
                answered = [call for call in stage.calls if call.changes and call.outcome == "done"]
                promoted = _promote(servers)
                way.lead_to(promoted.url)
                promoted_at = time.monotonic()
                stage.figures["first change after the promotion, s"] = await crowd.recovers()
                await crowd.answers(stage.times(500))
            lost = _not_in(promoted.folder, answered)
            stage.figures["answered changes"] = len(answered)
            stage.figures["lost"] = len(lost)
            if wait_replicas:
                _check_history(stage, promoted, held_at, promoted_at)
    finally:
        way.close()
        servers.stop()
    return lost


def _promote(servers: Replicated) -> Replica:
    """Make the replica that is furthest the primary, and have the other one follow it."""
    last, first = sorted(servers.replicas, key=lambda each: each.client.info("replication")["slave_repl_offset"])
    first.client.replicaof("NO", "ONE")
    link = Link(first.url)
    servers.links.append(link)
    last.client.replicaof("127.0.0.1", link.port)
    last.wait_for_copy()
    return first


def _check_history(stage: Stage, promoted: Replica, held_at: float, promoted_at: float) -> None:
    """All that is checked elsewhere, but for looks and refusals that saw what no replica had: those are no promises."""
    calls = [
        call
        for call in stage.calls
        if call.answered < held_at
        or call.sent > promoted_at
        or (call.kind not in {"seats", "view"} and call.code != "sold_out")
    ]
    stage.violations += attest(calls, read_journal(promoted.folder / "appendonlydir"))
    stage.violations += check(calls, read_ending(promoted.client), CAPACITY)
    stage.violations += map(str, audit(promoted.client, {"main": CAPACITY}).disagreements)
