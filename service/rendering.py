"""What the pages for people are made of: templates, the files they load, and the codes on the tickets."""

import datetime
import gzip
import re
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import minijinja
import msgspec
import segno

FOLDER = Path(__file__).with_name("pages")

# Where a page finds its files; the name of each carries a digest of what is in it.
ASSETS = "/assets/"

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_ADDRESSED = re.compile(r"([a-z0-9-]+)\.[0-9a-f]{12}(\.[a-z0-9]+)")
_URL = re.compile(r"url\(([a-z0-9.-]+)\)")


class Asset(msgspec.Struct, frozen=True):
    """One file, compressed too where that makes it smaller. A large one is compressed alone, and `body` is None."""

    body: bytes | None
    gzipped: bytes | None
    media_type: str

    @property
    def plain(self) -> bytes:
        """The file as it is."""
        if self.body is not None:
            return self.body
        return b"" if self.gzipped is None else gzip.decompress(self.gzipped)


class Pages:
    """Templates and files, read once at the start."""

    def __init__(self) -> None:
        self.assets: dict[str, Asset] = {}
        self._names: dict[str, str] = {}
        # What a style sheet refers to has its name before the style sheet is written.
        for path in sorted((FOLDER / "assets").iterdir(), key=lambda path: path.suffix == ".css"):
            if path.suffix in _TYPES:
                self._keep(path)
            elif path.suffix == ".gz":
                self._keep_compressed(path)
        templates = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.html")}
        self._environment = minijinja.Environment(
            templates=templates,
            filters={"date": long_date, "short_date": short_date, "moment": moment},
            globals={"asset": self.address},
            undefined_behavior="strict",
            trim_blocks=True,
            lstrip_blocks=True,
            debug=False,  # or an error would carry the values of the page into the log, names and phones among them
        )

    def render(self, template: str, **values: Any) -> bytes:
        """A page. Everything in it is escaped but what is marked as safe."""
        return self._environment.render_template(template, **values).encode()

    def address(self, name: str) -> str:
        """Where the file of that name is now."""
        return ASSETS + self._names[name]

    def counterpart(self, file: str) -> Asset | None:
        """This version's own file in the place of one that a page of another version asks for; None for any other."""
        match = _ADDRESSED.fullmatch(file)
        return self.assets.get(self._names.get("".join(match.groups()), "")) if match else None

    def _keep(self, path: Path) -> None:
        body = path.read_bytes()
        if path.suffix == ".css":
            body = _URL.sub(lambda match: f"url({self._names[match[1]]})", body.decode()).encode()
        gzipped = gzip.compress(body, mtime=0)
        digest = blake2b(body, digest_size=6).hexdigest()
        name = self._names[path.name] = f"{path.stem}.{digest}{path.suffix}"
        self.assets[name] = Asset(body, gzipped if len(gzipped) < 0.9 * len(body) else None, _TYPES[path.suffix])

    def _keep_compressed(self, path: Path) -> None:
        """A file that is stored compressed: to do that here would take each web process a tenth of a second."""
        gzipped = path.read_bytes()
        name = Path(path.stem)
        digest = blake2b(gzipped, digest_size=6).hexdigest()
        self._names[path.stem] = f"{name.stem}.{digest}{name.suffix}"
        self.assets[self._names[path.stem]] = Asset(None, gzipped, _TYPES[name.suffix])


def long_date(text: str) -> str:
    """The date that a text begins with: `Friday, 27 November`."""
    return _date(text, "%A, {} %B")


def short_date(text: str) -> str:
    """The date that a text begins with: `Fri 27 Nov`."""
    return _date(text, "%a {} %b")


def moment(rfc3339: str) -> str:
    """An instant as its own zone's clock shows it: `17:52, Fri 27 Nov`."""
    return f"{rfc3339[len('2026-11-24T') : len('2026-11-24T17:52')]}, {short_date(rfc3339)}"


@lru_cache(maxsize=1024)
def _date(text: str, form: str) -> str:
    day = datetime.date.fromisoformat(text[: len("2026-11-24")])
    return day.strftime(form.format(day.day))


@lru_cache(maxsize=4096)
def qr_code(ticket_id: str) -> str:
    """The ticket's id as an inline SVG.

    It is in capitals, which QR codes write shorter; `fields.ticket_id` takes them as they are meant. The mask is given:
    to weigh all eight against each other is four fifths of the work, and every reader takes every mask.
    """
    code = segno.make_qr(ticket_id.upper(), error="q", boost_error=False, mask=3)
    return code.svg_inline(border=2, omitsize=True, svgclass=None, lineclass=None)
