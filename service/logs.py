"""The log of the service, on stderr: lines for people on a terminal, else JSON, one object a line.

All that is logged in a process goes this way: our own lines, gunicorn's, aiohttp's and asyncio's, Python's warnings and
what nobody caught. Whoever knows more than the message gives it as `extra`, each item of which is a field in JSON.

An outage, or a defect that every request meets, must not fill a disk: `Bound` lets so many lines a minute through from
one place, and says how many it left out.
"""

import datetime
import logging
import sys
from types import TracebackType

from service.settings import LogFormat

ACCESS = "service.access"  # a line for each request was asked for, so its number is not bounded

WINDOW_S = 60.0
MOST = 60  # lines of one kind in a window, in each process

log = logging.getLogger(__name__)


def configure(form: LogFormat) -> None:
    """Have this process, and those that it forks, log in this form."""
    handler = logging.StreamHandler()
    if form == "json" or (form == "auto" and not sys.stderr.isatty()):
        handler.setFormatter(_json())
        sys.excepthook = _log_uncaught
    else:
        handler.setFormatter(logging.Formatter("matinee: %(message)s"))
    handler.addFilter(Bound())
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.captureWarnings(capture=True)


class Bound(logging.Filter):
    """Bounds how many lines there are of one kind: from one place in the code, with one cause."""

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[tuple[object, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written; the last one before a silence says so, and so does the first one after it."""
        if record.name == ACCESS:
            return True
        kind = (record.name, record.pathname, record.lineno, *_cause(record))
        began, count = self._windows.get(kind, (record.created, 0))
        left_out = 0
        if not 0 <= record.created - began < WINDOW_S:  # a clock that is set back must not make a window last
            left_out, began, count = max(0, count - MOST), record.created, 0
        count += 1
        self._windows[kind] = began, count
        if left_out:
            _add(record, f" ({left_out} like this were left out)")
        if count == MOST:
            _add(record, f" (the next ones like this are left out for {began + WINDOW_S - record.created:.0f} s)")
        return count <= MOST


def _cause(record: logging.LogRecord) -> tuple[object, ...]:
    """What an exception is and where it comes from: its type and the innermost line."""
    kind, _, trace = record.exc_info or (None, None, None)
    if trace is None:
        return (kind,)
    while trace.tb_next:
        trace = trace.tb_next
    return kind, trace.tb_frame.f_code.co_filename, trace.tb_lineno


def _add(record: logging.LogRecord, words: str) -> None:
    record.msg, record.args = record.getMessage() + words, None


def _json() -> logging.Formatter:
    # Imported here: people's commands need it not.
    from pythonjsonlogger.json import JsonFormatter  # noqa: PLC0415  see above

    class Lines(JsonFormatter):
        def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  logging's name and signature
            return datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")

    names = {"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"}
    return Lines(("asctime", "levelname", "message", "name", "process"), rename_fields=names)


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("the process ends by an error that nobody caught", exc_info=(kind, error, trace))
