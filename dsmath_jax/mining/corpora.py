"""What the mined corpus is compared with (DeepSeekMath 2.2): random pages and the seed, extracted,
cleaned and written as it is, with the same hosts held out."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import page_rows, urls
from dsmath_jax.mining.clean import DOCUMENTS, cleaning
from dsmath_jax.mining.collect import Collection
from dsmath_jax.mining.export import export
from dsmath_jax.mining.language import language, token_estimate
from dsmath_jax.mining.loop import Mine, clean_corpus
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.shards import Shard, do_shard
from dsmath_jax.mining.workers import Progress


def export_mined(run: Mine, iteration: int, heldout_share: float) -> dict[str, Any]:
    """WORKDIR/corpus, corpus_parquet and manifest.json of an iteration; see
    `export.export`."""
    files = _clean_files(run, f"iter{iteration}")
    return export(files, run.workdir, iteration=iteration, heldout_share=heldout_share, say=run.say)


def export_random(
    run: Mine, iteration: int, pages: int, heldout_share: float, seed: int = 0
) -> dict[str, Any]:
    """The same of `pages` pages drawn from all that are scored, before near-duplicates and
    benchmarks go: WORKDIR/corpora/random/corpus and so on.

    Args:
      heldout_share: as the mined corpus's manifest has it, so that the hosts held out there are
        here, too.
    """
    scores = run.workdir / f"iter{iteration}" / "scores"
    rows = [scores / shard.name / "rows.parquet" for shard in run.shards]
    found = Collection(choose_random(rows, pages, seed), {}, {}, {})
    clean_corpus(run, f"iter{iteration}/random", rows, found, {})
    return export(
        _clean_files(run, f"iter{iteration}/random"),
        run.workdir / "corpora" / "random",
        iteration=0,
        heldout_share=heldout_share,
        say=run.say,
    )


def _clean_files(run: Mine, folder: str) -> list[pathlib.Path]:
    return [run.workdir / folder / "corpus" / s.name / "clean.parquet" for s in run.shards]


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


def export_seed(
    path: str,
    folder: pathlib.Path,
    *,
    heldout_share: float,
    benchmarks: str = "",
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """FOLDER/corpus and so on of a seed, JSONL of url and text, without the pages that hold a
    benchmark's text.

    Args:
      heldout_share: as for `export_random`.
      benchmarks: path of the index (`decontamination.Index`).

    Raises:
      InputError: the file is missing, or a line has no url and text.
    """
    work = folder / "documents"
    work.mkdir(parents=True, exist_ok=True)
    page_rows.write(_seed_documents(path), DOCUMENTS, work / "documents.parquet")
    with (work / "duplicates.npz").open("wb") as file:
        np.savez(file, page=np.zeros(0), kept=np.zeros(0), similarity=np.zeros(0))
    inputs = (str(work / "documents.parquet"), str(work / "duplicates.npz"), benchmarks)
    do_shard((cleaning, Shard("clean", inputs, ""), work, {}, ""), Progress())
    files = [work / "clean" / "clean.parquet"]
    return export(files, folder, iteration=0, heldout_share=heldout_share, say=say)


def _seed_documents(path: str) -> list[dict[str, Any]]:
    rows: dict[int, dict[str, Any]] = {}
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as e:
        raise InputError(f"config.seed={path}: {e.strerror}") from None
    for number, line in enumerate(filter(str.strip, lines), 1):
        try:
            record = json.loads(line)
            url, text = str(record["url"]), str(record["text"])
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number}: not an object with url and text") from None
        row = {"url_hash": urls.url_hash(url), "url": url, "host": urls.host(url)}
        row |= {"language": language(text), "score": 1.0, "tokens": token_estimate(text)}
        row |= {"title": "", "text": text, "formulas": 0, "source": pathlib.Path(path).name}
        rows[urls.url_hash(url)] = row
    return [rows[h] for h in sorted(rows)]
