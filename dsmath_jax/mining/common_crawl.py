"""Common Crawl's listings of the files of a crawl: `warc.paths.gz`, `wet.paths.gz`."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import storage
from dsmath_jax.mining.rate_limit import RateLimit

PREFIX = "https://data.commoncrawl.org/"


def paths(listing: str, *, prefix: str = PREFIX, rate: RateLimit | None = None) -> Sequence[str]:
    """The files that a listing names, in its order, each once.

    Args:
      listing: path or URL of a list with one path a line, with or without gzip.
      prefix: goes before paths that begin with "crawl-data/"; that of a mirror, "s3://commoncrawl/"
        or a local folder. Other lines are kept as they are.

    Raises:
      InputError: the listing is missing, damaged, or holds no path.
    """
    with storage.open(listing, rate=rate) as file:
        data = file.read()
    try:
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
        raise InputError(f"{listing} is damaged ({e}): fetch it again") from None
    lines = dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())
    if not lines:
        raise InputError(f"{listing} names no file")
    local = next((x for x in lines if not storage.is_remote(x) and x[:11] != "crawl-data/"), "")
    if storage.is_remote(listing) and local:
        raise InputError(f"{listing} names {local!r}, which is no address")
    start = prefix if not prefix or prefix.endswith("/") else prefix + "/"
    return [start + line if line.startswith("crawl-data/") else line for line in lines]
