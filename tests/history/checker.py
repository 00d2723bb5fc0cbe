"""Whether a box office that does everything one after the other could have told its clients what they were told.

Each change gives its showtimes new versions, one more each time. So nothing has to be searched: in the order of the
versions the changes are replayed on the model, and whatever was answered before another call was sent must have the
lower version. That takes as long as it takes to sort them.

    found = check(calls, ending, capacity=20)       # what is wrong, a line each; nothing is right

The clients keep to two rules. A ticket is in one hand: its calls follow one another. And after an unknown outcome
that hand leaves the ticket alone; so what became of it can be seen at the end, and a version that neither an answer
nor such a ticket explains is a change that nobody asked for.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from tests.history.calls import Call
from tests.history.ending import Ending
from tests.history.model import Showtime


class _Step(msgspec.Struct, frozen=True):
    """What one call did to one showtime."""

    version: int
    call: Call
    enters: bool


def check(calls: Sequence[Call], ending: Ending, capacity: int) -> list[str]:
    """Everything that is wrong with a history; gives calls the versions that only the ending knows."""
    found: list[str] = []
    for call in calls:
        _complete(call, ending)
    steps = _by_showtime(calls)
    showtimes: dict[str, Showtime] = defaultdict(lambda: Showtime(capacity))
    for label, changes in steps.items():
        for step in sorted(changes, key=lambda step: step.version):
            wrong = showtimes[label].change(step.version, str(step.call.ticket_id), enters=step.enters)
            if wrong:
                found.append(f"{label}: {wrong}")
    looks: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        found += _wrong_answer(call, ending)
        if call.seen is not None or call.code == "sold_out":
            looks[call.showtime].append(call)
    for label in sorted(steps.keys() | looks.keys()):
        found += _wrong_times(label, steps[label], looks[label], showtimes[label])
    found += _wrong_ending(calls, ending, showtimes)
    return found


def _complete(call: Call, ending: Ending) -> None:
    """Give a change without versions those that the ending shows: an unknown outcome that was done after all."""
    if call.versions or not call.changes or call.outcome == "refused":
        return
    ticket = ending.tickets.get(call.ticket_id or "")
    if call.kind == "cancel" and call.ticket_id in ending.tombstones:
        call.versions = {call.showtime: ending.tombstones[call.ticket_id]}
    elif ticket is not None and ticket.showtime == call.showtime and call.kind != "cancel":
        score = ending.ids.get(call.showtime, {}).get(call.ticket_id or "", 0)
        call.versions = {call.showtime: score}
        if call.left is not None:
            call.versions[call.left] = ticket.left_version or 0


def _by_showtime(calls: Iterable[Call]) -> dict[str, list[_Step]]:
    steps: dict[str, list[_Step]] = defaultdict(list)
    for call in calls:
        for label, version in call.versions.items():
            if call.changes:
                steps[label].append(_Step(version, call, enters=call.kind != "cancel" and label == call.showtime))
    return steps


def _wrong_answer(call: Call, ending: Ending) -> Iterator[str]:
    """What a single answer shows to be wrong."""
    who = f"{call.kind} {call.ticket_id or call.name} at {call.showtime}"
    if call.code in {"internal", "no_retry_after"}:
        yield f"{who}: the service failed ({call.code})"
    if call.ticket_id is not None and call.code in {"ticket_not_found", "ticket_expired"}:
        yield f"{who}: its holder was told {call.code}"
    if call.told not in ("", f"{call.name} at {call.showtime}"):
        yield f"{who}: its holder was shown {call.told}"
    if call.changes and call.outcome == "done" and not call.versions:
        yield f"{who}: answered as done, and nothing shows that it was"
    if call.kind == "book" and call.outcome == "refused" and call.ticket_id in ending.tickets:
        yield f"{who}: refused ({call.code}), and it was done"


def _wrong_times(label: str, steps: list[_Step], looks: list[Call], showtime: Showtime) -> Iterator[str]:
    """What was answered before another call was sent has the lower version; a look sees a state of its own time."""
    by_answer = [(step.call.answered, step.version) for step in steps if step.call.outcome == "done"]
    by_answer += [(look.answered, look.versions[label]) for look in looks if label in look.versions]
    by_answer.sort()
    answers = [at for at, _ in by_answer]
    highest = list(itertools.accumulate((version for _, version in by_answer), max, initial=0))
    by_sending = sorted((step.call.sent, step.version) for step in steps)
    sendings = [at for at, _ in by_sending]
    lowest = list(
        itertools.accumulate((version for _, version in reversed(by_sending)), min, initial=showtime.version + 1)
    )
    lowest.reverse()
    for step in steps:
        known = highest[bisect.bisect_left(answers, step.call.sent)]
        if step.version <= known:
            who = f"{step.call.kind} {step.call.ticket_id}"
            yield f"{label}: {who} has version {step.version}, and {known} was answered before it was sent"
    for look in looks:
        # The versions that were current at some moment between sending and answer.
        first = highest[bisect.bisect_left(answers, look.sent)]
        last = min(lowest[bisect.bisect_right(sendings, look.answered)] - 1, showtime.version)
        if label in look.versions:
            version = look.versions[label]
            if not first <= version <= last:
                yield f"{label}: a look saw version {version}, when it was {first} to {last}"
            first = last = min(version, showtime.version)
        counts = showtime.counts[first : last + 1]
        if look.seen is not None and look.seen not in counts:
            yield f"{label}: a look saw {look.seen} seats taken, when it was {_span(counts)} (versions {first}-{last})"
        if look.code == "sold_out" and max(counts, default=0) < showtime.capacity:
            yield f"{label}: told sold out, when {_span(counts)} of {showtime.capacity} seats were taken"


def _wrong_ending(calls: Iterable[Call], ending: Ending, showtimes: dict[str, Showtime]) -> Iterator[str]:
    """Counters, ids and tickets are those of the replay, and each ticket is in its own name."""
    for label in sorted(showtimes.keys() | ending.booked.keys() | ending.ids.keys()):
        expected, listed = showtimes[label].tickets, ending.ids.get(label, {}).keys()
        stored = {each for each, ticket in ending.tickets.items() if ticket.showtime == label}
        booked, version = ending.booked.get(label, 0), ending.versions.get(label, 0)
        if booked != len(expected):
            yield f"{label}: the counter is {booked}, {len(expected)} seats are taken"
        if version != showtimes[label].version:
            yield f"{label}: the version is {version}, the last change's {showtimes[label].version}"
        for what, ids in (("listed", listed), ("stored", stored)):
            yield from (f"{label}: {each} is not {what}" for each in sorted(expected - ids))
            yield from (f"{label}: {each} is {what}, and has no seat" for each in sorted(ids - expected))
    for call in calls:
        ticket = ending.tickets.get(call.ticket_id or "")
        if call.kind == "book" and ticket is not None and (ticket.name, ticket.phone) != (call.name, call.phone):
            yield f"{call.ticket_id}: booked by {call.name}, stored for {ticket.name}"


def _span(counts: Sequence[int]) -> str:
    return " to ".join(map(str, sorted({min(counts, default=0), max(counts, default=0)})))
