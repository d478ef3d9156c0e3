"""The stages between a page that was taken and the corpus: its content, near-duplicates, and
benchmarks' texts."""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.mining import duplicate_clusters, page_rows
from dsmath_jax.mining.archives import read_pages_at
from dsmath_jax.mining.decontamination import Index
from dsmath_jax.mining.encoding import decode
from dsmath_jax.mining.extract import Extracted, extract
from dsmath_jax.mining.language import token_estimate
from dsmath_jax.mining.pages import Limits, Page
from dsmath_jax.mining.shards import Shard
from dsmath_jax.mining.sorted_arrays import find_sorted
from dsmath_jax.mining.workers import Progress

# source: name of the archive.
DOCUMENTS = pa.schema(
    [
        ("url_hash", pa.uint64()),
        ("url", pa.string()),
        ("host", pa.string()),
        ("language", pa.string()),
        ("score", pa.float32()),
        ("tokens", pa.int32()),
        ("title", pa.string()),
        ("text", pa.string()),
        ("formulas", pa.int32()),
        ("source", pa.string()),
    ]
)
# cause: "near-duplicate" of the page `of`, or "benchmark", whose item and n-gram are named.
REMOVED = pa.schema(
    [
        ("url", pa.string()),
        ("cause", pa.string()),
        ("of", pa.string()),
        ("ngram", pa.string()),
        ("similarity", pa.float32()),
    ]
)
SIGNATURES_VERSION = PAIRS_VERSION = SIMILAR_VERSION = 1
EXTRACT_VERSION = CLEAN_VERSION = 2


def extraction(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes documents.parquet, sorted by url_hash, and rejected.parquet, of the chosen rows.

    Inputs: a file of rows, which of them are chosen (.npy, [rows] bool), their archive.
    """
    rows, chosen, path = shard.inputs
    table = pq.read_table(rows).filter(pa.array(np.load(chosen)))
    found = {row["offset"]: row for row in table.to_pylist()}
    limits = Limits(settings["max_page_bytes"], rate=settings["rate"])
    documents, rejected = [], []
    places = [(row["offset"], row["length"]) for row in found.values()]
    bytes_stored = sum(length for _, length in places if length > 0)
    for page in progress.each(read_pages_at(path, places, limits)):
        row = found[page.offset]
        if progress(f"{path}@{page.offset}"):
            result: Extracted | str = "crashed or hung"
        else:
            result = _content(page) if isinstance(page, Page) else page.reason
        if isinstance(result, str):
            where = {"source": row["source"], "offset": page.offset, "url": row["url"]}
            rejected.append(where | {"reason": result})
            continue
        same = ("url_hash", "url", "host", "language", "score")
        documents.append(
            {name: row[name] for name in same}
            | {
                "tokens": token_estimate(result.text),
                "title": result.title,
                "text": result.text,
                "formulas": result.formulas,
                "source": pathlib.PurePosixPath(path).name,
            }
        )
    documents.sort(key=lambda document: document["url_hash"])
    page_rows.write(documents, DOCUMENTS, folder / "documents.parquet")
    page_rows.write(rejected, page_rows.REJECTED, folder / "rejected.parquet")
    reasons = Counter(row["reason"] for row in rejected)
    return {
        "pages": len(documents),
        "bytes_stored": bytes_stored,
        "tokens": sum(document["tokens"] for document in documents),
        "formulas": sum(document["formulas"] for document in documents),
        "rejected": dict(sorted(reasons.items())),
    }


def _content(page: Page) -> Extracted | str:
    try:
        text = decode(page.body, page.charset)
        found = extract(text, page.url) if page.kind == "html" else Extracted(text, "", 0)
    except ValueError:
        return "not readable"
    return found if found.text.strip() else "no content"


# ---- Near-duplicates ----------------------------------------------------------------------------
def signatures(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Shingles and buckets of a file of documents."""
    (path,) = shard.inputs
    pages = duplicate_clusters.write_shard(_texts(pathlib.Path(path)), folder / "shard")
    return {"pages": pages}


def _texts(path: pathlib.Path) -> Iterator[tuple[int, float, str]]:
    for batch in pq.ParquetFile(path).iter_batches(1024, columns=["url_hash", "score", "text"]):
        columns = batch.to_pydict()
        yield from zip(columns["url_hash"], columns["score"], columns["text"], strict=True)


def pairs(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Pairs of pages that share a bucket, of one part of the buckets."""
    found = duplicate_clusters.write_pairs(
        shard.inputs, int(shard.name), settings["parts"], folder / "pairs.npy"
    )
    return {"pairs": found}


def similar(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Those whose similarity is verified, of one part of the pairs."""
    shards, found_pairs = settings["signatures"], shard.inputs
    found = duplicate_clusters.write_similar(
        shards, found_pairs, int(shard.name), settings["parts"], folder / "similar.npy"
    )
    return {"similar": found}


# ---- Benchmarks ---------------------------------------------------------------------------------
def cleaning(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes clean.parquet, the documents without near-duplicates and without pages that hold a
    benchmark's text, and removed.parquet.

    Inputs: documents; duplicates.npz (page, kept, similarity) or ""; the index of benchmarks or "";
    the archive.
    """
    path, duplicates, benchmarks, archive = shard.inputs
    table = pq.read_table(path)
    near = _near(table["url_hash"].to_numpy(), duplicates) if duplicates else {}
    index = Index.load(benchmarks) if benchmarks else None
    kept, removed = [], []
    for document in table.to_pylist():
        if (twin := near.get(document["url_hash"])) is not None:
            removed.append(_removed(document, "near-duplicate", f"{twin[0]:016x}", "", twin[1]))
        elif index is not None and (hits := index.find(document["text"])):
            for hit in hits:
                of = f"{hit.benchmark}:{hit.item}:{hit.part}"
                removed.append(_removed(document, "benchmark", of, hit.ngram, 0.0))
        else:
            kept.append(document)
    page_rows.write(kept, DOCUMENTS, folder / "clean.parquet")
    page_rows.write(removed, REMOVED, folder / "removed.parquet")
    languages: dict[str, dict[str, int]] = {}
    for document in kept:
        counts = languages.setdefault(document["language"], {"pages": 0, "tokens": 0})
        counts["pages"] += 1
        counts["tokens"] += document["tokens"]
    return {
        "pages": len(kept),
        "tokens": sum(document["tokens"] for document in kept),
        "languages": languages,
        "sources": {_source(archive): len(kept)},
        "near-duplicates": sum(row["cause"] == "near-duplicate" for row in removed),
        "benchmark": len({row["url"] for row in removed if row["cause"] == "benchmark"}),
    }


def _near(pages: np.ndarray, duplicates: str) -> dict[int, tuple[int, float]]:
    """Of those pages that are to be removed: the page that is kept, and its similarity."""
    with np.load(duplicates) as arrays:
        at = find_sorted(pages, arrays["page"])
        here = at >= 0
        kept, similarity = (arrays[name][at[here]].tolist() for name in ("kept", "similarity"))
    return dict(zip(pages[here].tolist(), zip(kept, similarity, strict=True), strict=True))


def _source(archive: str) -> str:
    """The crawl of an archive of Common Crawl, else the folder's name."""
    crawl = re.search(r"CC-MAIN-\d{4}-\d+", archive)
    return crawl.group() if crawl else pathlib.PurePosixPath(archive).parent.name


def _removed(
    document: dict[str, Any], cause: str, of: str, ngram: str, similarity: float
) -> dict[str, Any]:
    return {
        "url": document["url"],
        "cause": cause,
        "of": of,
        "ngram": ngram,
        "similarity": similarity,
    }
