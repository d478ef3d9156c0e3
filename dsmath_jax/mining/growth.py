"""The stages between two iterations: which groups of pages a person is asked about, and how what is
accepted makes the next seed (DeepSeekMath 2.1)."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from dsmath_jax.mining import annotation, domains, page_rows, score, training_set
from dsmath_jax.mining.archives import read_pages_at
from dsmath_jax.mining.domain_stage import read_groups
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.pages import Limits, Page
from dsmath_jax.mining.run import Run, needed, write_json
from dsmath_jax.mining.shards import Shard, file_hash, output_key
from dsmath_jax.mining.sorted_arrays import is_in_sorted
from dsmath_jax.mining.workers import Progress

VERSION = 1
FOUND = np.dtype([("row", np.int64), ("order", np.uint64)])  # order: a hash of the address


# ---- Annotation ---------------------------------------------------------------------------------
def annotate(run: Run, number: int) -> bool:
    """Writes annotate_iterN.csv and its page, keeping decisions that are there; whether the loop
    can go on: something was decided, suggestions are taken, or there is nothing to decide."""
    c = run.config
    groups = read_groups(needed(run.folder(number) / "groups.parquet", "domains", number))
    asked = [
        group
        for group in domains.to_ask(groups, c.group_depth, c.group_pages)
        if group.count.pages >= c.group_pages and group.count.gain
    ]
    rows = [
        annotation.make_row(group, number, _sample_texts(run, group), c.suggested_share)
        for group in asked
    ]
    path = run.csv(number)
    if path.exists():
        before = annotation.read(path, number)
        annotation.accepted(before, auto=False)  # refuses two decisions on one group
        rows = annotation.kept_decisions(rows, before)
    annotation.write(rows, path)
    decided = sum(bool(row.decision) for row in rows)
    found = {"asked": len(rows), "decided": decided, "mode": c.annotate}
    found["accepted"] = annotation.accepted(rows, auto=c.annotate == "auto")
    run.note(number, "annotate", found)
    return c.annotate == "auto" or decided > 0 or not rows


def _sample_texts(run: Run, group: domains.Group) -> list[str]:
    texts = []
    for sample in group.samples[: annotation.TEXTS]:
        path = run.shards[sample.source].inputs[0]
        limits = Limits(run.config.max_page_bytes, rate=run.rate)
        page = next(read_pages_at(path, [(sample.offset, sample.length)], limits))
        texts.append((score.text_of(page) or "") if isinstance(page, Page) else "")
    return texts


# ---- The next seed ------------------------------------------------------------------------------
def grow(run: Run, number: int) -> None:
    """Writes the next iteration's seed: this one's, and pages of accepted groups that were not
    collected (of more than `config.positives` a part, by a hash of the address)."""
    c, folder = run.config, run.folder(number)
    decided = annotation.read(needed(run.csv(number), "annotate", number), number)
    patterns = annotation.accepted(decided, auto=c.annotate == "auto")
    accepted, above = folder / "accepted.json", folder / "above.npy"
    write_json(accepted, patterns)
    given = (str(needed(above, "collect", number)), str(accepted))
    key = f"{file_hash(above)} {file_hash(accepted)}"
    files = run.rows(number)
    shards = [
        Shard(shard.name, (str(rows), *given), f"{output_key(rows.parent)} {key}")
        for shard, rows in zip(run.shards, files, strict=True)
    ]
    found = run.do(find_accepted, VERSION, shards, folder / "accepted", {}).get("found", 0)

    most = int(c.positives / found * (2**64 - 1)) if found > c.positives else 2**64
    settings = {"max_page_bytes": c.max_page_bytes, "source": f"annotation {number}", "most": most}
    shards = []
    for shard, rows in zip(run.shards, files, strict=True):
        path = folder / "accepted" / shard.name
        key = f"{output_key(rows.parent)} {output_key(path)}"
        shards.append(Shard(shard.name, (str(rows), str(path / "found.npy"), *shard.inputs), key))
    run.do(training_set.added, training_set.ADDED_VERSION, shards, folder / "added", settings)

    files = [folder / "added" / shard.name / "added.parquet" for shard in shards]
    seed = needed(folder / "seed.parquet", "train", number)
    known = {row["url_hash"]: row for row in training_set.read_texts([seed])}
    before = len(known)
    for row in training_set.read_texts(files):
        known.setdefault(row["url_hash"], row)
    target = run.folder(number + 1) / "seed.parquet"
    target.parent.mkdir(exist_ok=True)
    page_rows.write([known[h] for h in sorted(known)], training_set.TEXTS, target)
    run.note(
        number,
        "grow",
        {"patterns": patterns, "not_collected": found, "added": len(known) - before},
    )


def find_accepted(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes found.npy, [found] FOUND: pages of accepted groups that were not collected.

    Inputs: rows, url_hash of the pages that are collected (.npy), accepted patterns (.json).
    """
    rows, above, file = shard.inputs
    accepted = domains.Patterns(json.loads(pathlib.Path(file).read_text(encoding="utf-8")))
    table = pq.read_table(rows, columns=["url_hash", "host", "url"])
    hosts = pa.array(sorted(accepted.depths), pa.string())
    is_near = pyarrow.compute.is_in(table["host"].cast(pa.string()), hosts)
    row = np.flatnonzero(is_near.to_numpy())
    hashes = table["url_hash"].to_numpy()
    row = row[~is_in_sorted(hashes[row], np.load(above, mmap_mode="r"))]
    urls = table["url"].take(pa.array(row)).to_pylist()
    row = row[np.array([url in accepted for url in urls], bool)]
    found = np.empty(len(row), FOUND)
    found["row"], found["order"] = row, mix(hashes[row])
    np.save(folder / "found.npy", found)
    return {"found": len(found)}
