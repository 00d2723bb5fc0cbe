"""The theatres by id, in pages, searched by name. Pure.

A search looks for a piece of the name, without regard to case and accents: `koln` finds `Kino Köln`. Letters that are
no accented forms for Unicode (ø, ł, ß but for its `ss`) stay themselves. All names stand in one text, so that one
search of ten thousand theatres is one call, not ten thousand.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Self

import msgspec

from service.model import Theatre

# `<` or `>` and a theatre's id, each character as two hexadecimal digits.
CURSOR = r"^3[ce](?:2d|3[0-9]|6[1-9a-f]|7[0-9a]){1,32}$"
_CURSOR = re.compile(CURSOR)


class Cursor(msgspec.Struct, frozen=True):
    """A place between theatres: after that id, or, on the way `back`, before it; whether that theatre exists or not."""

    theatre_id: str
    back: bool = False

    @property
    def text(self) -> str:
        """As a client carries it, without a meaning for it."""
        return f"{'<' if self.back else '>'}{self.theatre_id}".encode().hex()

    @classmethod
    def read(cls, text: str) -> Self:
        """The inverse of `text`; raises ValueError ("must be ...") for anything else."""
        if not _CURSOR.fullmatch(text):
            raise ValueError("must be the cursor of a link that an earlier answer gave in its Link header")
        place = bytes.fromhex(text).decode()
        return cls(place[1:], place[0] == "<")


class Page(msgspec.Struct, frozen=True):
    """Some theatres in order of id, and where the pages before and after begin; None where there is none."""

    theatres: list[Theatre]
    previous: Cursor | None = None
    next: Cursor | None = None


class Directory:
    """Theatres with different ids."""

    def __init__(self, theatres: Iterable[Theatre]) -> None:
        self._theatres = sorted(theatres, key=lambda theatre: theatre.id)
        self._ids = [theatre.id for theatre in self._theatres]
        names = [_folded(theatre.name) for theatre in self._theatres]
        self._names = "\n".join(names)
        self._begins = array("L", [0])  # where each name begins in the text, and where the text is over
        for name in names:
            self._begins.append(self._begins[-1] + len(name) + 1)

    def page(self, limit: int, name: str = "", cursor: Cursor | None = None) -> Page:
        """Up to `limit` theatres whose name contains `name`, from `cursor` on (None: from the first)."""
        piece = _folded(name)
        if cursor is not None and cursor.back:
            found = list(islice(self._backward(piece, bisect_left(self._ids, cursor.theatre_id)), limit))[::-1]
        else:
            begin = 0 if cursor is None else bisect_right(self._ids, cursor.theatre_id)
            found = list(islice(self._forward(piece, begin), limit))
        if not found:
            return Page([])
        first, last = found[0], found[-1]
        return Page(
            [self._theatres[number] for number in found],
            Cursor(self._ids[first], back=True) if any(True for _ in self._backward(piece, first)) else None,
            Cursor(self._ids[last]) if any(True for _ in self._forward(piece, last + 1)) else None,
        )

    def _forward(self, piece: str, number: int) -> Iterator[int]:
        """The theatres from `number` on, in order, whose names contain the piece."""
        if not piece:
            yield from range(number, len(self._ids))
            return
        while (at := self._names.find(piece, self._begins[number])) >= 0:
            number = bisect_right(self._begins, at) - 1
            yield number
            number += 1

    def _backward(self, piece: str, number: int) -> Iterator[int]:
        """The same before `number`, the nearest first."""
        if not piece:
            yield from range(number - 1, -1, -1)
            return
        while number and (at := self._names.rfind(piece, 0, self._begins[number] - 1)) >= 0:
            number = bisect_right(self._begins, at) - 1
            yield number


def _folded(text: str) -> str:
    """Without case, accents and doubled spaces. NFKD parts letters and their accents (combining marks)."""
    parted = unicodedata.normalize("NFKD", text.casefold())
    return " ".join("".join([mark for mark in parted if not unicodedata.combining(mark)]).casefold().split())
