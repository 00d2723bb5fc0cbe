"""The programme: what a timing means, whatever the clock does; and the file that theatres are read from."""

import datetime
import zoneinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service import programme as programme_module
from service.errors import ShowtimeNotFound, TheatreNotFound
from service.model import HORIZON_MS, Moment, Showtime, Theatre, rfc3339
from service.programme import (
    Programme,
    ProgrammeError,
    programme_from,
)
from service.settings import Settings

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TIMINGS = ("12:00", "15:00", "18:00", "21:00")


def theatre_in(zone: str, *timings: str) -> Theatre:
    return Theatre("main", "Main theatre", ZoneInfo(zone), 20, timings or TIMINGS)


def programme_in(zone: str, *timings: str) -> tuple[Programme, Theatre]:
    theatre = theatre_in(zone, *timings)
    return Programme([theatre], 8 * HOUR_MS), theatre


def instant(text: str) -> int:
    """Milliseconds of an RFC 3339 time."""
    return round(datetime.datetime.fromisoformat(text).timestamp() * 1000)


def labels(showtimes: list[Showtime]) -> list[str]:
    return [showtime.label for showtime in showtimes]


# A showtime and its times


def test_a_showtime_knows_its_start_its_tickets_end_and_its_own() -> None:
    programme, theatre = programme_in("Europe/Berlin")
    start_ms = instant("2026-11-24T17:00:00Z")
    moment = Moment(
        zone="Europe/Berlin",
        label="2026-11-24T18:00",
        timing="18:00",
        stored="20261124T1800",
        starts_ms=start_ms,
        expires_ms=start_ms + 8 * HOUR_MS,
        forgotten_ms=start_ms + 32 * HOUR_MS,
        starts_at="2026-11-24T18:00:00+01:00",
        expires_at="2026-11-25T02:00:00+01:00",
    )
    assert programme.showtime(theatre, "2026-11-24T18:00") == Showtime(theatre, moment)


def test_an_expiry_after_a_change_of_the_clock_has_the_offset_of_its_own_instant() -> None:
    programme, theatre = programme_in("Europe/Berlin")
    showtime = programme.showtime(theatre, "2026-10-24T21:00")  # the clock goes back at 3:00 that night
    assert showtime.starts_at == "2026-10-24T21:00:00+02:00"
    assert showtime.moment.expires_at == "2026-10-25T04:00:00+01:00"
    assert showtime.moment.expires_ms - showtime.starts_ms == 8 * HOUR_MS


def test_an_instant_is_written_to_the_second_below() -> None:
    assert rfc3339(1_764_000_000_999, ZoneInfo("Asia/Kathmandu")) == "2025-11-24T21:45:00+05:45"


# HH:MM: the next one that has not started


def test_a_clock_time_is_the_next_showtime_that_has_not_started() -> None:
    programme, theatre = programme_in("UTC")

    def resolve(now: str) -> str:
        return programme.resolve(theatre, "18:00", instant(now)).label

    assert resolve("2026-11-24T00:00:00Z") == "2026-11-24T18:00"
    assert resolve("2026-11-24T17:59:59.999Z") == "2026-11-24T18:00"
    assert resolve("2026-11-24T18:00:00Z") == "2026-11-25T18:00"
    assert resolve("2026-11-24T23:59:59Z") == "2026-11-25T18:00"


def test_a_clock_that_is_behind_the_one_asked_before_gets_its_own_answer() -> None:
    programme, theatre = programme_in("UTC")
    for now, label in [
        ("2026-11-24T18:00:00Z", "2026-11-25T18:00"),
        ("2026-11-24T17:59:59.999Z", "2026-11-24T18:00"),
        ("2026-11-24T18:00:00Z", "2026-11-25T18:00"),
        ("2026-11-20T09:00:00Z", "2026-11-20T18:00"),
    ]:
        assert programme.resolve(theatre, "18:00", instant(now)).label == label


@pytest.mark.parametrize(
    ("now", "timing", "label"),
    [
        ("2026-12-31T23:30:00Z", "18:00", "2027-01-01T18:00"),  # the year's end
        ("2028-02-28T20:00:00Z", "18:00", "2028-02-29T18:00"),  # a leap day
        ("2028-02-29T20:00:00Z", "18:00", "2028-03-01T18:00"),
        ("2027-02-28T20:00:00Z", "18:00", "2027-03-01T18:00"),  # no leap year
        ("2100-02-28T20:00:00Z", "18:00", "2100-03-01T18:00"),  # nor that one
        ("2026-11-24T23:59:59Z", "00:00", "2026-11-25T00:00"),  # midnight begins the day
        ("2026-11-25T00:00:00Z", "00:00", "2026-11-26T00:00"),
        ("2026-12-31T12:00:00Z", "00:00", "2027-01-01T00:00"),
        ("2026-11-24T23:58:59Z", "23:59", "2026-11-24T23:59"),
    ],
)
def test_dates_turn_where_the_calendar_turns(now: str, timing: str, label: str) -> None:
    programme, theatre = programme_in("UTC", "00:00", "18:00", "23:59")
    assert programme.resolve(theatre, timing, instant(now)).label == label


@pytest.mark.parametrize(
    ("zone", "label", "starts_at"),
    [
        ("Pacific/Kiritimati", "2026-11-25T18:00", "2026-11-25T18:00:00+14:00"),  # tomorrow already
        ("Pacific/Pago_Pago", "2026-11-24T18:00", "2026-11-24T18:00:00-11:00"),
        ("Asia/Kathmandu", "2026-11-24T18:00", "2026-11-24T18:00:00+05:45"),
    ],
)
def test_the_date_is_the_theatre_s_own(zone: str, label: str, starts_at: str) -> None:
    programme, theatre = programme_in(zone)
    showtime = programme.resolve(theatre, "18:00", instant("2026-11-24T11:00:00Z"))
    assert (showtime.label, showtime.starts_at) == (label, starts_at)
    assert showtime.starts_ms == instant(starts_at)


def test_a_clock_set_back_before_a_skipped_day_gets_its_own_answer_too() -> None:
    programme, theatre = programme_in("Pacific/Apia", "18:00")
    assert programme.resolve(theatre, "18:00", instant("2011-12-31T09:00:00+14:00")).label == "2011-12-31T18:00"
    assert programme.resolve(theatre, "18:00", instant("2011-12-20T09:00:00-10:00")).label == "2011-12-20T18:00"


# A label: that very showtime


def test_a_label_is_that_showtime_past_or_to_come() -> None:
    programme, theatre = programme_in("Europe/Berlin")
    now_ms = instant("2026-11-24T12:00:00Z")
    for label in ("2026-11-24T18:00", "2026-11-01T18:00", "2030-01-01T21:00", "2028-02-29T12:00"):
        assert programme.resolve(theatre, label, now_ms) == programme.showtime(theatre, label)


def test_a_time_that_is_not_in_the_programme_is_not_found_and_the_answer_lists_those_that_are() -> None:
    programme, theatre = programme_in("UTC")
    for timing in ("19:00", "2026-11-24T19:00"):
        with pytest.raises(ShowtimeNotFound) as caught:
            programme.resolve(theatre, timing, 0)
        assert caught.value.detail == (
            "Theatre main has no showtime at 19:00; its timings are 12:00, 15:00, 18:00, 21:00."
        )


def test_a_stored_ticket_s_showtime_outlives_the_programme_s_change() -> None:
    programme, theatre = programme_in("UTC")
    assert programme.showtime(theatre, "2026-11-24T19:30").starts_at == "2026-11-24T19:30:00+00:00"


MALFORMED_TIMINGS = [
    "",
    "1800",
    "18.00",
    "6:00",
    "018:00",
    "24:00",
    "18:60",
    "18:00:00",
    "18:00\n",
    " 18:00",
    "6 pm",
    "-1:00",
    "\u0661\u0668:\u0660\u0660",  # 18:00 in Arabic-Indic digits
    "\uff11\uff18:\uff10\uff10",  # and in full-width ones
    "18\uff1a00",  # a full-width colon
    "18:0\x00",
    "x" * 100_000,
]
MALFORMED_LABELS = [
    "2026-11-24",
    "2026-11-24 18:00",
    "2026-11-24t18:00",
    "2026-11-24T18:00Z",
    "2026-11-24T18:00:00",
    "2026-11-24T18:00\n",
    "2026-11-24T24:00",
    "2026-11-24T18:60",
    "2026-11-24T1800",
    "20261124T180000",
    "2026-W48-2T18:00",
    "2026-02-29T18:00",
    "2100-02-29T18:00",
    "2026-11-31T18:00",
    "2026-13-01T18:00",
    "2026-00-10T18:00",
    "1999-12-31T18:00",
    "3000-01-01T18:00",
    "0000-01-01T18:00",
    "\u0662\u0660\u0662\u0666-11-24T18:00",
    "2026-11-24T18:0\u0660",
]


@pytest.mark.parametrize("text", [*MALFORMED_TIMINGS, *MALFORMED_LABELS])
def test_malformed_text_is_refused_with_a_word_on_what_would_be_right(text: str) -> None:
    programme, theatre = programme_in("UTC")
    with pytest.raises(ValueError, match=r"^must be .*YYYY-MM-DDTHH:MM \(such as 2026-11-24T18:00") as caught:
        programme.resolve(theatre, text, 0)
    assert len(str(caught.value)) < 250
    with pytest.raises(ValueError, match=r"^must be YYYY-MM-DDTHH:MM"):
        programme.showtime(theatre, text)
    with pytest.raises(ValueError, match=r"^must be HH:MM"):
        programme.at_clock_time(theatre, text, 0, DAY_MS)


def test_a_clock_time_alone_is_no_label_and_a_label_is_no_clock_time() -> None:
    programme, theatre = programme_in("UTC")
    with pytest.raises(ValueError, match=r"^must be YYYY-MM-DDTHH:MM"):
        programme.showtime(theatre, "18:00")
    with pytest.raises(ValueError, match=r"^must be HH:MM"):
        programme.at_clock_time(theatre, "2026-11-24T18:00", 0, DAY_MS)


@given(st.text(max_size=20))
def test_any_text_is_a_showtime_not_found_or_a_value_error(text: str) -> None:
    programme, theatre = programme_in("UTC")
    try:
        showtime = programme.resolve(theatre, text, 0)
    except (ValueError, ShowtimeNotFound):
        return
    assert text in (showtime.label, showtime.timing)


# Changes of the clock

SKIPPED = [
    # zone, a skipped label, the next date that has the time, an instant of the day before
    ("Europe/Berlin", "2026-03-29T02:30", "2026-03-30T02:30", "2026-03-28T12:00:00Z"),
    ("America/New_York", "2026-03-08T02:00", "2026-03-09T02:00", "2026-03-07T12:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-05T02:15", "2026-10-03T03:00:00Z"),  # half an hour
    ("America/Havana", "2026-03-08T00:30", "2026-03-09T00:30", "2026-03-07T12:00:00Z"),  # right at midnight
    ("Pacific/Apia", "2011-12-30T18:00", "2011-12-31T18:00", "2011-12-30T04:30:00Z"),  # the whole day
]


@pytest.mark.parametrize(("zone", "skipped", "following", "before"), SKIPPED)
def test_a_time_that_the_clock_skips_is_no_showtime(zone: str, skipped: str, following: str, before: str) -> None:
    timing = skipped[-5:]
    programme, theatre = programme_in(zone, timing)
    now_ms = instant(before)
    assert programme.resolve(theatre, timing, now_ms).label == following
    with pytest.raises(ShowtimeNotFound) as caught:
        programme.resolve(theatre, skipped, now_ms)
    assert caught.value.detail == f"Theatre main has no showtime {skipped}: its clock skips that time."
    assert programme.showtimes_on(theatre, datetime.date.fromisoformat(skipped[:10])) == []
    found = labels(programme.starting_between(theatre, now_ms, now_ms + 3 * DAY_MS))
    assert skipped not in found
    assert following in found


@pytest.mark.parametrize(("zone", "skipped", "following", "before"), SKIPPED)
def test_a_ticket_sold_before_a_government_moved_the_change_still_has_its_showtime(
    zone: str, skipped: str, following: str, before: str
) -> None:
    programme, theatre = programme_in(zone)
    showtime = programme.showtime(theatre, skipped)
    assert showtime.label == skipped
    assert instant(before) < showtime.starts_ms < programme.showtime(theatre, following).starts_ms + 1


def test_only_the_skipped_times_of_a_day_are_missing() -> None:
    programme, theatre = programme_in("Europe/Berlin", "01:59", "02:00", "02:59", "03:00", "20:00")
    assert labels(programme.showtimes_on(theatre, datetime.date(2026, 3, 29))) == [
        "2026-03-29T01:59",
        "2026-03-29T03:00",
        "2026-03-29T20:00",
    ]


REPEATED = [
    # zone, a repeated label, its first instant, its second
    ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"),
    ("America/New_York", "2026-11-01T01:00", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-05T01:45", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"),
    ("America/Havana", "2026-11-01T00:30", "2026-11-01T04:30:00Z", "2026-11-01T05:30:00Z"),
]


@pytest.mark.parametrize(("zone", "label", "first", "second"), REPEATED)
def test_a_repeated_time_is_the_first_of_the_two(zone: str, label: str, first: str, second: str) -> None:
    timing = label[-5:]
    programme, theatre = programme_in(zone, timing)
    first_ms, second_ms = instant(first), instant(second)
    assert programme.showtime(theatre, label).starts_ms == first_ms
    assert programme.resolve(theatre, timing, first_ms - 1).label == label
    assert programme.resolve(theatre, timing, first_ms).label > label  # between the two: the next date's
    assert programme.resolve(theatre, timing, second_ms - 1).label > label
    assert labels(programme.starting_between(theatre, first_ms, second_ms)) == [label]


def test_a_clock_set_back_over_midnight_shows_a_date_twice_and_a_showtime_once() -> None:
    # At 00:01 on 29 October 2006 the clocks of Newfoundland went back to 23:01 of the 28th.
    programme, theatre = programme_in("America/St_Johns", "00:00", "23:30")
    midnight_ms = instant("2006-10-29T00:00:00-02:30")
    second_evening_ms = midnight_ms + HOUR_MS // 2
    assert rfc3339(second_evening_ms, theatre.timezone) == "2006-10-28T23:30:00-03:30"
    found = programme.starting_between(theatre, midnight_ms - HOUR_MS, second_evening_ms)
    assert labels(found) == ["2006-10-28T23:30", "2006-10-29T00:00"]
    assert programme.resolve(theatre, "00:00", second_evening_ms).label == "2006-10-30T00:00"
    assert programme.resolve(theatre, "23:30", second_evening_ms).label == "2006-10-29T23:30"


# Properties: any zone, any instant

ZONES = sorted(zoneinfo.available_timezones() - {"localtime"})
CLOCK_TIMES = [f"{hour:02}:{minute:02}" for hour in range(24) for minute in range(60)]
# Often near a change of the clock, where mistakes are; else anywhere in 2000 to 2099.
CHANGES = [instant(row[2] if row in REPEATED else row[3]) for row in [*SKIPPED, *REPEATED]]
INSTANTS = st.one_of(
    st.integers(instant("2000-01-04T00:00:00Z"), instant("2099-12-25T00:00:00Z")),
    st.builds(int.__add__, st.sampled_from(CHANGES), st.integers(-2 * DAY_MS, 2 * DAY_MS)),
)
THEATRES = st.builds(
    lambda zone, timings: theatre_in(zone, *sorted(timings)),
    st.one_of(st.sampled_from(ZONES), st.sampled_from([row[0] for row in [*SKIPPED, *REPEATED]])),
    st.sets(st.sampled_from(CLOCK_TIMES), min_size=1, max_size=6),
)


def starts_seen_on_the_clock(zone: ZoneInfo, timing: str, first_ms: int, last_ms: int) -> list[int]:
    """The rule taken literally: look at the clock each minute, note when it shows the time, once a date."""
    starts: dict[str, int] = {}
    # Two hours early, so that of a repeated time the first is noted.
    for minute_ms in range((first_ms - 2 * HOUR_MS) // 60_000 * 60_000, last_ms + 1, 60_000):
        shown = datetime.datetime.fromtimestamp(minute_ms // 1000, zone).isoformat()
        if shown[11:16] == timing:
            starts.setdefault(shown[:10], minute_ms)
    return [start_ms for start_ms in starts.values() if first_ms <= start_ms]


@given(THEATRES, st.lists(INSTANTS, min_size=1, max_size=4))
def test_resolve_is_the_earliest_showtime_after_now(theatre: Theatre, instants: list[int]) -> None:
    programme = Programme([theatre], 8 * HOUR_MS)  # one programme for all: what it keeps must not mislead it
    timing = theatre.timings[0]
    for now_ms in instants:
        showtime = programme.resolve(theatre, timing, now_ms)
        assert now_ms < showtime.starts_ms <= now_ms + 3 * DAY_MS
        span = starts_seen_on_the_clock(theatre.timezone, timing, now_ms + 1, showtime.starts_ms)
        assert span == [showtime.starts_ms]


@given(THEATRES, INSTANTS, st.integers(DAY_MS, 3 * DAY_MS))
def test_starting_between_finds_what_a_look_at_the_clock_each_minute_finds(
    theatre: Theatre, first_ms: int, length_ms: int
) -> None:
    last_ms = first_ms + length_ms
    timings = theatre.timings[:2]
    theatre = theatre_in(theatre.timezone.key, *timings)
    programme = Programme([theatre], 8 * HOUR_MS)
    seen = sorted(
        (start_ms, timing)
        for timing in timings
        for start_ms in starts_seen_on_the_clock(theatre.timezone, timing, first_ms, last_ms)
    )
    found = programme.starting_between(theatre, first_ms, last_ms)
    assert [(showtime.starts_ms, showtime.timing) for showtime in found] == seen
    at_first = programme.at_clock_time(theatre, timings[0], first_ms, last_ms)
    assert at_first == [showtime for showtime in found if showtime.timing == timings[0]]


@given(THEATRES, INSTANTS)
def test_a_label_and_its_instant_lead_to_each_other(theatre: Theatre, now_ms: int) -> None:
    programme = Programme([theatre], 8 * HOUR_MS)
    for timing in theatre.timings:
        showtime = programme.resolve(theatre, timing, now_ms)
        assert programme.resolve(theatre, showtime.label, now_ms) == showtime
        assert instant(showtime.starts_at) == showtime.starts_ms
        assert showtime.starts_at[:16] == showtime.label == rfc3339(showtime.starts_ms, theatre.timezone)[:16]
        assert instant(showtime.moment.expires_at) == showtime.moment.expires_ms


@given(THEATRES, st.dates(datetime.date(2000, 1, 1), datetime.date(2999, 12, 31)))
@example(theatre_in("Pacific/Kiritimati"), datetime.date(2000, 1, 1))
@example(theatre_in("Pacific/Pago_Pago"), datetime.date(2999, 12, 31))
def test_the_showtimes_of_a_date_are_in_start_order_and_lie_on_it(theatre: Theatre, date: datetime.date) -> None:
    programme = Programme([theatre], 365 * DAY_MS)
    showtimes = programme.showtimes_on(theatre, date)
    assert [showtime.starts_ms for showtime in showtimes] == sorted(s.starts_ms for s in showtimes)
    assert {showtime.label[:10] for showtime in showtimes} <= {date.isoformat()}


@pytest.mark.parametrize("date", [datetime.date.min, datetime.date(1999, 12, 31), datetime.date.max])
def test_a_date_far_from_now_is_refused(date: datetime.date) -> None:
    programme, theatre = programme_in("UTC")
    with pytest.raises(ValueError, match="years 2000 to 2999"):
        programme.showtimes_on(theatre, date)


# Lists


def test_starting_between_takes_both_ends_in() -> None:
    programme, theatre = programme_in("UTC")
    first_ms, last_ms = instant("2026-11-24T18:00:00Z"), instant("2026-11-25T12:00:00Z")
    assert labels(programme.starting_between(theatre, first_ms, last_ms)) == [
        "2026-11-24T18:00",
        "2026-11-24T21:00",
        "2026-11-25T12:00",
    ]
    assert labels(programme.starting_between(theatre, first_ms + 1, last_ms - 1)) == ["2026-11-24T21:00"]
    assert programme.starting_between(theatre, last_ms, first_ms) == []


def test_at_clock_time_lists_a_time_on_every_date_also_one_no_longer_in_the_programme() -> None:
    programme, theatre = programme_in("UTC")
    first_ms = instant("2026-11-24T19:30:00Z")
    found = programme.at_clock_time(theatre, "19:30", first_ms, first_ms + 2 * DAY_MS)
    assert labels(found) == ["2026-11-24T19:30", "2026-11-25T19:30", "2026-11-26T19:30"]


def test_the_horizon_is_seven_days_to_the_millisecond() -> None:
    programme, theatre = programme_in("Europe/Berlin")
    showtime = programme.showtime(theatre, "2026-10-26T18:00")  # the clock changed the day before: hours count
    assert HORIZON_MS == 168 * HOUR_MS
    assert not showtime.beyond_horizon(showtime.starts_ms - HORIZON_MS)
    assert showtime.beyond_horizon(showtime.starts_ms - HORIZON_MS - 1)
    assert not showtime.beyond_horizon(showtime.starts_ms + DAY_MS)


# Memory


def test_asking_for_many_labels_does_not_grow_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme_module, "MOMENTS_KEPT", 100)
    programme, theatre = programme_in("UTC", "18:00")
    for year in range(2000, 3000):
        programme.resolve(theatre, f"{year}-06-01T18:00", 0)
        programme.resolve(theatre, "18:00", instant(f"{max(year, 2001)}-06-01T00:00:00Z"))
        for text in (f"{year}", f"{year}-06-01T25:00"):
            with pytest.raises(ValueError, match="must be"):
                programme.resolve(theatre, text, 0)
        with pytest.raises(ShowtimeNotFound):
            programme.resolve(theatre, f"{year % 18:02}:30", 0)
    assert programme._moment.cache_info().currsize == 100
    assert list(programme._upcoming) == [(theatre.timezone, "18:00")]


def test_what_timings_mean_is_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme_module, "UPCOMING_KEPT", 2)
    programme, theatre = programme_in("UTC", "15:00", "18:00", "21:00")
    now_ms = instant("2026-11-24T12:00:00Z")
    for _ in range(2):
        found = [programme.resolve(theatre, timing, now_ms) for timing in theatre.timings]
        assert labels(found) == ["2026-11-24T15:00", "2026-11-24T18:00", "2026-11-24T21:00"]
        assert len(programme._upcoming) == 2


def test_a_moment_that_is_asked_for_again_is_not_made_again() -> None:
    programme, theatre = programme_in("UTC")
    now_ms = instant("2026-11-24T12:00:00Z")
    first = programme.resolve(theatre, "18:00", now_ms).moment
    assert programme.resolve(theatre, "18:00", now_ms + 1).moment is first
    assert programme.resolve(theatre, first.label, now_ms).moment is first
    assert programme.showtime(theatre, first.label).moment is first


def test_the_theatres_of_a_zone_share_its_moments_and_nothing_else() -> None:
    berlin, utc = ZoneInfo("Europe/Berlin"), ZoneInfo("UTC")
    rex = Theatre("rex", "Rex", berlin, 20, ("15:00", "18:00"), {"18:00": "Metropolis"})
    gloria = Theatre("gloria", "Gloria", berlin, 300, ("18:00", "21:00"), {"18:00": "Nosferatu"})
    odeon = Theatre("odeon", "Odeon", utc, 20, ("18:00",))
    programme = Programme([rex, gloria, odeon], 8 * HOUR_MS)
    now_ms, date = instant("2026-11-24T12:00:00+01:00"), datetime.date(2026, 11, 24)

    for find in (
        lambda theatre: programme.resolve(theatre, "18:00", now_ms),
        lambda theatre: programme.showtime(theatre, "".join(["2026-11-24", "T18:00"])),
    ):
        first, second, third = map(find, (rex, gloria, odeon))
        assert first.moment is second.moment
        assert third.starts_ms == first.starts_ms + HOUR_MS
        assert (first.theatre, second.theatre, third.theatre) == (rex, gloria, odeon)
        assert (first.film, second.film, third.film) == ("Metropolis", "Nosferatu", None)

    for theatre, timings in ((rex, ["15:00", "18:00"]), (gloria, ["18:00", "21:00"]), (odeon, ["18:00"])):
        for found in (
            programme.showtimes_on(theatre, date),
            programme.starting_between(theatre, now_ms, now_ms + DAY_MS - HOUR_MS),
        ):
            assert labels(found) == [f"2026-11-24T{timing}" for timing in timings]
            assert all(showtime.theatre is theatre for showtime in found)
    with pytest.raises(ShowtimeNotFound, match="Theatre gloria has no showtime at 15:00; its timings are 18:00, 21:00"):
        programme.resolve(gloria, "15:00", now_ms)


# Theatres


def test_the_first_theatre_is_meant_where_none_is_named() -> None:
    rex, gloria = (Theatre(name, name, ZoneInfo("UTC"), 20, TIMINGS) for name in ("rex", "gloria"))
    programme = Programme([rex, gloria], 8 * HOUR_MS)
    assert programme.theatre(None) is rex
    assert programme.theatre("gloria") is gloria
    assert list(programme.theatres) == ["rex", "gloria"]
    for unknown in ("", "Rex", "main", "x" * 100_000):
        with pytest.raises(TheatreNotFound) as caught:
            programme.theatre(unknown)
        assert caught.value.detail == "The programme has no theatre of that id."


def test_theatres_of_one_programme_have_their_own_zones_and_timings() -> None:
    apia = Theatre("apia", "Apia", ZoneInfo("Pacific/Apia"), 20, ("18:00",))
    pago = Theatre("pago", "Pago Pago", ZoneInfo("Pacific/Pago_Pago"), 20, ("18:00", "20:00"))
    programme = Programme([apia, pago], 8 * HOUR_MS)
    now_ms = instant("2026-11-24T00:00:00Z")
    assert programme.resolve(apia, "18:00", now_ms).starts_at == "2026-11-24T18:00:00+13:00"
    assert programme.resolve(pago, "18:00", now_ms).starts_at == "2026-11-23T18:00:00-11:00"
    with pytest.raises(ShowtimeNotFound):
        programme.resolve(apia, "20:00", now_ms)


def test_without_a_file_there_is_one_theatre_made_of_the_settings() -> None:
    settings = Settings.from_environment(
        {
            "MATINEE_TIMINGS": "20:15,17:00",
            "MATINEE_CAPACITY": "5",
            "MATINEE_TIMEZONE": "Asia/Kolkata",
            "MATINEE_TICKET_LIFE": "2h",
        }
    )
    programme = programme_from(settings)
    main = Theatre("main", "Main theatre", ZoneInfo("Asia/Kolkata"), 5, ("17:00", "20:15"))
    assert programme.theatres == {"main": main}
    assert programme.showtime(main, "2026-11-24T20:15").moment.expires_at == "2026-11-24T22:15:00+05:30"


# The programme file


def read(tmp_path: Path, text: str | bytes) -> Programme:
    file = tmp_path / "programme.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return programme_from(Settings.from_environment({"MATINEE_PROGRAMME": str(file)}))


def test_a_programme_file_lists_the_theatres(tmp_path: Path) -> None:
    programme = read(
        tmp_path,
        """
        [[theatre]]
        id = "rex-1"
        name = "Rex, großer Saal"
        timezone = "Europe/Berlin"
        capacity = 340
        timings = ["20:15", "17:00"]

        [[theatre]]
        id = "gloria"
        timings = ["18:00"]
        """,
    )
    assert list(programme.theatres.values()) == [
        Theatre("rex-1", "Rex, großer Saal", ZoneInfo("Europe/Berlin"), 340, ("17:00", "20:15")),
        Theatre("gloria", "gloria", ZoneInfo("UTC"), 20, ("18:00",)),
    ]
    assert programme.ticket_life_ms == 8 * HOUR_MS


def test_a_timing_may_name_its_film(tmp_path: Path) -> None:
    programme = read(
        tmp_path,
        """
        [[theatre]]
        id = "main"
        timings = [{at = "21:00", film = " Nosferatu "}, "12:00", {at = "18:00", film = "Metropolis"}]
        """,
    )
    main = programme.theatre("main")
    assert main.timings == ("12:00", "18:00", "21:00")
    assert main.films == {"18:00": "Metropolis", "21:00": "Nosferatu"}
    shown = {showtime.timing: showtime.film for showtime in programme.showtimes_on(main, datetime.date(2026, 11, 24))}
    assert shown == {"12:00": None, "18:00": "Metropolis", "21:00": "Nosferatu"}


def bad_theatre(**changes: str) -> str:
    fields = {"id": '"rex"', "timings": '["18:00"]'} | changes
    return "[[theatre]]\n" + "\n".join(f"{key} = {value}" for key, value in fields.items() if value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must hold [[theatre]] tables and nothing else: object missing required field `theatre`"),
        (
            "theatre = []",
            "must hold [[theatre]] tables and nothing else: theatre: expected `array` of length >= 1",
        ),
        (
            "theatre = 1",
            "must hold [[theatre]] tables and nothing else: theatre: expected `array`, got `int`",
        ),
        (
            "capacity = 3\n" + bad_theatre(),
            "must hold [[theatre]] tables and nothing else: object contains unknown field `capacity`",
        ),
        ("[[theatre]\n", "not TOML: "),
        (b'[[theatre]]\nid = "caf\xe9"', "must be UTF-8 text"),
        (bad_theatre(seats="20"), "theatre 1 ('rex'): object contains unknown field `seats`"),
        (bad_theatre(timings=""), "theatre 1 ('rex'): object missing required field `timings`"),
        (bad_theatre(id=""), "theatre 1 ('without id'): object missing required field `id`"),
        (bad_theatre(id="7"), "theatre 1 ('7'): id: expected `str`, got `int`"),
        (bad_theatre(capacity='"20"'), "theatre 1 ('rex'): capacity: expected `int`, got `str`"),
        (bad_theatre(capacity="true"), "theatre 1 ('rex'): capacity: expected `int`, got `bool`"),
        (bad_theatre(capacity="0"), "theatre 1 ('rex'): capacity: expected `int` >= 1"),
        (bad_theatre(capacity="100001"), "theatre 1 ('rex'): capacity: expected `int` <= 100000"),
        (bad_theatre(timings="[]"), "theatre 1 ('rex'): timings: must have at least one timing HH:MM"),
        (bad_theatre(timings="[18]"), "theatre 1 ('rex'): timings[0]: expected `str | object`, got `int`"),
        (bad_theatre(timings="[18:00:00]"), "theatre 1 ('rex'): timings[0]: expected `str | object`, got `time`"),
        (
            bad_theatre(timings='["18:00", "6:30"]'),
            "theatre 1 ('rex'): timings: must have timings HH:MM (24 h, such as 09:30 or 18:00), not '6:30'",
        ),
        (
            bad_theatre(timings='["18:00", "12:00", "18:00"]'),
            "theatre 1 ('rex'): timings: must have each timing once, 18:00 is repeated",
        ),
        (
            bad_theatre(timezone='"Europe/Berlim"'),
            "theatre 1 ('rex'): timezone: must be an IANA time zone, such as UTC or Europe/Berlin;"
            " did you mean Europe/Berlin?",
        ),
        (
            bad_theatre(timings='[{at = "18:00"}]'),
            "theatre 1 ('rex'): timings[0]: object missing required field `film`",
        ),
        (
            bad_theatre(timings='[{at = "18:00", film = " "}]'),
            "theatre 1 ('rex'): timings: the film at 18:00 must be 1 to 80 printable characters",
        ),
        (
            bad_theatre(timings='["18:00", {at = "18:00", film = "Metropolis"}]'),
            "theatre 1 ('rex'): timings: must have each timing once, 18:00 is repeated",
        ),
        (bad_theatre(name='" "'), "theatre 1 ('rex'): name: must be 1 to 80 printable characters"),
        (bad_theatre(name='"a\\nb"'), "theatre 1 ('rex'): name: must be 1 to 80 printable characters"),
        (bad_theatre(name=f'"{"x" * 81}"'), "theatre 1 ('rex'): name: must be 1 to 80 printable characters"),
        (
            bad_theatre() + "\n" + bad_theatre(),
            "theatre 2 ('rex'): id: must differ from that of every theatre before",
        ),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_the_theatre_and_the_field(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    with pytest.raises(ProgrammeError) as caught:
        read(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/programme.toml: {complaint}")
    assert "\n" not in line


@pytest.mark.parametrize(
    "theatre_id", ["", "Rex", "rex_1", "-rex", "rex-", "rex--1", "{rex}", "réx", "x" * 33, "rex\\n"]
)
def test_an_id_is_fit_for_keys_and_addresses(tmp_path: Path, theatre_id: str) -> None:
    with pytest.raises(ProgrammeError, match="id: must be 1 to 32 of a-z and 0-9 with single dashes between"):
        read(tmp_path, bad_theatre(id=f'"{theatre_id}"'))


def test_theatres_with_the_same_timings_share_them(tmp_path: Path) -> None:
    rex, gloria, odeon = (
        f'[[theatre]]\nid = "{name}"\ntimings = {timings}\n'
        for name, timings in (("rex", ["18:00", "21:00"]), ("gloria", ["21:00", "18:00"]), ("odeon", ["18:00"]))
    )
    theatres = read(tmp_path, rex + gloria + odeon).theatres
    assert theatres["rex"].timings is theatres["gloria"].timings
    assert theatres["odeon"].timings == ("18:00",)


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    file = tmp_path / "programme.toml"
    file.touch()
    settings = Settings.from_environment({"MATINEE_PROGRAMME": str(file)})
    file.unlink()
    with pytest.raises(ProgrammeError) as caught:
        programme_from(settings)
    assert str(caught.value) == f"{file}: can't be read: No such file or directory"
