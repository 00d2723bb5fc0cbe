"""The command line: `matinee serve`, `check`, `audit` and `health`. Every error is one line, exit code 1.

Each command imports what it needs: `matinee health` runs every few seconds in a container, and the web server
and redis-py take several times as long to import as all that it does.
"""

import argparse
import http.client
import logging
import os
import sys
from collections.abc import Callable

from service import __version__, logs
from service.settings import Settings, SettingsError, describe, log_format

log = logging.getLogger(__name__)

HEALTH_TIMEOUT_S = 3.0


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="matinee",
        description="A booking service for movie theatres.",
        epilog=f"Settings come from the environment:\n\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"matinee {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, meaning in (
        ("serve", _serve, "start the service"),
        ("check", _check, "check the settings, the programme and the server, and say what was found"),
        ("audit", _audit, "read the database while it is used, and say what disagrees (exit code 0 or 1)"),
        ("health", _health, "ask the running service whether it is ready (exit code 0 or 1)"),
    ):
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.set_defaults(run=run)
        if run is _audit:
            command.add_argument(
                "--repair", action="store_true", help="mend what can be mended safely, and say what was"
            )
    chosen = parser.parse_args(arguments)

    serves = chosen.run is _serve
    logs.configure(log_format(os.environ) if serves else "text")
    try:
        return int(chosen.run(Settings.from_environment(os.environ), chosen))
    except SettingsError as error:
        return _fail(error, log.error if serves else _print)
    except KeyboardInterrupt:
        return 130


def _serve(settings: Settings, _: argparse.Namespace) -> int:
    from service.app import create_app  # noqa: PLC0415  slow to import, see above
    from service.programme import programme_from  # noqa: PLC0415  as above
    from service.serve import CANNOT_START, serve  # noqa: PLC0415  as above

    try:
        serve(settings, programme_from(settings), create_app)
    except CANNOT_START as error:
        return _fail(error, log.error)


def _check(settings: Settings, _: argparse.Namespace) -> int:
    from service.check import findings  # noqa: PLC0415  as above
    from service.serve import CANNOT_START  # noqa: PLC0415  as above

    try:
        for line in findings(settings):
            print(line)
    except CANNOT_START as error:
        return _fail(error)
    return 0


def _audit(settings: Settings, chosen: argparse.Namespace) -> int:
    from service.bookkeeper import keep_books  # noqa: PLC0415  as above
    from service.serve import CANNOT_START  # noqa: PLC0415  as above

    try:
        return 0 if keep_books(settings, mends=chosen.repair) else 1
    except CANNOT_START as error:
        return _fail(error)


def _health(settings: Settings, _: argparse.Namespace) -> int:
    """Ask /readyz, on this machine: a wildcard address is reached by loopback."""
    loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  compared, not bound
    host = loopback.get(settings.host, settings.host)
    connection = http.client.HTTPConnection(host, settings.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return _fail(f"no answer from {host}, port {settings.port}: {error or type(error).__name__}")
    finally:
        connection.close()
    return 0 if status == http.HTTPStatus.OK else _fail(f"not ready: status {status}")


def _print(line: str) -> None:
    print(f"matinee: {line}", file=sys.stderr)


def _fail(reason: object, say: Callable[[str], None] = _print) -> int:
    """Say it on stderr, line by line. What a command says is for whoever called it; the service has a log."""
    for line in str(reason).splitlines():
        say(line)
    return 1


if __name__ == "__main__":
    sys.exit(main())
