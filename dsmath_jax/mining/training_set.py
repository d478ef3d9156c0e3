"""What the classifier learns from: texts of the seed, of pages that annotation added, and of random
pages (DeepSeekMath 2.1)."""

from __future__ import annotations

import pathlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import page_rows, urls
from dsmath_jax.mining.archives import read_pages, read_pages_at
from dsmath_jax.mining.jsonl_parquet import read_seed_pages
from dsmath_jax.mining.language import language
from dsmath_jax.mining.normalize import for_classifier, mix
from dsmath_jax.mining.pages import Limits, Page
from dsmath_jax.mining.score import FEWEST_CHARACTERS, MOST_CHARACTERS, text_of
from dsmath_jax.mining.shards import Shard
from dsmath_jax.mining.workers import Progress

# text: as the classifier reads it. source: where the page was found, in a word.
TEXTS = pa.schema(
    [
        ("url_hash", pa.uint64()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("language", pa.string()),
        ("source", pa.string()),
        ("text", pa.string()),
    ]
)
SAMPLE_VERSION = 1
ADDED_VERSION = 2


def text_row(url: str, text: str, source: str) -> dict[str, Any]:
    text = text[:MOST_CHARACTERS]
    return {
        "url_hash": urls.url_hash(url),
        "url": url,
        "host": urls.host(url),
        "language": language(text),
        "source": source,
        "text": for_classifier(text),
    }


def read_seed(path: str, count: int) -> list[dict[str, Any]]:
    """Rows of TEXTS of a JSONL file of url and text, each address once, by url_hash; of more than
    `count` so many.

    Raises:
      InputError: the file is missing or empty, or a line has no url and text.
    """
    if not path:
        raise InputError("config.seed: give a JSONL file of url and text, the first positives")
    name = pathlib.Path(path).name
    rows = draw((text_row(url, text, name) for url, text in read_seed_pages(path)), count, 0)
    if not rows:
        raise InputError(f"config.seed={path} is empty: it needs mathematical pages")
    return rows


def sample(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes sample.parquet: texts of the archive's pages whose address falls into the share."""
    limits = Limits(settings["max_page_bytes"], rate=settings["rate"])
    most = int(settings["share"] * (2**64 - 1))
    rows = {}
    for path in shard.inputs:
        for page in progress.each(read_pages(path, limits)):
            if isinstance(page, Page) and not progress(f"{path}@{page.offset}"):
                number = urls.url_hash(page.url)
                if int(mix(np.array([number], np.uint64))[0]) > most:
                    continue
                text = text_of(page)
                if text is not None and len(text) >= FEWEST_CHARACTERS:
                    rows[number] = text_row(page.url, text, "archives")
    page_rows.write([rows[n] for n in sorted(rows)], TEXTS, folder / "sample.parquet")
    return {"pages": len(rows)}


def added(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes added.parquet: texts of the found rows of an archive, for the next seed.

    Inputs: a file of rows, which of them are found (.npy, of "row" and "order"), their archive.
    Settings: source: what the pages' rows say of it. most: an order below it is taken.
    """
    file, found, path = shard.inputs
    pages = np.load(found)
    chosen = pages["row"][pages["order"] < settings["most"]]
    table = pq.read_table(file, columns=["offset", "length"]).take(pa.array(chosen))
    places = [(row["offset"], row["length"]) for row in table.to_pylist()]
    limits = Limits(settings["max_page_bytes"], rate=settings["rate"])
    rows = {}
    for page in progress.each(read_pages_at(path, places, limits)):
        if isinstance(page, Page) and not progress(f"{path}@{page.offset}"):
            text = text_of(page)
            if text is not None:
                row = text_row(page.url, text, settings["source"])
                rows[row["url_hash"]] = row
    page_rows.write([rows[n] for n in sorted(rows)], TEXTS, folder / "added.parquet")
    return {"pages": len(rows)}


def read_texts(files: Iterable[pathlib.Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(1024):
            yield from batch.to_pylist()


def draw(
    rows: Iterable[dict[str, Any]], count: int, salt: int, without: Collection[int] = ()
) -> list[dict[str, Any]]:
    """`count` of the rows, each address once, by a hash of the address and the salt: a draw that
    depends on neither the order nor the files of the rows."""
    left_out = set(without)
    best: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["url_hash"] not in left_out:
            best[row["url_hash"]] = row
            if len(best) >= 2 * count + 1000:  # the texts of all pages do not fit into memory
                best = _first(best, count, salt)
    return list(_first(best, count, salt).values())


def _first(rows: dict[int, dict[str, Any]], count: int, salt: int) -> dict[int, dict[str, Any]]:
    """Those of the first ranks in a random order of their keys, by key."""
    keys = np.array(sorted(rows), np.uint64)
    ranks = mix(keys ^ np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64))
    chosen = np.sort(np.argsort(ranks)[:count])
    return {key: rows[key] for key in keys[chosen].tolist()}
