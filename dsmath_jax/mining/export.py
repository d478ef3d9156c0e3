"""The corpus as the trainer reads it: a TFDS directory of array_record files, and Parquet.

Both hold the same records in the same order, and appear whole or not at all, as folders of shards
do: a rerun does nothing, and a changed input does them again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pathlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.quality import held_out
from dsmath_jax.mining.shards import (
    MARKER,
    Shard,
    Stage,
    do_shard,
    file_hash,
    output_key,
    read_marker,
    shard_key,
)
from dsmath_jax.mining.workers import Progress

# source: name of the archive. iteration: of the miner, from 1; 0: the page was not mined.
RECORDS = pa.schema(
    [
        ("url", pa.string()),
        ("domain", pa.string()),
        ("text", pa.string()),
        ("language", pa.string()),
        ("score", pa.float32()),
        ("source", pa.string()),
        ("iteration", pa.int32()),
    ]
)
COLUMNS = ("url", "host", "text", "language", "score", "tokens", "source")  # of clean.DOCUMENTS
TFDS, PARQUET = "corpus", "corpus_parquet"
TRAIN, HELDOUT = "train", "heldout"
HOSTS_SEED = 3  # of the draw of hosts that are held out
MOST_HELDOUT = 0.5  # of the pages may be of held-out hosts
VERSION = 1
BATCH = 1024  # records in memory
GROUP = 2048  # of a row group of Parquet, which the trainer reads at once
FILE = 65536  # of a file


def export(
    files: Sequence[pathlib.Path],
    workdir: pathlib.Path,
    *,
    iteration: int,
    heldout_share: float = 0.0,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes WORKDIR/corpus (TFDS), WORKDIR/corpus_parquet/SPLIT and WORKDIR/manifest.json.

    The splits are "train" and, where hosts are held out, "heldout".

    Args:
      files: Parquet of `clean.DOCUMENTS`, in the order of the records.
      heldout_share: of hosts, by a hash of their names, so that all iterations and corpora hold out
        the same. Where there are so few that none is, the one that would be first.

    Returns:
      The manifest: pages, tokens (estimated) and bytes of text, by split and language; domains;
      heldout_share as it was used; iteration; and of each folder its files with size and hash
      (of "corpus" None, where the extra `data` is missing).

    Raises:
      InputError: the files hold no page.
    """
    share, pages = _enough(_hosts(files), heldout_share)
    if not pages:
        raise InputError(
            f"there is no page to write to {workdir / TFDS}: lower config.min_score, or raise "
            "config.budgets"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"iteration": iteration, "rows": [BATCH, GROUP, FILE]}
    settings |= {"heldout_share": share, "hosts_seed": HOSTS_SEED}
    key = hashlib.sha256(" ".join(map(_content, files)).encode()).hexdigest()
    inputs = tuple(map(str, files))
    stages: dict[str, Stage] = {PARQUET: write_parquet, TFDS: write_tfds}
    if missing := _missing_extra():
        del stages[TFDS]
        say(
            f"{workdir / TFDS} is not written, as {missing} is missing: pip install -e '.[data]'; "
            f"{workdir / PARQUET} has the same records"
        )
    counts: dict[str, Any] = {}
    folders: dict[str, Any] = {TFDS: None}
    for name, stage in stages.items():
        counts = _once(stage, Shard(name, inputs, key), workdir, settings, pages, say)
        folders[name] = json.loads((workdir / name / MARKER).read_text())["files"]
    manifest = counts | {"iteration": iteration, "heldout_share": share, "folders": folders}
    path = workdir / "manifest.json"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    partial.replace(path)
    return manifest


def _missing_extra() -> str:
    names = ("tensorflow_datasets", "array_record")
    return " and ".join(name for name in names if importlib.util.find_spec(name) is None)


def _once(
    stage: Stage,
    shard: Shard,
    folder: pathlib.Path,
    settings: dict[str, Any],
    pages: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What the stage counted, now or before."""
    key = shard_key(stage, VERSION, settings, shard)
    counts = read_marker(folder / shard.name, key)
    if counts is not None:
        say(f"{folder / shard.name}: is written already")
    else:
        for left in folder.glob(f".{shard.name}.*"):  # of processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        progress = _Pages(str(folder / shard.name), pages, say)
        counts = do_shard((stage, shard, folder, settings, key), progress)
        progress.end()
    return {name: value for name, value in counts.items() if name != "seconds"}


class _Pages(Progress):
    """Lines of progress."""

    every = 5.0  # seconds

    def __init__(self, name: str, pages: int, say: Callable[[str], None]):
        super().__init__()
        self.name, self.pages, self.say = name, pages, say
        self.done = 0
        self.start = self.said = time.monotonic()

    def __call__(self, item: str) -> bool:
        self.done += 1
        now = time.monotonic()
        if now - self.said >= self.every:
            self.said = now
            left = (now - self.start) * (self.pages - self.done) / self.done
            self.say(f"{self.name}: {self.done:,} of {self.pages:,} pages, {left:.0f} s to go")
        return False

    def end(self) -> None:
        passed = time.monotonic() - self.start
        self.say(f"{self.name}: {self.done:,} pages in {passed:.1f} s")


# ---- What is read -------------------------------------------------------------------------------
def _content(file: pathlib.Path) -> str:
    """A hash of the file; where it is of a finished shard, of what its marker says."""
    return output_key(file.parent) if (file.parent / MARKER).exists() else file_hash(file)


def _hosts(files: Sequence[pathlib.Path]) -> Counter[str]:
    """How many pages of each host there are."""
    found: Counter[str] = Counter()
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(65536, columns=["host"]):
            for row in batch.column(0).value_counts().to_pylist():
                found[row["values"]] += row["counts"]
    return found


def _enough(hosts: Counter[str], share: float) -> tuple[float, int]:
    """(the share, raised so far that it holds out a host; all pages). 0 where it would hold out
    most pages."""
    pages = hosts.total()
    if share > 0 and not any(_is_held_out(host, share) for host in hosts):
        for least in (k / 100 for k in range(1, 100)):
            if least > share and any(_is_held_out(host, least) for host in hosts):
                share = least
                break
    held = sum(count for host, count in hosts.items() if _is_held_out(host, share))
    return (share if held <= MOST_HELDOUT * pages else 0.0), pages


def _is_held_out(host: str, share: float) -> bool:
    return share > 0 and held_out(host, share, HOSTS_SEED)


def _batches(
    shard: Shard, settings: dict[str, Any], progress: Progress, counts: dict[str, Any]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(split, records of RECORDS) in the order of the files; `counts` is filled on the way."""
    share = settings["heldout_share"]
    domains: set[str] = set()
    sums: dict[str, Counter[str]] = {}
    for file in shard.inputs:
        for batch in pq.ParquetFile(file).iter_batches(BATCH, columns=list(COLUMNS)):
            by_split: dict[str, list[dict[str, Any]]] = {TRAIN: [], HELDOUT: []}
            for row in batch.to_pylist():
                progress(row["url"])
                split = HELDOUT if _is_held_out(row["host"], share) else TRAIN
                domains.add(row["host"])
                tokens, size = row["tokens"], len(row["text"].encode())
                for name in ("all", split, f"{split} {row['language']}"):
                    found = sums.setdefault(name, Counter())
                    found.update({"pages": 1, "tokens": tokens, "bytes": size})
                record = {"domain": row["host"], "iteration": settings["iteration"]}
                record |= {name: row[name] for name in row if name in RECORDS.names}
                by_split[split].append(record)
            yield from ((split, rows) for split, rows in by_split.items() if rows)
    counts |= dict(sums.get("all", {})) | {"domains": len(domains)}
    counts["splits"] = {
        split: dict(sums[split])
        | {
            "languages": {
                name.removeprefix(f"{split} "): dict(found)
                for name, found in sorted(sums.items())
                if name.startswith(f"{split} ")
            }
        }
        for split in (TRAIN, HELDOUT)
        if split in sums
    }


# ---- What is written ----------------------------------------------------------------------------
def write_tfds(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """A TFDS directory: `tfds.builder_from_directory(folder).as_data_source("train")` reads it,
    without TensorFlow."""
    import tensorflow_datasets as tfds

    kinds = {pa.string(): tfds.features.Text(), pa.float32(): np.float32, pa.int32(): np.int32}
    features = {field.name: kinds[field.type] for field in RECORDS}
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="corpus",
        version=tfds.core.Version(f"{settings['iteration']}.0.0"),
        data_dir=str(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description="Mathematical pages of the web.",
        features=tfds.features.FeaturesDict(features),
    )
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=FILE, file_format="array_record"
    )
    # Protocol buffers write maps in an order of their own in each process, unless asked not to.
    serializer = writer._serializer
    serializer.serialize_example = lambda example: serializer.get_tf_example(
        example
    ).SerializeToString(deterministic=True)
    counts: dict[str, Any] = {}
    begun = set()
    for split, records in _batches(shard, settings, progress, counts):
        if split not in begun:
            writer.initialize_splits([split])
            begun.add(split)
        writer.add_examples({split: records})
    writer.close_all()
    return counts


def write_parquet(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """SPLIT/part-00000.parquet and so on."""
    counts: dict[str, Any] = {}
    splits = {split: _Files(folder / split) for split in (TRAIN, HELDOUT)}
    for split, records in _batches(shard, settings, progress, counts):
        splits[split].add(records)
    for files in splits.values():
        files.close()
    return counts


class _Files:
    """Parquet files of FILE records each, in row groups of GROUP."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.waiting: list[dict[str, Any]] = []
        self.files = self.records = 0  # records: of the open file
        self.writer: pq.ParquetWriter | None = None

    def add(self, records: list[dict[str, Any]]) -> None:
        self.waiting += records
        while len(self.waiting) >= GROUP:
            self._write(self.waiting[:GROUP])
            del self.waiting[:GROUP]

    def _write(self, records: list[dict[str, Any]]) -> None:
        if self.writer is None:
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"part-{self.files:05d}.parquet"
            self.writer = pq.ParquetWriter(path, RECORDS, compression="zstd")
        self.writer.write_table(pa.Table.from_pylist(records, RECORDS), row_group_size=GROUP)
        self.records += len(records)
        if self.records >= FILE:
            self._end_file()

    def _end_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer, self.records, self.files = None, 0, self.files + 1

    def close(self) -> None:
        if self.waiting:
            self._write(self.waiting)
            self.waiting = []
        self._end_file()
