"""The page in a WARC record: a response's body without its encodings, or a WET file's text."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable
from typing import Any, cast

from fastwarc import WarcRecord
from fastwarc.stream_io import BrotliReader, GzipReader, ZstdReader

from dsmath_jax.mining.pages import Limits, Page, Rejected
from dsmath_jax.mining.warc import Record

FIRST_PART = 4096  # bytes of a response
MAX_CODINGS = 3  # one on top of the other
_READERS: dict[str, Callable[[Any], Any]] = {
    "gzip": GzipReader,
    "x-gzip": GzipReader,
    "deflate": functools.partial(GzipReader, zlib=True),
    "br": BrotliReader,
    "zstd": ZstdReader,
}
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z?")
_HTML = re.compile(rb"[\s\0]*(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--|<!doctype html|<html)", re.I)
_RESPONSE = (
    b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    b"Content-Length: %d\r\n\r\n"
)
_CHUNK = re.compile(rb"(?:\r?\n)?([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?(?:\n|$)")
_MARKUP = re.compile(rb"\s*(\xef\xbb\xbf)?\s*<[!?a-zA-Z]")


def page_of(record: Record, source: str, limits: Limits) -> Page | Rejected | str:
    """The page of a record, why it has none, or in one word that it is not one."""

    def reject(reason: str) -> Rejected:
        return Rejected(source, record.offset, record.url, reason)

    if record.error:
        return reject(record.error)
    if record.type not in ("response", "conversion"):
        return "not a response"
    url, date = record.url, record.header(b"warc-date")
    date = date if _DATE.fullmatch(date) else ""
    kind, charset, body = "text", "", b""
    if record.type == "response":
        if "http" not in record.header(b"content-type").lower():
            return "not HTTP"
        try:
            parsed, body = _http(record.data, record.block)
            status = parsed.http_headers.status_code
        except (OSError, ValueError):
            status = None
        if status is None:
            return reject("bad HTTP header")
        if status != 200:
            return "status"
        content_type = (parsed.http_content_type or "").lower()
        charset = (parsed.http_charset or "").strip("\"' ").lower()
        kind = _kind_of_body(content_type or record.header(b"warc-identified-payload-type"))
        if kind == "other":
            return "not text"
    if not record.whole:
        return reject("too large")
    if record.type == "response":
        decoded = _decode(parsed.http_headers, body, limits.max_page_bytes)
        if decoded is None:
            return reject("damaged body")
        body = decoded
    else:
        body = record.data[record.block :]
    if len(body) > limits.max_page_bytes:
        return reject("too large")
    if not url:
        return reject("no URL")
    if not body.strip():
        return "empty"
    if kind == "unknown":
        if not _HTML.match(body):
            return "not text"
        kind = "html"
    if kind == "text":
        if b"\0" in body[:1024] and not charset.startswith("utf-16"):
            return "not text"
        body, charset = _utf8(body, charset), "utf-8"
    return Page(url, body, kind, charset, source, record.offset, record.length, date)


def _http(data: bytes, start: int) -> tuple[Any, bytes]:
    """An HTTP response with parsed headers, and its body as it was sent.

    Raises:
      OSError, ValueError: it has none that can be parsed.
    """
    if len(data) - start > FIRST_PART:
        # Most headers end there, and the body need not pass through fastwarc.
        first = data[start : start + FIRST_PART]
        with contextlib.suppress(OSError, ValueError):
            record = _parse(first)
            if rest := record.reader.read():
                return record, data[start + FIRST_PART - len(rest) :]
    record = _parse(data[start:])
    return record, record.reader.read()


def _parse(block: bytes) -> Any:
    # fastwarc aborts on some lengths in WARC headers, so it is given one that is right.
    record = WarcRecord.from_bytes(_RESPONSE % len(block) + block)
    # Some old crawls end HTTP's lines with \n alone.
    line = block.find(b"\n")
    record.parse_http(auto_decode="none", quirks_mode=line > 0 and block[line - 1] != 13)
    return record


def _kind_of_body(content_type: str) -> str:
    """ "html", "text" or "other" by the declared type, "unknown" where there is none."""
    name = content_type.lower().split(";")[0].strip()
    if not name:
        return "unknown"
    if "html" in name:
        return "html"
    return "text" if name == "text/plain" else "other"


def _decode(headers: Any, body: bytes, limit: int) -> bytes | None:
    """The body without its encodings, at most one byte over the limit where it is compressed.

    fastwarc's own decoding holds all of the decoded body in memory, however large it becomes.

    Crawlers that decode a body often leave the header that says it is encoded: a body that is no
    such encoding, but begins like markup, is taken as it is.
    """
    chunked = "chunked" in (headers.get("Transfer-Encoding") or "").lower()
    coded = headers.get("Content-Encoding")
    if not chunked and not coded:
        return body
    if chunked:
        try:
            body = _join_chunks(body)
        except ValueError:
            return None
    if not coded:
        return body
    stream: Any = io.BytesIO(body)
    codings = coded.lower().replace(" ", "").split(",")
    try:
        if len(codings) > MAX_CODINGS:
            raise ValueError("nobody encodes a page so often")
        for coding in reversed(codings):
            if coding not in ("", "identity"):
                stream = _READERS[coding](stream)
        return cast(bytes, stream.read(limit + 1))
    except (OSError, ValueError, KeyError):
        return body if _MARKUP.match(body) else None


def _join_chunks(data: bytes) -> bytes:
    """The bytes of a chunked body, as far as it goes; those of one that is not chunked as they are.

    Raises:
      ValueError: it begins as a chunked body and does not go on as one.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(data) and not (parts and data[at:] in (b"\r", b"\r\n", b"\n")):
        size = _CHUNK.match(data, at)
        if not size:
            if parts:
                raise ValueError("a chunk has no length")
            return data
        count = int(size.group(1), 16)
        if not count:
            break
        parts.append(data[size.end() : size.end() + count])
        at = size.end() + count
    return b"".join(parts)


def _utf8(body: bytes, charset: str) -> bytes:
    """Text as UTF-8: by the charset where it is known and fits, else by what fits."""
    for encoding in ("utf-8", charset, "gb18030"):
        if encoding:
            try:
                return body.decode(encoding).encode("utf-8")
            except (UnicodeError, LookupError, ValueError):
                continue
    return body.decode("utf-8", "replace").encode("utf-8")
