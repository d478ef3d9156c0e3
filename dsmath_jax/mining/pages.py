"""A page as it is read, a record that could not be read, and the limits of both."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsmath_jax.mining.rate_limit import RateLimit


@dataclass(frozen=True, slots=True)
class Page:
    """One page of an archive.

    `offset` and `length` say where its record lies in the file as stored, in bytes. Where a record
    has no bytes of its own there (Parquet, JSONL, several records in one gzip member) `length` is
    -1 and `offset` counts rows, lines or records from 0.
    """

    url: str
    body: bytes  # HTML as it was served; UTF-8 where `kind` is "text"
    kind: str  # "html" or "text"
    charset: str  # of the HTTP header, in lower case; "" where it names none
    source: str  # path or URL of the file
    offset: int
    length: int
    date: str = ""  # ISO 8601, "" if unknown


@dataclass(frozen=True, slots=True)
class Rejected:
    """A record that could not be read, or not within the limits; `reason` is one of a few words."""

    source: str
    offset: int
    url: str
    reason: str


@dataclass(frozen=True)
class Limits:
    """What reading a file may take.

    Attributes:
      max_page_bytes: a page is rejected if it has more, as stored or decoded.
      max_skipped_bytes: so much of a record that is too large is decompressed in search of the next
        one; then the rest of its gzip member is left out.
      rate: of reads over the network, shared by all processes that name its file; None: no limit.
    """

    max_page_bytes: int = 8 << 20
    max_skipped_bytes: int = 1 << 30
    rate: RateLimit | None = None


@dataclass
class Counts:
    """How many records a file holds, and what became of those that gave no page."""

    records: int = 0
    pages: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # by reason
    skipped: Counter[str] = field(default_factory=Counter)  # not a page: "status", "not text", ...
