"""Faults of the web processes and of their clients."""

import os
import signal

from tests.chaos.stage import Stage, scenario


@scenario(
    "web-killed",
    failure="SIGKILL of a web process under load, again and again",
    promise="no answered booking is lost; another process takes over",
    quick=True,
)
async def web_killed(stage: Stage) -> None:
    async with stage.service(workers=2) as service, stage.crowd(service) as crowd:
        for _ in range(stage.times(5)):
            await crowd.answers(300)
            os.kill(stage.dice.choice(service.web_processes()), signal.SIGKILL)
        stage.figures["first change after the last kill, s"] = await crowd.recovers()
