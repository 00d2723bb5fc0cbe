"""What is in Redis when a run is over."""

import msgspec
import redis

from service.keys import spread


class Stored(msgspec.Struct, frozen=True):
    """A ticket as it is stored. `left_version` is what its last move gave the showtime that it left."""

    showtime: str
    name: str
    phone: str
    left_version: int | None


class Ending(msgspec.Struct):
    """The tickets, the tombstones of cancelled ones (id → version), and of each showtime counter, version and ids.

    The ids come with their scores: the versions that put them there.
    """

    tickets: dict[str, Stored] = {}
    tombstones: dict[str, int] = {}
    booked: dict[str, int] = {}
    versions: dict[str, int] = {}
    ids: dict[str, dict[str, int]] = {}


def read_ending(client: redis.Redis, theatre: str = "main") -> Ending:
    """Read all of a theatre's keys; nothing may change them meanwhile. `client` answers in bytes."""
    ending = Ending()
    for raw in sorted(set(client.scan_iter(match=f"{{{theatre}}}:*", count=1000))):
        kind, _, rest = raw.decode().partition(":")[2].partition(":")
        if kind == "showtime" and rest.endswith(":tickets"):
            ids = client.zrange(raw, 0, -1, withscores=True)
            ending.ids[spread(rest.removesuffix(":tickets"))] = {each.decode(): int(score) for each, score in ids}
        elif kind == "showtime":
            seats = client.hgetall(raw)
            ending.booked[spread(rest)] = int(seats[b"booked"])
            ending.versions[spread(rest)] = int(seats[b"version"])
        elif kind == "ticket":
            facts = {field.decode(): value.decode() for field, value in client.hgetall(raw).items()}
            if "cancelled" in facts:
                ending.tombstones[rest] = int(facts["version"])
            else:
                left = facts.get("left_version")
                ending.tickets[rest] = Stored(
                    spread(facts["showtime"]), facts["name"], facts["phone"], int(left) if left else None
                )
    return ending
