"""`matinee check`: what `matinee serve` would start with, found out without serving."""

from collections.abc import Iterator

from service.deployment import Deployment, inspect
from service.embedded import EmbeddedServer, holder_of
from service.programme import programme_from
from service.serve import access, replicas, summary
from service.settings import Settings


def findings(settings: Settings) -> Iterator[str]:
    """The settings, the programme and the server, line by line; raises one of `serve.CANNOT_START`.

    An embedded server that runs is asked; else it is started and stopped, which shows that its data loads.
    """
    yield "settings: good"
    yield f"programme: {summary(programme_from(settings))}"
    yield f"access: {access(settings)}"
    found = _deployment(settings)
    yield f"server: {found.place}"
    yield from found.nodes
    yield f"persistence: {found.persistence}"
    if settings.wait_replicas:
        yield f"replicas: {replicas(settings, found)}"
    for warning in found.warnings:
        yield f"warning: {warning}"


def _deployment(settings: Settings) -> Deployment:
    if settings.redis_url:
        return inspect(settings.redis_url, settings.wait_replicas)
    if holder := holder_of(settings.data_dir):
        return inspect(holder.url, where=f"embedded, running as process {holder.server_pid}")
    embedded = EmbeddedServer.start(settings.data_dir, settings.durability)
    try:
        return inspect(embedded.url, where=f"embedded, data in {embedded.data_dir}")
    finally:
        embedded.stop()
