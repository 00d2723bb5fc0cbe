"""`matinee check`: what `matinee serve` would start with, found out without serving."""

import contextlib
from collections.abc import Iterator

from service.deployment import inspect
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
    with reach(settings) as (url, where):
        found = inspect(url, settings.wait_replicas, where=where)
    yield f"server: {found.place}"
    yield from found.nodes
    yield f"persistence: {found.persistence}"
    if settings.wait_replicas:
        yield f"replicas: {replicas(settings, found)}"
    for warning in found.warnings:
        yield f"warning: {warning}"


@contextlib.contextmanager
def reach(settings: Settings) -> Iterator[tuple[str, str]]:
    """The server's URL, and where it is if it is embedded: the one that runs, or one that is started for now."""
    if settings.redis_url:
        yield settings.redis_url, ""
    elif holder := holder_of(settings.data_dir):
        yield holder.url, f"embedded, running as process {holder.server_pid}"
    else:
        embedded = EmbeddedServer.start(settings.data_dir, settings.durability)
        try:
            yield embedded.url, f"embedded, data in {embedded.data_dir}"
        finally:
            embedded.stop()
