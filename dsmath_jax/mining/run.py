"""A run of the miner: what it reads, and its directory, in which stages find each other's files.

WORKDIR/iterN/seed.parquet              positives of iteration N
              sample/ training/ model/  negatives and the classifier
              scores/SHARD/             a row for each page
              chosen/ above.npy         which rows are above the cut; their url_hash, in order
              documents/SHARD/          their content
              duplicates.npz            near-duplicates among them
              corpus/SHARD/             what is left, and what was removed
              taken.npy                 url_hash of what is left, in order
              domains.parquet groups.parquet
              report/STAGE.json         what each stage found
        annotate_iterN.csv, .html       for a person to decide
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import benchmark_texts, common_crawl, decontamination, page_rows, storage
from dsmath_jax.mining.rate_limit import RateLimit
from dsmath_jax.mining.shards import (
    Engine,
    Shard,
    Stage,
    file_hash,
    input_shards,
    output_key,
    run_shards,
)

Say = Callable[[str], None]


@dataclasses.dataclass
class Run:
    """One run of the miner.

    shards: of the inputs, one for each archive. index: the folder of the benchmarks' index, ""
    where there are none. rate: of reads over the network.
    """

    config: ConfigDict
    workdir: pathlib.Path
    engine: Engine
    say: Say
    shards: list[Shard]
    rate: RateLimit | None
    index: str = ""

    def folder(self, number: int) -> pathlib.Path:
        return self.workdir / f"iter{number}"

    def do(
        self,
        stage: Stage,
        version: int,
        shards: Sequence[Shard],
        folder: pathlib.Path,
        settings: dict[str, Any],
        **without_key: Any,
    ) -> dict[str, Any]:
        """Runs a stage on shards; the sum of what they counted. No output depends on what is given
        `without_key`."""
        counted = run_shards(
            stage,
            version,
            shards,
            folder,
            settings,
            self.engine,
            self.say,
            without_key=without_key | {"rate": self.rate},
        )
        return add_counts(counted)

    def note(self, number: int, stage: str, found: dict[str, Any]) -> None:
        """Keeps what a stage found for the report."""
        path = self.folder(number) / "report" / f"{stage}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)

    def notes(self, number: int) -> dict[str, dict[str, Any]]:
        """What the stages of an iteration found, by stage."""
        files = sorted((self.folder(number) / "report").glob("*.json"))
        return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}

    def rows(self, number: int) -> list[pathlib.Path]:
        """The files of rows of an iteration, in the order of the shards."""
        folder = self.folder(number) / "scores"
        files = [folder / shard.name / "rows.parquet" for shard in self.shards]
        for file in files:
            needed(file, "score", number)
        return files

    def chosen(self, number: int, name: str, stage: str) -> list[Shard]:
        """A shard for each file of rows: the rows, which of them are chosen, and their archive."""
        shards = []
        for shard, file in zip(self.shards, self.rows(number), strict=True):
            path = needed(self.folder(number) / name / f"{shard.name}.npy", stage, number)
            key = f"{output_key(file.parent)} {file_hash(path)}"
            shards.append(Shard(shard.name, (str(file), str(path), shard.inputs[0]), key))
        return shards

    def choose(self, number: int, name: str, chosen: Iterable[np.ndarray]) -> np.ndarray:
        """Writes which rows are chosen, [rows] bool for each file of rows; their url_hash."""
        folder = self.folder(number) / name
        folder.mkdir(parents=True, exist_ok=True)
        hashes = [np.zeros(0, np.uint64)]
        for shard, file, which in zip(self.shards, self.rows(number), chosen, strict=True):
            save_array(folder / f"{shard.name}.npy", which)
            hashes.append(page_rows.read(file, ["url_hash"])["url_hash"][which])
        return np.concatenate(hashes)

    def above(self, number: int) -> np.ndarray:
        """[pages] uint64: url_hash of the pages above the cut of an iteration, in order."""
        return np.load(needed(self.folder(number) / "above.npy", "collect", number))

    def made(self, folder: pathlib.Path, stage: str, number: int, name: str) -> list[Shard]:
        """A shard for each input's folder there, that reads one of its files."""
        paths = [needed(folder / shard.name, stage, number) for shard in self.shards]
        return [Shard(path.name, (str(path / name),), output_key(path)) for path in paths]

    def taken(self, number: int) -> np.ndarray:
        """[pages] uint64: url_hash of the corpus of an iteration, in order."""
        path = self.folder(number) / "taken.npy"
        return np.load(needed(path, "decontaminate", number))

    def csv(self, number: int) -> pathlib.Path:
        return self.workdir / f"annotate_iter{number}.csv"


def open_workdir(workdir: pathlib.Path) -> None:
    """Makes the directory.

    Raises:
      InputError: it cannot be written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / ".writable").touch()
        (workdir / ".writable").unlink()
    except OSError as e:
        raise InputError(f"--workdir={workdir} cannot be written to: {e.strerror}") from None


def open_run(config: ConfigDict, workdir: pathlib.Path, say: Say = print) -> Run:
    """Finds what a run reads.

    Raises:
      InputError: an input is missing or wrong.
    """
    rate = None
    if config.requests_per_second:  # of this machine: on a disk of its own
        name = hashlib.sha256(str(workdir.resolve()).encode()).hexdigest()[:16]
        path = os.path.join(tempfile.gettempdir(), f"dsmath_rate_{name}")
        rate = RateLimit(path, config.requests_per_second, config.bytes_per_second)
    if config.crawl:
        inputs = list(common_crawl.paths(config.crawl, prefix=config.crawl_prefix, rate=rate))
        inputs = inputs[: config.crawl_files or None]
    elif config.inputs:
        inputs = list(storage.list(list(config.inputs), rate=rate))
    else:
        raise InputError("config.inputs: give archives, or a listing with config.crawl")
    ray = (config.address or "local") if config.engine == "ray" else ""
    workers = config.workers or (0 if ray else os.cpu_count() or 1)
    engine = Engine(workers, ray, config.stuck_seconds, config.memory_gb)
    # A crawl's files never change; asking for the sizes of 90,000 would take hours.
    key_of = str if config.crawl else lambda path: f"{path} {storage.size(path, rate=rate)}"
    return Run(config, workdir, engine, say, list(input_shards(inputs, key_of)), rate)


def open_benchmarks(run: Run) -> None:
    """Builds the index of the benchmarks, and finds each of their texts with it.

    Raises:
      InputError: a file is missing or wrong, or the index does not find a text.
    """
    if not run.config.benchmarks:
        run.say("config.benchmarks is empty: pages with benchmarks' texts stay")
        return
    items = benchmark_texts.load(list(run.config.benchmarks))
    index = decontamination.Index.build(items)
    found = decontamination.self_test(index, items)
    run.index = str(run.workdir / "benchmarks")
    index.save(run.index)
    run.say(f"benchmarks: all of {found.texts:,} texts were found, alone and inside a page")
    values = dataclasses.asdict(found) | {"false_removals": found.false_removal_rate}
    write_json(run.workdir / "self_test.json", values)


# ---- Files and counts ---------------------------------------------------------------------------
def needed(path: pathlib.Path, stage: str, number: int) -> pathlib.Path:
    """The path of what another stage has made.

    Raises:
      InputError: it has not.
    """
    if not path.exists():
        raise InputError(f"{path} is not there yet: run --stage={stage} --iteration={number} first")
    return path


def add_counts(counted: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Numbers, and dictionaries of numbers, added up."""
    total: dict[str, Any] = {}
    for counts in counted:
        for name, value in counts.items():
            if isinstance(value, dict):
                total[name] = add_counts([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


def content_key(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def arrays_hash(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()


def folder_hash(folder: str) -> str:
    """Of the contents of all files below."""
    files = sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file())
    return " ".join(file_hash(path) for path in files)


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def write_json(path: pathlib.Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    text = json.dumps(_without_nan(value), indent=1, sort_keys=True, ensure_ascii=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def _without_nan(value: Any) -> Any:
    """The same with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _without_nan(x) for name, x in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(x) for x in value]
    return None if isinstance(value, float) and math.isnan(value) else value
