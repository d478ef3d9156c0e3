"""The stage that reads every page: its score, and what later stages need to know of it."""

from __future__ import annotations

import pathlib
from collections import Counter
from typing import Any

import numpy as np

from dsmath_jax.mining import page_rows, storage, urls
from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.classifier import Scorer
from dsmath_jax.mining.encoding import decode
from dsmath_jax.mining.html_text import visible_text
from dsmath_jax.mining.language import language, token_estimate
from dsmath_jax.mining.normalize import for_classifier, text_hash
from dsmath_jax.mining.pages import Counts, Limits, Page, Rejected
from dsmath_jax.mining.shards import Shard, input_number
from dsmath_jax.mining.workers import Progress

VERSION = 1
FEWEST_CHARACTERS = 100  # of a page's visible text
MOST_CHARACTERS = 100_000  # of it that are scored
AROUND = "nav,footer,aside,form"  # what a seed of plain texts has none of


def score(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes rows.parquet, sorted by url_hash, and rejected.parquet.

    Settings:
      classifier: path of the (collapsed) model; without one, scores are 1.
      classifier_hash, max_page_bytes, rate.
    """
    scorer = Scorer(settings["classifier"]) if settings["classifier_hash"] else None
    limits = Limits(settings["max_page_bytes"], rate=settings["rate"])
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    bytes_read = bytes_stored = 0
    for path in shard.inputs:
        source = input_number(shard)
        bytes_stored += storage.size(path, rate=limits.rate)
        counts = Counts()
        for page in progress.each(read_pages(path, limits, counts)):
            where = f"{page.offset}"
            problem = page.reason if isinstance(page, Rejected) else ""
            if isinstance(page, Page):
                bytes_read += len(page.body)
                if progress(f"{path}@{where}"):
                    problem = "crashed or hung"
                elif (text := text_of(page)) is None:
                    problem = "not readable"
                elif len(text) < FEWEST_CHARACTERS:
                    skipped["short"] += 1
                    continue
                else:
                    rows.append(_row(page, text, scorer, source))
                    continue
            rejected.append(
                {"source": source, "offset": page.offset, "url": page.url, "reason": problem}
            )
        skipped.update(counts.skipped)
    rows.sort(key=lambda row: (row["url_hash"], row["source"], row["offset"]))
    page_rows.write(rows, page_rows.ROWS, folder / "rows.parquet")
    page_rows.write(rejected, page_rows.REJECTED, folder / "rejected.parquet")
    reasons = Counter(row["reason"] for row in rejected)
    return {
        "pages": len(rows),
        "bytes": bytes_read,
        "bytes_stored": bytes_stored,
        "rejected": dict(sorted(reasons.items())),
        "skipped": dict(sorted(skipped.items())),
    }


def text_of(page: Page) -> str | None:
    """The text of a page that is scored, of training pages as well; None where it has none that
    can be read."""
    try:
        text = decode(page.body, page.charset)
        return visible_text(text, AROUND) if page.kind == "html" else text
    except ValueError:
        return None


def _row(page: Page, text: str, scorer: Scorer | None, source: int) -> dict[str, Any]:
    text = text[:MOST_CHARACTERS]
    found = scorer([for_classifier(text)])[0] if scorer else 1.0
    return {
        "url_hash": urls.url_hash(page.url),
        "url": page.url,
        "host": urls.host(page.url),
        "language": language(text),
        "score": np.float32(found),
        "tokens": token_estimate(text),
        "text_hash": text_hash(text),
        "source": source,
        "offset": page.offset,
        "length": page.length,
        "date": page.date,
    }
