"""One form for the many spellings of a page's address, and the groups that addresses fall in."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

# Parameters that say where a visitor came from or which visit it is, never which page.
_TRACKING = re.compile(
    r"utm_\w+|(?:gclid|gclsrc|gbraid|wbraid|dclid|yclid|fbclid|msclkid|twclid|ttclid|igshid)"
    r"|_ga|_gl|_hs\w+|mc_[ce]id|mkt_tok|li_fat_id|fb_(?:ref|source)|spm"
    r"|(?:php|j|aspx?)sess(?:ion)?id\w*|session_?id|cfid|cftoken",
    re.IGNORECASE,
)
_INDEX = re.compile(r"(?:index|default)\.(?:x?html?|shtml|php\d?|aspx?|jspx?|cgi)", re.IGNORECASE)
_SESSION = re.compile(r";jsessionid=[^/?;]*", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:(?!//|\d)", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(?:[a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_DIGITS = re.compile(r"\d+")
_PORTS = {"http": 80, "https": 443}
_PATH_SAFE = "!$&'()*+,;=:@"  # what RFC 3986 allows in a segment beside letters and -._~
_QUERY_SAFE = "!$'()*,;:@/?"


def normal_form(url: str) -> str:
    """The same text for addresses that almost surely lead to the same page; not for fetching.

    http and https, letter case of the host, `www.`, the default port, user names, the fragment,
    tracking and session parameters, the order of parameters, the spelling of percent-encoded and
    international characters, `.` and `..`, index files and a last slash do not count. Letter case
    of path and query does. What is no http address comes back as it is, stripped.
    """
    url = url.strip()
    if _OTHER_SCHEME.match(url):
        return url
    try:
        parts = urlsplit(url if _ABSOLUTE.match(url) else f"//{url}", scheme="http")
        port = parts.port
    except ValueError:  # a bad port or a broken IPv6 address
        return url
    if parts.scheme not in _PORTS or not parts.hostname:
        return url
    name = _host_form(parts.hostname)
    if port is not None and port != _PORTS[parts.scheme]:
        name = f"{name}:{port}"
    path = _path_form(parts.path)
    query = _query_form(parts.query)
    return f"https://{name}{path}" + (f"?{query}" if query else "")


def host(url: str) -> str:
    """The host of an address, without port and `www.`; "" where there is none."""
    form = normal_form(url)
    if not form.startswith("https://"):
        return ""
    return urlsplit(form).hostname or ""


def path_group(url: str, depth: int) -> str:
    """The first `depth` folders of an address, each run of digits as `#`: "/questions/#".

    The last segment is the page itself, not a folder; pages beside the root are the group "/".
    """
    form = normal_form(url)
    if not form.startswith("https://"):
        return "/"
    folders = urlsplit(form).path.split("/")[1:-1][:depth]
    return "/" + "/".join(_DIGITS.sub("#", folder) for folder in folders)


def url_hash(url: str) -> int:
    """64 bits of the normal form, from 0 to 2**64 - 1, the same in every run."""
    form = normal_form(url).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(form, digest_size=8).digest(), "little")


def _host_form(name: str) -> str:
    if ":" in name:  # IPv6
        return f"[{name}]"
    name = name.lower().rstrip(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            name = quote(name, safe="%", errors="surrogatepass").lower()
    while name.startswith("www.") and name.count(".") > 1:
        name = name.removeprefix("www.")
    return name


def _path_form(path: str) -> str:
    path = _SESSION.sub("", path)
    segments: list[str] = []
    for segment in path.split("/"):
        segment = _encoded(segment, _PATH_SAFE)
        if segment == "..":
            del segments[-1:]
        elif segment not in ("", "."):
            segments.append(segment)
    while segments and _INDEX.fullmatch(segments[-1]):
        segments.pop()
    return "/" + "/".join(segments)


def _query_form(query: str) -> str:
    pairs = []
    for pair in query.split("&"):
        name, equals, value = pair.replace("+", "%20").partition("=")
        name = _encoded(name, _QUERY_SAFE)
        if pair and not _TRACKING.fullmatch(name):
            pairs.append((name, equals + _encoded(value, _QUERY_SAFE + "=")))
    pairs.sort(key=lambda pair: pair[0])  # not by value: the order of equal names may matter
    return "&".join(name + value for name, value in pairs)


def _encoded(text: str, safe: str) -> str:
    """Percent-encoding where it is needed, with capitals, and nowhere else."""
    if "%" not in text and text.isascii() and text.isalnum():
        return text
    # A `%` that encodes nothing stays a literal one, so that a second pass changes nothing.
    return quote(unquote_to_bytes(text.encode("utf-8", "surrogatepass")), safe=safe)
