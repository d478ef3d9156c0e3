"""What the mined corpus is compared with (DeepSeekMath 2.2): random pages and the seed, extracted,
cleaned and written as it is, with the same hosts held out."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np

from dsmath_jax.mining import iteration, page_rows, urls
from dsmath_jax.mining.clean import CLEAN_VERSION, DOCUMENTS, cleaning
from dsmath_jax.mining.export import export
from dsmath_jax.mining.jsonl_parquet import read_seed_pages
from dsmath_jax.mining.language import language, token_estimate
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.run import Run, folder_hash
from dsmath_jax.mining.shards import Shard, do_shard, file_hash, read_marker, shard_key
from dsmath_jax.mining.workers import Progress

FOLDER = "corpora"


def write_others(run: Run, number: int, mined: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """WORKDIR/corpora/random and WORKDIR/corpora/seed, each with `corpus`, `corpus_parquet` and
    `manifest.json` as WORKDIR has them; the manifests.

    Args:
      number: of the iteration whose rows are drawn from.
      mined: the manifest of the mined corpus, which has as many pages and holds out the same hosts.
    """
    share = mined["heldout_share"]
    return {
        "random": export_random(run, number, mined["pages"], share),
        "seed": export_seed(run, share),
    }


def export_random(run: Run, number: int, pages: int, heldout_share: float) -> dict[str, Any]:
    """Writes `pages` pages, drawn from all that the iteration scored, less near-duplicates and
    those with benchmarks' texts; see `export.export`."""
    other = _OnRowsOf(run, number, run.workdir / FOLDER / "random")
    other.choose(1, "chosen", choose_random(other.found, pages))
    iteration.extract(other, 1)
    iteration.deduplicate(other, 1)
    iteration.decontaminate(other, 1)
    files = iteration.corpus_files(other, 1)
    return export(files, other.workdir, iteration=0, heldout_share=heldout_share, say=run.say)


class _OnRowsOf(Run):
    """A run in a directory of its own that takes from the pages that another has scored."""

    def __init__(self, run: Run, number: int, workdir: pathlib.Path):
        super().__init__(run.config, workdir, run.engine, run.say, run.shards, run.rate, run.index)
        self.found = run.rows(number)

    def rows(self, number: int) -> list[pathlib.Path]:
        return self.found


def choose_random(files: Sequence[pathlib.Path], pages: int, seed: int = 0) -> list[np.ndarray]:
    """[rows] bool of each file of rows: `pages` of all, each address once, by a hash of the address
    and the seed, which depends on neither the order nor the number of files."""
    hashes = [page_rows.read(file, ["url_hash"])["url_hash"] for file in files]
    every = np.concatenate([np.zeros(0, np.uint64), *hashes])
    unique, first = np.unique(every, return_index=True)
    order = mix(unique ^ np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64))
    chosen = np.zeros(len(every), bool)
    chosen[first[np.argsort(order, kind="stable")[:pages]]] = True
    return np.split(chosen, np.cumsum([len(h) for h in hashes])[:-1])


def export_seed(run: Run, heldout_share: float) -> dict[str, Any]:
    """Writes the seed's pages, less those with benchmarks' texts; see `export.export`.

    Raises:
      InputError: the file is missing, or a line has no url and text.
    """
    folder = run.workdir / FOLDER / "seed"
    work = folder / "documents"
    work.mkdir(parents=True, exist_ok=True)
    documents = work / "documents.parquet"
    page_rows.write(_seed_documents(run.config.seed), DOCUMENTS, documents)
    content = f"{file_hash(documents)} {folder_hash(run.index) if run.index else ''}"
    shard = Shard("clean", (str(documents), "", run.index, run.config.seed), content)
    key = shard_key(cleaning, CLEAN_VERSION, {}, shard)
    if read_marker(work / shard.name, key) is None:
        shutil.rmtree(work / shard.name, ignore_errors=True)
        do_shard((cleaning, shard, work, {}, key), Progress())
    files = [work / "clean" / "clean.parquet"]
    return export(files, folder, iteration=0, heldout_share=heldout_share, say=run.say)


def _seed_documents(path: str) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    for url, text in read_seed_pages(path):
        row = {"url_hash": urls.url_hash(url), "url": url, "host": urls.host(url)}
        row |= {"language": language(text), "score": 1.0, "tokens": token_estimate(text)}
        row |= {"title": "", "text": text, "formulas": 0, "source": pathlib.Path(path).name}
        rows[urls.url_hash(url)] = row
    return [rows[h] for h in sorted(rows)]
