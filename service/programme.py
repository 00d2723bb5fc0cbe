"""The programme: theatres, their timings, and which instant a local time means. Pure: every "now" is given.

One rule makes the times: a local time that a change of the clock skips is no showtime, a repeated one is the
first of the two.
"""

import datetime
import functools
import itertools
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec

from service.directory import Directory
from service.errors import ShowtimeNotFound, TheatreNotFound
from service.model import FORGOTTEN_AFTER_MS, Moment, Showtime, Theatre, compact, rfc3339
from service.settings import (
    CAPACITY_DEFAULT,
    CAPACITY_MAX,
    TIMING,
    Settings,
    timezone_from,
    timings_from,
)

# What stays in memory of what theatres share: six timings a day for a week, say, are 42 moments of a zone.
MOMENTS_KEPT = 16_384  # some 800 bytes each
UPCOMING_KEPT = 16_384  # next moments of a timing
DATES_KEPT = 1024  # dates, with the moments of theatres with the same timings

# The years 2000 to 2999: in them every offset is of whole minutes, as RFC 3339 wants, and the calendar has
# room for every expiry.
_LABEL = re.compile(rf"2[0-9]{{3}}-[0-9]{{2}}-[0-9]{{2}}T{TIMING.pattern}")
_LABEL_SHAPE = "YYYY-MM-DDTHH:MM (such as 2026-11-24T18:00, 24 h, in the theatre's local time, years 2000 to 2999)"
_TIMING_SHAPE = "HH:MM (such as 18:00, 24 h)"
THEATRE_ID = re.compile(r"(?=.{1,32}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_TITLE_MAX = 80
_TITLE_SHAPE = f"1 to {_TITLE_MAX} printable characters"
_DAY = datetime.timedelta(days=1)


class Programme:
    """The theatres by id and in a directory, and the showtimes of their timings.

    Takes one or more theatres with different ids; each `theatre` argument below is one of them. A ticket
    lives `ticket_life_ms` after its showtime's start. Answers are kept in memory, within bounds that no
    caller can move.
    """

    def __init__(self, theatres: Iterable[Theatre], ticket_life_ms: int) -> None:
        self.theatres: dict[str, Theatre] = {theatre.id: theatre for theatre in theatres}
        self.directory = Directory(self.theatres.values())
        self.ticket_life_ms = ticket_life_ms
        # By zone and timing: the next moment, and the instant since which it is the next.
        self._upcoming: dict[tuple[ZoneInfo, str], tuple[int, Moment]] = {}
        self._moment = functools.lru_cache(maxsize=MOMENTS_KEPT)(self._make_moment)
        self._dated = functools.lru_cache(maxsize=DATES_KEPT)(self._existing)

    def theatre(self, theatre_id: str | None) -> Theatre:
        """The theatre of that id, the programme's first for None; raises TheatreNotFound."""
        if theatre_id is None:
            return next(iter(self.theatres.values()))
        try:
            return self.theatres[theatre_id]
        except KeyError:
            raise TheatreNotFound("The programme has no theatre of that id.") from None

    def resolve(self, theatre: Theatre, timing: str, now_ms: int) -> Showtime:
        """What a client's `timing` means: `HH:MM` the next showtime that has not started, a label that one.

        Whether it is open or within the horizon is not asked here. Raises ValueError ("must be ...") for
        malformed text and ShowtimeNotFound for a time the theatre doesn't have.
        """
        if timing in theatre.timings:
            return Showtime(theatre, self._next(theatre.timezone, timing, now_ms))
        if len(timing) == len("YYYY-MM-DDTHH:MM"):
            showtime = self.showtime(theatre, timing)
            if showtime.timing not in theatre.timings:
                raise _no_timing(theatre, showtime.timing)
            if showtime.moment.is_skipped:
                raise ShowtimeNotFound(f"Theatre {theatre.id} has no showtime {timing}: its clock skips that time.")
            return showtime
        if not TIMING.fullmatch(timing):
            raise ValueError(f"must be {_TIMING_SHAPE} or {_LABEL_SHAPE}")
        raise _no_timing(theatre, timing)

    def showtime(self, theatre: Theatre, label: str) -> Showtime:
        """The showtime of any well-formed label, in the programme or not: stored tickets outlive its changes.

        So a skipped time has one too, counted with the offset from before the change (02:30 is then 03:30
        summer time): a ticket may have been sold before a government moved the change. The theatre, too, may have
        left the programme. Raises ValueError for a malformed label.
        """
        return Showtime(theatre, self._moment(theatre.timezone, label))

    def showtimes_on(self, theatre: Theatre, date: datetime.date) -> list[Showtime]:
        """The theatre's showtimes of a local date in start order.

        Raises ValueError outside the years 2000 to 2999.
        """
        return [Showtime(theatre, moment) for moment in self._dated(theatre.timezone, (date,), theatre.timings)]

    def starting_between(self, theatre: Theatre, first_ms: int, last_ms: int) -> list[Showtime]:
        """The theatre's showtimes that start from `first_ms` to `last_ms`, both included, in start order."""
        return self._between(theatre, theatre.timings, first_ms, last_ms)

    def at_clock_time(self, theatre: Theatre, timing: str, first_ms: int, last_ms: int) -> list[Showtime]:
        """The showtimes at `HH:MM` from `first_ms` to `last_ms`, both included, in start order.

        The time may be one that the programme no longer has. Raises ValueError for anything but `HH:MM`.
        """
        if not TIMING.fullmatch(timing):
            raise ValueError(f"must be {_TIMING_SHAPE}")
        return self._between(theatre, (timing,), first_ms, last_ms)

    def _between(self, theatre: Theatre, timings: tuple[str, ...], first_ms: int, last_ms: int) -> list[Showtime]:
        first = _local_date(theatre.timezone, first_ms)
        # One date more: after a clock was set back over midnight, some of the next date's are past already.
        last = _local_date(theatre.timezone, last_ms) + _DAY
        dates = (first + _DAY * day for day in range((last - first).days + 1))
        moments = self._existing(theatre.timezone, dates, timings)
        return [Showtime(theatre, moment) for moment in moments if first_ms <= moment.starts_ms <= last_ms]

    def _existing(self, timezone: ZoneInfo, dates: Iterable[datetime.date], timings: tuple[str, ...]) -> list[Moment]:
        # Labels in order start in order: what would break it, a repeated time, counts once.
        days = (date.isoformat() for date in dates)
        moments = (self._moment(timezone, f"{day}T{timing}") for day in days for timing in timings)
        return [moment for moment in moments if not moment.is_skipped]

    def _next(self, timezone: ZoneInfo, timing: str, now_ms: int) -> Moment:
        kept = self._upcoming.get((timezone, timing))
        # Both ends: the clock may have been set back, or be another server's after a failover.
        if kept is None or not kept[0] <= now_ms < kept[1].starts_ms:
            if len(self._upcoming) >= UPCOMING_KEPT:
                del self._upcoming[next(iter(self._upcoming))]  # the one that came first
            self._upcoming[timezone, timing] = kept = self._find_next(timezone, timing, now_ms)
        return kept[1]

    def _find_next(self, timezone: ZoneInfo, timing: str, now_ms: int) -> tuple[int, Moment]:
        """The earliest moment of a timing after `now_ms`, and an instant up to `now_ms` since which it is the next."""
        today = _local_date(timezone, now_ms)
        since_ms = now_ms
        # From yesterday, whose moment usually begins that span; a skipped time leads on to the next date.
        for day in itertools.count(-1):
            moment = self._moment(timezone, f"{today + _DAY * day}T{timing}")
            if moment.is_skipped:
                continue
            if moment.starts_ms > now_ms:
                return since_ms, moment
            since_ms = moment.starts_ms
        raise AssertionError  # pragma: no cover  itertools.count has no end

    def _make_moment(self, timezone: ZoneInfo, label: str) -> Moment:
        if not _LABEL.fullmatch(label):
            raise ValueError(f"must be {_LABEL_SHAPE}")
        try:
            local = datetime.datetime.fromisoformat(label)
        except ValueError:
            raise ValueError(f"must be {_LABEL_SHAPE}, and that date is not in the calendar") from None
        starts_ms = int(local.replace(tzinfo=timezone).timestamp()) * 1000
        expires_ms = starts_ms + self.ticket_life_ms
        return Moment(
            zone=timezone.key,
            label=label,
            timing=sys.intern(label[-len("HH:MM") :]),
            stored=compact(label),
            starts_ms=starts_ms,
            expires_ms=expires_ms,
            forgotten_ms=expires_ms + FORGOTTEN_AFTER_MS,
            starts_at=rfc3339(starts_ms, timezone),
            expires_at=rfc3339(expires_ms, timezone),
        )


def _local_date(timezone: ZoneInfo, instant_ms: int) -> datetime.date:
    return datetime.datetime.fromtimestamp(instant_ms // 1000, timezone).date()


def _no_timing(theatre: Theatre, timing: str) -> ShowtimeNotFound:
    if not theatre.timings:
        return ShowtimeNotFound(f"Theatre {theatre.id} has left the programme; nothing can be booked there.")
    return ShowtimeNotFound(
        f"Theatre {theatre.id} has no showtime at {timing}; its timings are {', '.join(theatre.timings)}."
    )


class ProgrammeError(Exception):
    """A programme that can't be used: one line with the file, the theatre, the field and what would do."""


def programme_from(settings: Settings) -> Programme:
    """The theatres of the TOML file, or the built-in theatre `main`; raises ProgrammeError."""
    if settings.programme is not None:
        return Programme(_theatres_in(settings.programme), settings.ticket_life_ms)
    main = Theatre("main", "Main theatre", settings.timezone, settings.capacity, settings.timings)
    return Programme([main], settings.ticket_life_ms)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    theatre: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]


class _Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A timing that names its film: `{at = "18:00", film = "Metropolis"}`."""

    at: str
    film: str


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[theatre]]` of the file."""

    id: str
    timings: list[str | _Timing]
    name: str | None = None
    timezone: str = "UTC"
    capacity: Annotated[int, msgspec.Meta(ge=1, le=CAPACITY_MAX)] = CAPACITY_DEFAULT


def _theatres_in(path: Path) -> Iterator[Theatre]:
    try:
        tables = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File).theatre
    except OSError as error:
        raise ProgrammeError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ProgrammeError(f"{path}: must be UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ProgrammeError(f"{path}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise ProgrammeError(f"{path}: must hold [[theatre]] tables and nothing else: {_plain(error)}") from None
    seen: set[str] = set()
    for number, table in enumerate(tables, 1):
        where = f"{path}: theatre {number} ({str(table.get('id', 'without id'))[:40]!r})"
        try:
            theatre = _theatre_of(msgspec.convert(table, _Table))
        except msgspec.ValidationError as error:
            raise ProgrammeError(f"{where}: {_plain(error)}") from None
        except ValueError as error:
            raise ProgrammeError(f"{where}: {error}") from None
        if theatre.id in seen:
            raise ProgrammeError(f"{where}: id: must differ from that of every theatre before")
        seen.add(theatre.id)
        yield theatre


def _theatre_of(table: _Table) -> Theatre:
    """Check what types can't say. ValueError starts with the field."""
    if not THEATRE_ID.fullmatch(table.id):
        raise ValueError("id: must be 1 to 32 of a-z and 0-9 with single dashes between, such as main or screen-2")
    name = table.id if table.name is None else table.name.strip()
    if not _is_title(name):
        raise ValueError(f"name: must be {_TITLE_SHAPE}")
    try:
        timezone = timezone_from(table.timezone)
    except ValueError as error:
        raise ValueError(f"timezone: {error}") from None
    try:
        timings = timings_from(timing if isinstance(timing, str) else timing.at for timing in table.timings)
    except ValueError as error:
        raise ValueError(f"timings: {error}") from None
    films = {timing.at: timing.film.strip() for timing in table.timings if isinstance(timing, _Timing)}
    for timing, film in films.items():
        if not _is_title(film):
            raise ValueError(f"timings: the film at {timing} must be {_TITLE_SHAPE}")
    return Theatre(table.id, name, timezone, table.capacity, _shared(timings), films)


@functools.lru_cache(maxsize=4096)
def _shared(timings: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for equal timings: those of a chain's theatres then stay in the processor's caches."""
    return timings


def _is_title(text: str) -> bool:
    return 0 < len(text) <= _TITLE_MAX and text.isprintable()


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's `Expected ... - at `$.capacity`` with the field first."""
    message, _, place = str(error).partition(" - at `$.")
    message = message[0].lower() + message[1:]
    return f"{place.rstrip('`')}: {message}" if place else message
