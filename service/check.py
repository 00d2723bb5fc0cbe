"""`matinee check`: what `matinee serve` would start with, found out without serving."""

from collections.abc import Iterator

from service.embedded import EmbeddedServer, holder_of
from service.preflight import ServerReport, inspect_server
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
    place, report = _look_at_server(settings)
    yield f"server: {report.kind} {report.version}, {place}"
    yield f"role: {report.role}"
    yield f"maxmemory-policy: {report.policy or 'hidden'}"
    yield f"persistence: {report.persistence}"
    if settings.wait_replicas:
        yield f"replicas: {replicas(settings, report)}"
    for warning in report.warnings:
        yield f"warning: {warning}"


def _look_at_server(settings: Settings) -> tuple[str, ServerReport]:
    """Where it is, and what it is."""
    if settings.redis_url:
        report = inspect_server(settings.redis_url, settings.wait_replicas)
        return f"at {report.address}", report
    if holder := holder_of(settings.data_dir):
        return f"embedded, running as process {holder.server_pid}", inspect_server(holder.url)
    embedded = EmbeddedServer.start(settings.data_dir, settings.durability)
    try:
        return f"embedded, data in {embedded.data_dir}", inspect_server(embedded.url)
    finally:
        embedded.stop()
