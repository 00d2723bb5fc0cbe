"""What a client prefers, from its Accept headers (RFC 9110, section 12.5). Pure."""

from functools import lru_cache

# Longer headers are read too, but not kept in memory.
_KEPT = 512


def prefers_html(accept: str | None) -> bool:
    """Whether the client would rather have a page than JSON, as browsers say; `*/*` and a tie mean JSON."""
    return accept is not None and _cached(accept, ("text/html", "application/json"))


def takes_gzip(accept_encoding: str | None) -> bool:
    """Whether an answer may be compressed."""
    return accept_encoding is not None and _cached(accept_encoding, ("gzip", None))


def _cached(header: str, wanted: tuple[str, str | None]) -> bool:
    return (_prefers if len(header) <= _KEPT else _prefers.__wrapped__)(header, wanted)


@lru_cache(maxsize=256)
def _prefers(header: str, wanted: tuple[str, str | None]) -> bool:
    """Whether the first weighs more than the second (None: than nothing)."""
    weights = _weights(header)
    first, second = wanted
    return _weight(weights, first) > (0.0 if second is None else _weight(weights, second))


def _weights(header: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = min(1.0, max(0.0, float(parameter[2:])))
                except ValueError:
                    weight = 0.0  # a preference that cannot be read is none
        weights[name] = weight
    return weights


def _weight(weights: dict[str, float], name: str) -> float:
    """The most exact range that the client names decides: `text/html`, then `text/*`, then `*/*` or `*`."""
    kind, slash, _ = name.partition("/")
    for range_ in (name, f"{kind}/*", "*/*") if slash else (name, "*"):
        if range_ in weights:
            return weights[range_]
    return 0.0
