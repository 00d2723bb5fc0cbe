"""The environment, read once. `VARIABLES` is the home of every setting: name, default, meaning, parser."""

import difflib
import functools
import ipaddress
import itertools
import os
import re
import sys
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import msgspec

from service.address import Address, without_secrets

PREFIX = "MATINEE_"
LOG_FORMAT = "MATINEE_LOG_FORMAT"
TIMING = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]")  # [0-9], since \d takes the digits of every script
Durability = Literal["always", "everysec"]
LogFormat = Literal["auto", "json", "text"]
CAPACITY_MAX = 100_000
CAPACITY_DEFAULT = 20

_WORKERS_MAX = 64
_SHOWN_MAX = 60  # characters of a bad value that an error quotes
_UNIT_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_REPLICAS_MAX = 16
_LIFE_MAX_MS = 365 * _UNIT_MS["d"]
# RFC 1123 labels. The last one is not all digits, so that 127.1 or 300.1.2.3 is not taken for a name.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*(?![0-9]+\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?",
    re.IGNORECASE,
)


class SettingsError(Exception):
    """Settings that don't do: one line for each, naming the variable and what it may be, never a secret."""


class Settings(msgspec.Struct, frozen=True):
    """What the operator decides. Without a `redis_url` it is the embedded server.

    Without a `programme` there is one theatre of `timings` (`HH:MM`, sorted), `capacity` and `timezone`.
    `ticket_life_ms` is how long after its showtime a ticket is kept. The embedded server flushes to disk before every
    answer (`always`) or once a second: its `durability`. A change is answered once `wait_replicas` have it. With
    `share_port` another start of the service may listen beside this one; with `access_log` there is a line for each
    request.
    """

    host: str
    port: int
    redis_url: str | None
    data_dir: Path
    workers: int
    programme: Path | None
    timings: tuple[str, ...]
    capacity: int
    timezone: ZoneInfo
    staff_token: str | None
    ticket_life_ms: int
    durability: Durability
    wait_replicas: int
    share_port: bool
    log_format: LogFormat
    access_log: bool

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the `MATINEE_` variables; an empty one counts as unset. SettingsError names every bad one."""
        given = {name: text for name, text in environ.items() if name.startswith(PREFIX)}
        errors = [_unknown(name) for name in sorted(given) if name not in _NAMES]
        values: dict[str, Any] = {}
        for variable in VARIABLES:
            text = given.get(variable.name) or variable.default
            try:
                values[variable.field] = None if text is None else variable.parse(text)
            except ValueError as error:
                shown = "" if variable.secret else f" is {_quoted(text or '')}, but"
                errors.append(f"{variable.name}{shown} {error}")
        errors.extend(_contradictions(given, values))
        if errors:
            raise SettingsError("\n".join(errors))
        return cls(**values)

    @property
    def protected(self) -> bool:
        """No staff token is set: loopback only, and every caller is the box office."""
        return self.staff_token is None

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The fields without their secrets, for every printer of structs."""
        masked = {
            "redis_url": self.redis_url and without_secrets(self.redis_url),
            "staff_token": self.staff_token and "***",
        }
        return [(field, masked.get(field, getattr(self, field))) for field in self.__struct_fields__]

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"


class Variable(msgspec.Struct, frozen=True):
    """One setting. `default` is as the operator would write it, None where unset has a meaning of its own.

    `parse` turns text into the value, or raises ValueError whose text goes on after the name: "must be ...".
    The value of a `secret` one never shows in an error.
    """

    field: str
    name: str
    default: str | None
    meaning: str
    parse: Callable[[str], Any]
    secret: bool = False


def describe() -> str:
    """All variables as an aligned text table: name, default, meaning."""
    rows = [("VARIABLE", "DEFAULT", "MEANING")]
    rows += [(variable.name, variable.default or "(unset)", variable.meaning) for variable in VARIABLES]
    name_width, default_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:{name_width}}  {default:{default_width}}  {meaning}" for name, default, meaning in rows)


def log_format(environ: Mapping[str, str]) -> LogFormat:
    """How to log, needed before the other settings are read, to tell what is wrong with them; `auto` for a bad one."""
    formats: Mapping[str, LogFormat] = {name: name for name in get_args(LogFormat)}
    return formats.get(environ.get(LOG_FORMAT, ""), "auto")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`: 127.0.0.0/8, ::1 or localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def timings_from(texts: Iterable[str]) -> tuple[str, ...]:
    """Clock times `HH:MM`, sorted. ValueError where one is malformed or repeated, or none is given."""
    timings = sorted(texts)
    if not timings:
        raise ValueError("must have at least one timing HH:MM")
    for timing in timings:
        if not TIMING.fullmatch(timing):
            raise ValueError(f"must have timings HH:MM (24 h, such as 09:30 or 18:00), not {_quoted(timing)}")
    for timing, following in itertools.pairwise(timings):
        if timing == following:
            raise ValueError(f"must have each timing once, {timing} is repeated")
    return tuple(timings)


def timezone_from(name: str) -> ZoneInfo:
    """The zone of an IANA name; ValueError with the closest name for any other text."""
    names = _timezone_names()
    if name not in names:
        closest = difflib.get_close_matches(name[:_SHOWN_MAX], sorted(names), 1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        raise ValueError(f"must be an IANA time zone, such as UTC or Europe/Berlin{hint}")
    return ZoneInfo(name)


@functools.cache
def _timezone_names() -> frozenset[str]:
    # `localtime` is this machine's own zone: two web servers could disagree about it.
    return frozenset(zoneinfo.available_timezones() - {"localtime"})


def _whole_number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch("[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST_NAME.fullmatch(text):
            raise ValueError(
                "must be an IP address without brackets, such as 127.0.0.1, 0.0.0.0 or ::1, or a host name"
            ) from None
    return text


def _redis_url(text: str) -> str:
    Address.parse(text)
    return text


def _data_dir(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise ValueError("must be a folder (it is made where it is missing), and a file is there")
    return path


def _workers(text: str) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(cores, _WORKERS_MAX)
    if text == "auto":
        return most
    if not re.fullmatch("[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise ValueError(f"must be auto or a whole number from 1 to {most}: this machine has {cores} cores")
    return int(text)


def _programme(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError("must be a TOML file that exists")
    return path


def _timings(text: str) -> tuple[str, ...]:
    return timings_from(part.strip() for part in text.split(","))


def _staff_token(text: str) -> str:
    if not re.fullmatch("[!-~]{16,}", text):
        raise ValueError("must be at least 16 visible ASCII characters, without spaces")
    return text


def _ticket_life(text: str) -> int:
    match = re.fullmatch("([0-9]{1,9})([smhd])", text)
    life_ms = int(match[1]) * _UNIT_MS[match[2]] if match else 0
    if not 0 < life_ms <= _LIFE_MAX_MS:
        raise ValueError("must be a whole number with s, m, h or d, such as 90m or 8h, from 1s to 365d")
    return life_ms


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}")
        return text

    return parse


def _switch(text: str) -> bool:
    return _one_of("on", "off")(text) == "on"


def _share_port(text: str) -> bool:
    shares = _switch(text)
    if shares and sys.platform != "linux":
        raise ValueError("must be off on this system: only Linux spreads connections over those that share a port")
    return shares


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "host",
        "MATINEE_HOST",
        "127.0.0.1",
        "address to listen on; other than loopback needs a staff token",
        _host,
    ),
    Variable("port", "MATINEE_PORT", "5000", "TCP port to listen on, 1 to 65535", _whole_number(1, 65535)),
    Variable(
        "redis_url",
        "MATINEE_REDIS_URL",
        None,
        "URL of the Redis or Valkey server, of its Sentinels, or of a cluster; unset: the embedded server",
        _redis_url,
        secret=True,
    ),
    Variable("data_dir", "MATINEE_DATA_DIR", "./data", "folder of the embedded server's data", _data_dir),
    Variable(
        "workers",
        "MATINEE_WORKERS",
        "auto",
        "web processes, at most (auto: exactly) one per core and 64",
        _workers,
    ),
    Variable(
        "programme",
        "MATINEE_PROGRAMME",
        None,
        "TOML file of theatres; unset: one theatre, made of the next three",
        _programme,
    ),
    Variable(
        "timings",
        "MATINEE_TIMINGS",
        "12:00,15:00,18:00,21:00",
        "daily timings HH:MM (24 h), separated by commas",
        _timings,
    ),
    Variable(
        "capacity",
        "MATINEE_CAPACITY",
        str(CAPACITY_DEFAULT),
        f"seats per showtime, 1 to {CAPACITY_MAX}",
        _whole_number(1, CAPACITY_MAX),
    ),
    Variable(
        "timezone",
        "MATINEE_TIMEZONE",
        "UTC",
        "IANA time zone of the timings, such as Europe/Berlin",
        timezone_from,
    ),
    Variable(
        "staff_token",
        "MATINEE_STAFF_TOKEN",
        None,
        "secret of the box office, 16 visible ASCII characters or more; unset: protected mode, loopback only",
        _staff_token,
        secret=True,
    ),
    Variable(
        "ticket_life_ms",
        "MATINEE_TICKET_LIFE",
        "8h",
        "how long after its showtime a ticket lives: a whole number with s, m, h or d, 1s to 365d",
        _ticket_life,
    ),
    Variable(
        "durability",
        "MATINEE_DURABILITY",
        "always",
        "when the embedded server flushes to disk: always, before every answer, or everysec",
        _one_of(*get_args(Durability)),
    ),
    Variable(
        "wait_replicas",
        "MATINEE_WAIT_REPLICAS",
        "0",
        f"replicas of MATINEE_REDIS_URL that have a change before it is answered, 0 to {_REPLICAS_MAX}",
        _whole_number(0, _REPLICAS_MAX),
    ),
    Variable(
        "share_port",
        "MATINEE_SHARE_PORT",
        "off",
        "on: another start of the service may listen on the port beside this one, to take over from it (Linux)",
        _share_port,
    ),
    Variable(
        "log_format",
        LOG_FORMAT,
        "auto",
        "how `matinee serve` logs on stderr: json, text, or auto: text on a terminal, else json",
        _one_of(*get_args(LogFormat)),
    ),
    Variable(
        "access_log",
        "MATINEE_ACCESS_LOG",
        "off",
        "on: a line for each request, with its route, status and duration",
        _switch,
    ),
)

_NAMES = tuple(variable.name for variable in VARIABLES)


def _unknown(name: str) -> str:
    closest = difflib.get_close_matches(name[:_SHOWN_MAX], _NAMES, 1, cutoff=0)[0]
    return f"{_quoted(name)} is no setting of Matinee; the closest is {closest}"


def _contradictions(given: Mapping[str, str], values: Mapping[str, Any]) -> Iterator[str]:
    """Settings that are fine alone and not together; a missing value was bad and has its line already."""
    if given.get("MATINEE_PROGRAMME"):
        for name in ("MATINEE_TIMINGS", "MATINEE_CAPACITY", "MATINEE_TIMEZONE"):
            if given.get(name):
                yield f"{name} must be unset where MATINEE_PROGRAMME is: that file says it for each theatre"
    if given.get("MATINEE_DURABILITY") and given.get("MATINEE_REDIS_URL"):
        yield "MATINEE_DURABILITY must be unset where MATINEE_REDIS_URL is: that server's appendfsync says it"
    if values.get("wait_replicas") and not given.get("MATINEE_REDIS_URL"):
        yield "MATINEE_WAIT_REPLICAS must be 0 while MATINEE_REDIS_URL is unset: the embedded server has no replicas"
    if values.get("share_port") and not given.get("MATINEE_REDIS_URL"):
        yield (
            "MATINEE_SHARE_PORT must be off while MATINEE_REDIS_URL is unset: the embedded server belongs to one start"
            " of the service"
        )
    if "host" in values and values.get("staff_token", "bad") is None and not is_loopback(values["host"]):
        yield (
            f"MATINEE_HOST is {_quoted(values['host'])}, but must be a loopback address (127.0.0.1, ::1 or"
            " localhost) while no MATINEE_STAFF_TOKEN is set: set it to 16 visible ASCII characters or more"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}...")
