"""What the server did, in its own order: read from its append-only file.

An answer over HTTP does not carry the version of its showtime. The server's append-only file has the effects of every
script as one transaction, in the order in which they took place, and so it tells the version that each call made, also
of those whose answer was lost.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import hiredis
import msgspec

from service.keys import spread
from tests.history.calls import Call, Kind


class Change(msgspec.Struct):
    """The effects of one script on seats: versions and counters are those of each showtime after it."""

    kind: Kind
    ticket_id: str
    showtime: str  # the one entered; for a cancellation, the one left
    versions: dict[str, int]
    booked: dict[str, int]
    name: str = ""
    phone: str = ""


def read_journal(folder: Path) -> list[Change]:
    """The changes in `folder`, an `appendonlydir` that was empty at the beginning and never rewritten.

    A last transaction that is not whole did not take place.
    """
    changes: list[Change] = []
    transaction: list[list[bytes]] | None = None
    for command in _commands(folder):
        if command == [b"MULTI"]:
            transaction = []
        elif command == [b"EXEC"]:
            changes += _changes_in(transaction or [])
            transaction = None
        elif transaction is not None:
            transaction.append(command)
    return changes


def _commands(folder: Path) -> Iterator[list[bytes]]:
    reader = hiredis.Reader()
    for part in sorted(folder.glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[-3])):
        with part.open("rb") as file:
            while piece := file.read(1 << 14):  # the reader moves all that it holds for each command
                reader.feed(piece)
                while (command := reader.gets()) is not False:
                    yield command


def _changes_in(transaction: Sequence[Sequence[bytes]]) -> Iterator[Change]:
    entered = left = ticket_id = None
    versions, booked, facts = {}, {}, {}
    for raw in transaction:
        name, *words = [word.decode() for word in raw]
        kind, _, rest = words[0].partition(":")[2].partition(":")
        if name == "ZADD" and rest.endswith(":tickets"):
            entered, ticket_id = spread(rest.removesuffix(":tickets")), words[2]
        elif name == "ZREM" and rest.endswith(":tickets"):
            left, ticket_id = spread(rest.removesuffix(":tickets")), words[1]
        elif name == "HSET" and kind == "showtime":
            seats = dict(zip(words[1::2], words[2::2], strict=True))
            if "version" in seats:
                versions[spread(rest)], booked[spread(rest)] = int(seats["version"]), int(seats["booked"])
        elif name == "HSET" and kind == "ticket":
            facts.update(zip(words[1::2], words[2::2], strict=True))
    if ticket_id is not None:
        did: Kind = "cancel" if entered is None else "book" if left is None else "move"
        person = facts.get("name", ""), facts.get("phone", "")
        yield Change(did, ticket_id, entered or left or "", versions, booked, *person)


def attest(calls: Sequence[Call], changes: Sequence[Change]) -> list[str]:
    """Give each call the versions that the journal has for it; return what the two disagree about.

    The phone of each booking is its own, and whoever holds a ticket sends its calls one after the other.
    """
    found: list[str] = []
    bookings = {call.phone: call for call in calls if call.kind == "book"}
    waiting: dict[str, deque[Call]] = defaultdict(deque)
    for call in calls:
        if call.kind in {"move", "cancel"}:
            waiting[str(call.ticket_id)].append(call)
    booked = set()
    for change in changes:
        call = bookings.get(change.phone) if change.kind == "book" else _next(waiting[change.ticket_id], change)
        what = f"{change.kind} {change.ticket_id} at {change.showtime}"
        if call is None:
            found.append(f"the journal has {what}, which nobody asked for")
            continue
        if change.kind == "book" and call.phone in booked:
            found.append(f"the journal has {what}, the second ticket of {call.name}")
            continue
        booked.add(call.phone)
        if call.outcome == "refused":
            found.append(f"{what} was refused ({call.code}), and the journal has it")
        if call.ticket_id not in (None, change.ticket_id):
            found.append(f"the journal has {what} for {call.name}, who was told of {call.ticket_id}")
        if change.kind == "book" and call.name != change.name:
            found.append(f"the journal has {what} for {change.name}, {call.name} asked for it")
        if call.versions and call.versions != change.versions:
            found.append(f"{what} was answered with {call.versions}, the journal has {change.versions}")
        call.ticket_id, call.versions = change.ticket_id, change.versions
    return found + list(_wrong_counters(changes))


def _next(waiting: deque[Call], change: Change) -> Call | None:
    """The call that this change is of, and none before it any more: its ticket's calls follow one another."""
    alike = [call for call in waiting if (call.kind, call.showtime) == (change.kind, change.showtime)]
    chosen = next((call for call in alike if call.outcome != "refused"), alike[0] if alike else None)
    while chosen is not None and waiting.popleft() is not chosen:
        pass
    return chosen


def _wrong_counters(changes: Sequence[Change]) -> Iterator[str]:
    seats: dict[str, set[str]] = defaultdict(set)
    for change in changes:
        for label, booked in change.booked.items():
            enters = change.kind != "cancel" and label == change.showtime
            (seats[label].add if enters else seats[label].discard)(change.ticket_id)
            if booked != len(seats[label]):
                yield f"{label}: at version {change.versions[label]} the counter is {booked} of {len(seats[label])} ids"
