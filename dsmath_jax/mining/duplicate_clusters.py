"""Near-duplicates among any number of pages, through files: shards in, a list of removals out.

    write_shard      each shard of pages: their shingles and buckets
    write_pairs      each part of the buckets: pairs of pages that share one
    write_similar    each part of the pairs: those whose similarity is at least the threshold
    find_duplicates  once: clusters of similar pages, and in each which pages are kept

Parts are independent of each other and need memory for a part only; the last step holds the similar
pairs. Which pages are removed depends on the pages alone, not on how they were cut into shards, the
order of these, or the number of parts: everything goes by a page's rank, which is highest score,
then longest text, then smallest URL hash.

A page is removed only when its similarity to a page that is kept is at least the threshold, so a
page that is like many others a little joins none of them.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.near_duplicates import (
    BANDS,
    THRESHOLD,
    bands,
    jaccard,
    shingles,
    signature,
)
from dsmath_jax.mining.union_find import components

Path = str | os.PathLike[str]

# A bucket of n pages gives at most 8 n pairs: each page with the best of the bucket and with those
# just before it. Alike pages that one crowded bucket leaves apart meet in others.
_BEST, _BEFORE = 4, 4
_REPRESENTATIVES = 64  # kept pages of a cluster that its later pages are compared with

# Of a shard. ends: of each page's shingles. row: of each bucket, the page.
ARRAYS: dict[str, np.dtype] = {
    "url_hash": np.dtype(np.uint64),
    "score": np.dtype(np.float32),
    "length": np.dtype(np.int64),
    "shingles": np.dtype(np.uint32),
    "ends": np.dtype(np.int64),
    "bucket": np.dtype(np.uint64),
    "row": np.dtype(np.uint32),
}


@dataclass(frozen=True)
class Duplicates:
    """Pages to remove, sorted by URL hash.

    page, kept: [removed] uint64, URL hashes of the page and of the kept one it is like;
    similarity: [removed] float32, the Jaccard similarity of their shingles.
    """

    page: np.ndarray
    kept: np.ndarray
    similarity: np.ndarray

    def sizes(self) -> dict[int, int]:
        """{pages of a cluster, the kept one included: number of such clusters}."""
        _, removed = np.unique(self.kept, return_counts=True)
        sizes, counts = np.unique(removed + 1, return_counts=True)
        return dict(zip(sizes.tolist(), counts.tolist(), strict=True))


def write_shard(pages: Iterable[tuple[int, float, str]], path: Path) -> int:
    """Writes what the other steps need of a shard's pages: about 4 bytes a token.

    Args:
      pages: (hash of the URL, score, text) of each page, every URL once in all shards.
      path: a folder; it appears when it is complete.

    Returns:
      The number of pages.
    """
    hashes, scores, lengths, sets, buckets = [], [], [], [], []
    for url_hash, score, text in pages:
        found = shingles(text)
        hashes.append(url_hash)
        scores.append(score)
        lengths.append(len(text))
        sets.append(found)
        if len(found):  # a page without words is like no other
            buckets.append(bands(signature(found)))
    has_words = np.flatnonzero([len(found) > 0 for found in sets])
    bucket = np.concatenate(buckets) if buckets else np.zeros(0, np.uint64)
    row = np.repeat(has_words, BANDS)
    order = np.argsort(bucket, kind="stable")
    arrays = {
        "url_hash": hashes,
        "score": scores,
        "length": lengths,
        "shingles": np.concatenate(sets) if sets else [],
        "ends": np.cumsum([len(found) for found in sets], dtype=np.int64),
        "bucket": bucket[order],
        "row": row[order],
    }
    partial = pathlib.Path(f"{os.fspath(path)}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", np.asarray(array, ARRAYS[name]))
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    return len(hashes)


class Shards:
    """Shards as one list of pages, numbered through. What is touched is read from disk, and no file
    stays open: there may be more shards than files and maps that a process may have."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = [os.fspath(path) for path in paths]
        counts = [len(self.map(i, "url_hash")) for i in range(len(paths))]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def map(self, shard: int, name: str) -> np.ndarray:
        """An array that lies on disk; its file is open as long as there is a view of it."""
        return np.load(f"{self.paths[shard]}/{name}.npy", mmap_mode="r")

    def read(self, shard: int, name: str, start: int, end: int) -> np.ndarray:
        """Values of an array from `start` to `end`."""
        with open(f"{self.paths[shard]}/{name}.npy", "rb") as file:
            header = int.from_bytes(file.read(10)[8:], "little")  # its length, in version 1.0
            size = ARRAYS[name].itemsize
            file.seek(10 + header + start * size)
            return np.frombuffer(file.read((end - start) * size), ARRAYS[name])

    def column(self, name: str, pages: np.ndarray) -> np.ndarray:
        """A value of each of these pages."""
        shard = np.searchsorted(self.starts, pages, side="right") - 1
        order = np.argsort(shard, kind="stable")
        numbers, first = np.unique(shard[order], return_index=True)
        values = np.empty(len(pages), ARRAYS[name])
        for i, here in zip(numbers.tolist(), np.split(order, first[1:]), strict=False):
            start, end = self.starts[i : i + 2].tolist()
            values[here] = self.read(i, name, 0, end - start)[pages[here] - start]
        return values

    def shingles(self, page: int) -> np.ndarray:
        shard = int(np.searchsorted(self.starts, page, side="right")) - 1
        row = page - int(self.starts[shard])
        ends = self.read(shard, "ends", max(row - 1, 0), row + 1).tolist()
        return self.read(shard, "shingles", ends[0] if row else 0, ends[-1])

    def best_first(self, pages: np.ndarray, *groups: np.ndarray) -> np.ndarray:
        """The order of pages by group (the first group given is the outermost), then by rank."""
        return np.lexsort(
            (
                self.column("url_hash", pages),
                -self.column("length", pages),
                -self.column("score", pages),
                *reversed(groups),
            )
        )


def write_pairs(shards: Sequence[Path], part: int, parts: int, path: Path) -> int:
    """Writes [pairs, 2] page numbers, the better page first, of one part of all buckets."""
    pairs = _pairs(Shards(shards), part, parts)
    _save(path, pairs)
    return len(pairs)


def _pairs(shards: Shards, part: int, parts: int) -> np.ndarray:
    low, high = part * (1 << 64) // parts, (part + 1) * (1 << 64) // parts - 1
    buckets, pages = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for i, start in enumerate(shards.starts[:-1]):
        bucket = shards.map(i, "bucket")
        a = int(np.searchsorted(bucket, np.uint64(low)))
        b = int(np.searchsorted(bucket, np.uint64(high), side="right"))
        buckets.append(np.array(bucket[a:b]))
        pages.append(shards.read(i, "row", a, b) + start)
    bucket, page = np.concatenate(buckets), np.concatenate(pages)
    order = np.argsort(bucket, kind="stable")
    bucket, page = bucket[order], page[order]
    shared = np.zeros(len(bucket), bool)
    shared[1:] = bucket[1:] == bucket[:-1]
    shared[:-1] |= shared[1:].copy()
    bucket, page = bucket[shared], page[shared]
    order = shards.best_first(page, bucket)
    bucket, page = bucket[order], page[order]

    place = np.arange(len(page))
    first = np.searchsorted(bucket, bucket)  # of the bucket that each row is in
    pairs = [np.zeros((0, 2), np.int64)]
    for before in range(1, _BEFORE + 1):
        rows = place[place - before >= first]
        pairs.append(np.stack([page[rows - before], page[rows]], axis=1))
    for best in range(_BEST):
        rows = place[place - _BEFORE > first + best]
        pairs.append(np.stack([page[first[rows] + best], page[rows]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)


def write_similar(
    shards: Sequence[Path], pairs: Sequence[Path], part: int, parts: int, path: Path
) -> int:
    """Writes the pairs of one part whose similarity is at least the threshold.

    Args:
      pairs: files of `write_pairs`, all of them. A pair belongs to the part of its better page.
    """
    chosen = [np.zeros((0, 2), np.int64)]
    for file in pairs:
        found = np.load(file, mmap_mode="r")
        chosen.append(found[found[:, 0] % parts == part])
    pages = Shards(shards)
    similar = []
    better, of_better = -1, np.zeros(0, np.uint32)
    for a, b in np.unique(np.concatenate(chosen), axis=0).tolist():
        if a != better:
            better, of_better = a, pages.shingles(a)
        similarity = jaccard(of_better, pages.shingles(b))
        if similarity >= THRESHOLD:
            similar.append((a, b, similarity))
    _save(path, np.array(similar, _SIMILAR))
    return len(similar)


_SIMILAR = np.dtype([("better", np.int64), ("worse", np.int64), ("similarity", np.float64)])


def find_duplicates(shards: Sequence[Path], similar: Sequence[Path]) -> Duplicates:
    """Decides which pages to remove.

    In each cluster of similar pages, best page first, a page is removed if it is similar to a page
    of the cluster that is kept, and is itself kept otherwise.

    Args:
      similar: files of `write_similar`, all of them.

    Raises:
      InputError: two pages have the same URL hash.
    """
    pages = Shards(shards)
    edges = np.concatenate([np.zeros(0, _SIMILAR), *(np.load(file) for file in similar)])
    nodes, ends = np.unique(np.stack([edges["better"], edges["worse"]]), return_inverse=True)
    better, worse = ends.reshape(2, -1)
    label = components(len(nodes), better, worse)
    order = pages.best_first(nodes, label)
    nodes, label = nodes[order], label[order]
    hashes = pages.column("url_hash", nodes)
    if len(np.unique(hashes)) != len(hashes):
        raise InputError("two pages have the same URL hash: remove duplicate URLs first")

    place = np.argsort(order)  # from here a page is its place: cluster by cluster, best page first
    better, worse = place[better], place[worse]
    best = np.searchsorted(label, label)  # of each page's cluster
    keeper, similarity = np.arange(len(nodes)), np.zeros(len(nodes))
    direct = best[worse] == better
    keeper[worse[direct]] = better[direct]
    similarity[worse[direct]] = edges["similarity"][direct]
    kept: list[tuple[int, np.ndarray]] = []
    cluster = -1
    for page in np.flatnonzero((keeper == np.arange(len(nodes))) & (best < keeper)).tolist():
        if best[page] != cluster:
            cluster = int(best[page])
            kept = [(cluster, pages.shingles(int(nodes[cluster])))]
        found = pages.shingles(int(nodes[page]))
        for other, of_other in kept:
            similarity[page] = jaccard(of_other, found)
            if similarity[page] >= THRESHOLD:
                keeper[page] = other
                break
        else:
            if len(kept) < _REPRESENTATIVES:
                kept.append((page, found))

    removed = np.flatnonzero(keeper != np.arange(len(nodes)))
    removed = removed[np.argsort(hashes[removed])]
    return Duplicates(
        hashes[removed], hashes[keeper[removed]], similarity[removed].astype(np.float32)
    )


def _save(path: Path, array: np.ndarray) -> None:
    partial = f"{os.fspath(path)}.partial"
    with open(partial, "wb") as file:
        np.save(file, array)
    os.replace(partial, path)
