"""The settings: what each variable may be, and what the operator reads where it is not."""

import os
import string
import sys
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool

from service.settings import VARIABLES, Settings, SettingsError, describe, is_loopback

TOKEN = "correct-horse-battery"


def read(**variables: str) -> Settings:
    return Settings.from_environment({f"MATINEE_{name}": text for name, text in variables.items()})


def complaints(**variables: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        read(**variables)
    return str(caught.value).splitlines()


def test_with_nothing_set_the_service_runs_on_loopback_with_the_embedded_server() -> None:
    settings = Settings.from_environment({"PATH": "/usr/bin"})
    assert settings == Settings(
        host="127.0.0.1",
        port=5000,
        redis_url=None,
        data_dir=Path("data"),
        workers=min(len(os.sched_getaffinity(0)), 64),
        programme=None,
        timings=("12:00", "15:00", "18:00", "21:00"),
        capacity=20,
        timezone=ZoneInfo("UTC"),
        staff_token=None,
        ticket_life_ms=8 * 3_600_000,
        durability="always",
        wait_replicas=0,
        share_port=False,
        log_format="auto",
        access_log=False,
    )
    assert settings.protected


def test_every_variable_may_be_set() -> None:
    settings = read(
        HOST="0.0.0.0",
        PORT="8080",
        REDIS_URL="rediss://matinee:secret@redis.example:6380/1?ssl_ca_certs=/etc/ca.pem",
        DATA_DIR="/var/lib/matinee",
        WORKERS="1",
        TIMINGS="20:15, 09:30",
        CAPACITY="100000",
        TIMEZONE="Europe/Berlin",
        STAFF_TOKEN=TOKEN,
        TICKET_LIFE="90m",
        WAIT_REPLICAS="2",
        SHARE_PORT="on",
        LOG_FORMAT="json",
        ACCESS_LOG="on",
    )
    assert settings == Settings(
        host="0.0.0.0",
        port=8080,
        redis_url="rediss://matinee:secret@redis.example:6380/1?ssl_ca_certs=/etc/ca.pem",
        data_dir=Path("/var/lib/matinee"),
        workers=1,
        programme=None,
        timings=("09:30", "20:15"),
        capacity=100_000,
        timezone=ZoneInfo("Europe/Berlin"),
        staff_token=TOKEN,
        ticket_life_ms=90 * 60_000,
        durability="always",
        wait_replicas=2,
        share_port=True,
        log_format="json",
        access_log=True,
    )
    assert not settings.protected


def test_an_empty_value_counts_as_unset() -> None:
    empty = {variable.name: "" for variable in VARIABLES}
    assert Settings.from_environment(empty) == Settings.from_environment({})


def test_every_default_shows_in_the_table_and_can_be_written_as_it_shows() -> None:
    table = describe().splitlines()
    assert len(table) == len(VARIABLES) + 1
    for line, variable in zip(table[1:], VARIABLES, strict=True):
        assert line.split()[:2] == [variable.name, variable.default or "(unset)"]
        assert line.endswith(variable.meaning)
    written = {variable.name: variable.default for variable in VARIABLES if variable.default}
    assert Settings.from_environment(written) == Settings.from_environment({})
    columns = {line.index(variable.meaning) for line, variable in zip(table[1:], VARIABLES, strict=True)}
    assert columns == {table[0].index("MEANING")}


def test_the_table_holds_each_field_of_the_settings_once() -> None:
    assert tuple(variable.field for variable in VARIABLES) == Settings.__struct_fields__


def test_all_bad_values_are_told_at_once_each_on_its_line() -> None:
    lines = complaints(PORT="seventy", CAPACITY="0", TIMEZONE="Berlin", TICKET_LIFE="8 hours")
    assert lines == [
        "MATINEE_PORT is 'seventy', but must be a whole number from 1 to 65535",
        "MATINEE_CAPACITY is '0', but must be a whole number from 1 to 100000",
        "MATINEE_TIMEZONE is 'Berlin', but must be an IANA time zone, such as UTC or Europe/Berlin;"
        " did you mean Europe/Berlin?",
        "MATINEE_TICKET_LIFE is '8 hours', but must be a whole number with s, m, h or d, such as 90m or 8h,"
        " from 1s to 365d",
    ]


@pytest.mark.parametrize(
    ("typo", "closest"),
    [
        ("MATINEE_PROT", "MATINEE_PORT"),
        ("MATINEE_STAFFTOKEN", "MATINEE_STAFF_TOKEN"),
        ("MATINEE_TIMING", "MATINEE_TIMINGS"),
    ],
)
def test_a_misspelt_variable_does_not_pass_silently(typo: str, closest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({typo: ""})
    assert str(caught.value) == f"'{typo}' is no setting of Matinee; the closest is {closest}"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HOST", "0.0.0.0:5000"),
        ("HOST", "[::1]"),
        ("HOST", "127.1"),
        ("HOST", "http://example.org"),
        ("HOST", "two words"),
        ("HOST", "-dash.example"),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("LOG_FORMAT", "JSON"),
        ("ACCESS_LOG", "yes"),
        ("PORT", "5000.0"),
        ("PORT", "5_000"),
        ("PORT", "\u0665\u0660\u0660\u0660"),  # 5000 in Arabic-Indic digits
        ("PORT", "9" * 5000),
        ("WORKERS", "0"),
        ("WORKERS", "65"),
        ("WORKERS", "many"),
        ("PROGRAMME", "/nowhere/programme.toml"),
        ("PROGRAMME", "/"),
        ("DATA_DIR", __file__),
        ("TIMINGS", ","),
        ("TIMINGS", "24:00"),
        ("TIMINGS", "9:30"),
        ("TIMINGS", "18:60"),
        ("TIMINGS", "18:00:00"),
        ("TIMINGS", "\u0661\u0668:\u0660\u0660"),  # 18:00 likewise
        ("TIMINGS", "12:00,18:00,12:00"),
        ("CAPACITY", "100001"),
        ("CAPACITY", "1e3"),
        ("TIMEZONE", "localtime"),
        ("TIMEZONE", "../../etc/passwd"),
        ("TIMEZONE", "/etc/localtime"),
        ("TIMEZONE", "America"),
        ("TIMEZONE", "right/UTC"),
        ("TIMEZONE", "Z" * 5000),
        ("TICKET_LIFE", "8"),
        ("TICKET_LIFE", "0s"),
        ("TICKET_LIFE", "500ms"),
        ("TICKET_LIFE", "1.5h"),
        ("TICKET_LIFE", "366d"),
        ("TICKET_LIFE", "\u0668h"),
        ("DURABILITY", "sometimes"),
        ("DURABILITY", "Always"),
        ("WAIT_REPLICAS", "17"),
        ("WAIT_REPLICAS", "all"),
        ("SHARE_PORT", "yes"),
        ("SHARE_PORT", "ON"),
    ],
)
def test_a_bad_value_is_refused_with_what_it_may_be(name: str, text: str) -> None:
    [line] = complaints(**{name: text})
    assert line.startswith(f"MATINEE_{name} is '")
    assert ", but must " in line
    assert len(line) < 300


@pytest.mark.parametrize(
    ("text", "life_ms"),
    [("1s", 1000), ("90m", 5_400_000), ("8h", 28_800_000), ("365d", 31_536_000_000), ("08h", 28_800_000)],
)
def test_a_ticket_life_has_its_unit(text: str, life_ms: int) -> None:
    assert read(TICKET_LIFE=text).ticket_life_ms == life_ms


def test_there_are_no_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)))
    assert read(WORKERS="4").workers == read().workers == read(WORKERS="auto").workers == 4
    assert complaints(WORKERS="5") == [
        "MATINEE_WORKERS is '5', but must be auto or a whole number from 1 to 4: this machine has 4 cores"
    ]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)))
    assert read().workers == 64


def test_where_a_system_cannot_tell_a_process_s_cores_those_of_the_machine_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert read().workers == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert read().workers == 1


# Protected mode


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost", "LOCALHOST"])
def test_without_a_token_it_listens_on_loopback(host: str) -> None:
    assert is_loopback(host)
    assert read(HOST=host).protected


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "cinema.example", "128.0.0.1", "2001:db8::1"])
def test_without_a_token_no_other_address_will_do(host: str) -> None:
    assert not is_loopback(host)
    assert complaints(HOST=host) == [
        f"MATINEE_HOST is '{host}', but must be a loopback address (127.0.0.1, ::1 or localhost) while no"
        " MATINEE_STAFF_TOKEN is set: set it to 16 visible ASCII characters or more"
    ]
    assert read(HOST=host, STAFF_TOKEN=TOKEN).host == host


def test_a_bad_token_is_the_only_complaint_on_an_open_address() -> None:
    assert complaints(HOST="0.0.0.0", STAFF_TOKEN="hush") == [
        "MATINEE_STAFF_TOKEN must be at least 16 visible ASCII characters, without spaces"
    ]


# Secrets


@pytest.mark.parametrize("token", ["short-and-secret", "x" * 200, string.punctuation])
def test_a_token_has_16_visible_characters_or_more(token: str) -> None:
    assert read(STAFF_TOKEN=token).staff_token == token


@pytest.mark.parametrize(
    "token", ["hush-hush-hush!", "hush hush hush hush", "hush\thush-hush-hush", "hüsh-hush-hush-hush"]
)
def test_a_bad_token_is_refused_and_not_shown(token: str) -> None:
    [line] = complaints(STAFF_TOKEN=token)
    assert line.startswith("MATINEE_STAFF_TOKEN must be at least 16 visible ASCII characters")
    assert token not in line
    assert "sh" not in line.removeprefix("MATINEE_STAFF_TOKEN")


def test_settings_can_be_printed_without_their_secrets() -> None:
    settings = read(REDIS_URL="redis://matinee:s3cret@redis.example:6379/1", STAFF_TOKEN=TOKEN, PORT="8080")
    for printed in (repr(settings), str(settings), str(settings.__rich_repr__())):
        assert TOKEN not in printed
        assert "s3cret" not in printed
        assert "redis://***@redis.example:6379/1" in printed
        assert "8080" in printed


GOOD_URLS = [
    "redis://redis.example",
    "redis://redis.example/",
    "redis://127.0.0.1:6379/15",
    "redis://[::1]:6379?db=3",
    "redis://:p%2Fss@redis.example:6379",
    "rediss://u:p@redis.example?ssl_cert_reqs=required&ssl_check_hostname=true",
    "unix:///run/redis.sock",
    "unix://u:p@/run/redis.sock?db=2",
]


@pytest.mark.parametrize("url", GOOD_URLS)
def test_a_redis_url_names_a_server_and_holds_nothing_that_redis_py_does_not_know(url: str) -> None:
    assert read(REDIS_URL=url).redis_url == url
    ConnectionPool.from_url(url).make_connection()  # raises for an option it doesn't know; connects nowhere


@pytest.mark.parametrize(
    "url",
    [
        "s3cret",
        "http://:s3cret@redis.example",
        "valkey://:s3cret@redis.example",
        "redis://",
        "redis://:s3cret@",
        "redis://:s3/cret@redis.example",
        "redis://:s3#cret@redis.example",
        "redis://:1?s3cret@redis.example",
        "redis://:s3cret@redis.example:port",
        "redis://:s3cret@redis.example:0",
        "redis://:s3cret@redis.example:65536",
        "redis://:s3cret@redis.example/main",
        "redis://:s3cret@redis.example/1/2",
        "redis://:s3cret@redis.example?db=main",
        "redis://:s3cret@redis.example?decode_responses=true",
        "redis://redis.example?password=s3cret",
        "redis://:s3cret@redis.example?ssl_cert_reqs=none",
        "redis://:s3cret@[::1",
        "redis://:s3cret @redis.example",
        "redis://:s3cret\n@redis.example",
        "unix://:s3cret@",
        "unix://:s3cret@redis.sock",
        "unix://:s3cret@/" + "long/" * 30 + "redis.sock",
        "unix://:s3cret@/run/redis.sock?ssl_cert_reqs=none",
    ],
)
def test_a_bad_redis_url_is_refused_without_showing_it(url: str) -> None:
    [line] = complaints(REDIS_URL=url)
    assert line.startswith("MATINEE_REDIS_URL must ")
    assert "s3" not in line
    assert "cret" not in line


# One programme


def test_a_programme_file_stands_alone(tmp_path: Path) -> None:
    file = tmp_path / "programme.toml"
    file.touch()
    assert read(PROGRAMME=str(file)).programme == file
    assert complaints(PROGRAMME=str(file), TIMINGS="18:00", CAPACITY="30", TIMEZONE="UTC") == [
        f"MATINEE_{name} must be unset where MATINEE_PROGRAMME is: that file says it for each theatre"
        for name in ("TIMINGS", "CAPACITY", "TIMEZONE")
    ]


# One server


def test_how_a_server_of_one_s_own_flushes_is_not_ours_to_say() -> None:
    assert read(DURABILITY="everysec").durability == "everysec"
    assert complaints(DURABILITY="always", REDIS_URL="redis://redis.example") == [
        "MATINEE_DURABILITY must be unset where MATINEE_REDIS_URL is: that server's appendfsync says it"
    ]


def test_the_embedded_server_has_no_replicas_to_wait_for() -> None:
    assert complaints(WAIT_REPLICAS="1") == [
        "MATINEE_WAIT_REPLICAS must be 0 while MATINEE_REDIS_URL is unset: the embedded server has no replicas"
    ]
    assert read(WAIT_REPLICAS="0").wait_replicas == 0
    assert read(WAIT_REPLICAS="1", REDIS_URL="redis://redis.example").wait_replicas == 1


def test_the_port_is_not_shared_by_those_who_would_share_the_embedded_server() -> None:
    assert complaints(SHARE_PORT="on") == [
        "MATINEE_SHARE_PORT must be off while MATINEE_REDIS_URL is unset: "
        "the embedded server belongs to one start of the service"
    ]
    assert not read(SHARE_PORT="off").share_port
    assert read(SHARE_PORT="on", REDIS_URL="redis://redis.example").share_port


def test_the_port_is_shared_on_linux_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert complaints(SHARE_PORT="on", REDIS_URL="redis://redis.example") == [
        "MATINEE_SHARE_PORT is 'on', but must be off on this system: "
        "only Linux spreads connections over those that share a port"
    ]


@given(
    st.dictionaries(
        st.sampled_from([variable.name for variable in VARIABLES]),
        st.text(max_size=20).filter(lambda t: t != ""),
    )
)
def test_any_text_is_read_or_refused_by_name(environ: dict[str, str]) -> None:
    try:
        settings = Settings.from_environment(environ)
    except SettingsError as error:
        for line in str(error).splitlines():
            assert line.startswith(tuple(environ)), line
    else:
        assert isinstance(settings, Settings)
