"""Mends what an audit found, where that is safe, and tells of each finding what became of it.

Each repair is one script that looks again at what it is about to change, so a running service needs no pause: what has
changed since the audit is left alone. Safe is what the tickets themselves tell: they are listed where they say they
are, if there is a seat; an id is taken out where its ticket is cancelled or listed elsewhere; counters follow the ids;
and a key gets the expiry that it should have, by which what is overdue is deleted. A seat that was sold too often, a
ticket that is lost and whatever is no key of ours are left to people.
"""

from collections.abc import Iterable, Iterator

import redis

from service.audit import Disagreement
from service.keys import keys_of, showtime_keys, spread, ticket_key
from service.model import Showtime
from service.programme import Programme
from service.scripts import MEND_EXPIRY, MEND_SHOWTIME

FATES = {
    "listed": "it is listed again",
    "unlisted": "it is taken out of that list",
    "full": "left: its showtime has no seat for it",
    "kept": "left: it has changed since, or is listed nowhere else",
}


def repair(client: redis.Redis, programme: Programme, found: Iterable[Disagreement]) -> Iterator[tuple[str, bool]]:
    """Mend what can be mended safely; a line for each finding, and whether it is mended.

    Raises redis.RedisError where the server can't be reached.
    """
    by_page: dict[str, list[Disagreement]] = {}
    for disagreement in found:
        if disagreement.expiry is not None:
            yield _mend_expiry(client, disagreement)
        elif disagreement.page is not None:
            by_page.setdefault(disagreement.page, []).append(disagreement)
        else:
            yield f"{disagreement}: left to you", False
    # A ticket is listed where it belongs before it is taken out elsewhere.
    for page in sorted(by_page, key=lambda page: any(each.unlists for each in by_page[page])):
        showtime = _showtime(programme, page)
        if showtime is None:
            yield from ((f"{each}: left: it is not of a theatre of the programme", False) for each in by_page[page])
        else:
            yield from _mend_showtime(client, showtime, by_page[page])


def _showtime(programme: Programme, page: str) -> Showtime | None:
    theatre_id, _, showtime = page.removeprefix("{").partition("}:showtime:")
    try:
        return programme.showtime(programme.theatres[theatre_id], spread(showtime))
    except (KeyError, ValueError):
        return None


def _mend_expiry(client: redis.Redis, disagreement: Disagreement) -> tuple[str, bool]:
    expiry = disagreement.expiry
    assert expiry is not None  # noqa: S101  the caller chose those that have one
    try:
        [fate] = client.eval(MEND_EXPIRY.source, 1, expiry.key, str(expiry.at_ms), str(expiry.seen_ms))
    except redis.ResponseError as error:
        return f"{disagreement}: left: {error}", False
    mended = fate == b"mended"
    return f"{disagreement}: {'it expires as it should' if mended else 'left: it has changed since'}", mended


def _mend_showtime(client: redis.Redis, showtime: Showtime, wrong: list[Disagreement]) -> Iterator[tuple[str, bool]]:
    theatre = showtime.theatre
    questions = [each for each in wrong if each.lists or each.unlists]
    ids = [each.lists or each.unlists or "" for each in questions]
    keys = list(keys_of(showtime))
    try:
        for ticket_id in ids:
            key = ticket_key(theatre.id, ticket_id)
            named = client.hget(key, "showtime")
            elsewhere = spread(named.decode()) if isinstance(named, bytes) else showtime.label
            keys += [key, showtime_keys(theatre.id, elsewhere)[1]]
        facts = (showtime.moment.stored, str(theatre.capacity), str(showtime.moment.forgotten_ms), theatre.timezone.key)
        reply = client.eval(MEND_SHOWTIME.source, len(keys), *keys, *facts, *ids)
    except redis.ResponseError as error:
        yield from ((f"{each}: left: {error}", False) for each in wrong)
        return
    _, _, booked, _, *fates = reply
    for question, fate in zip(questions, map(bytes.decode, fates), strict=True):
        yield f"{question}: {FATES[fate]}", fate in {"listed", "unlisted"}
    for each in wrong:
        if each not in questions:
            yield f"{each}: counted anew, {booked} booked", True
