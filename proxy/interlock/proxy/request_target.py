"""How a URL is cut for the wire: to whom, and what for."""

from functools import lru_cache

SHORT = 256


def split_url(url: str) -> tuple[str, str]:
    """A URL's scheme and authority, and the request target (RFC 9112 3.2.1): `/` for no path, no lone `?`.

    The URL is absolute and without a fragment, as `Destinations` wants it.
    """
    return _known(url) if len(url) <= SHORT else _split(url)


def _split(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition("://")
    end = min(at for at in (rest.find("/"), rest.find("?"), len(rest)) if at >= 0)
    path, _, query = rest[end:].partition("?")
    return f"{scheme}://{rest[:end]}", f"{path or '/'}?{query}" if query else path or "/"


_known = lru_cache(1024)(_split)
"""Most calls of a tool go to one URL."""
