"""A stage of the miner in a process of its own, on one core, for the benchmark of mining."""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dsmath_jax.benchmarks.side import serve
from dsmath_jax.mining import clean, score
from dsmath_jax.mining.shards import Shard, do_shard, file_hash
from dsmath_jax.mining.workers import Progress


def start(given: dict[str, Any]) -> Callable[[Any], dict[str, Any]]:
    if given["core"] >= 0:
        os.sched_setaffinity(0, {given["core"]})
    model = pathlib.Path(given["classifier"])
    settings = {
        "classifier": str(model),
        "classifier_hash": file_hash(model),
        "max_page_bytes": given["max_page_bytes"],
        "rate": None,
    }
    work = pathlib.Path(tempfile.mkdtemp(dir=given["folder"]))
    shard = Shard("000000-pages", (given["archive"],), "")
    stage = score.score
    if given["stage"] == "extract":
        do_shard((stage, shard, work, settings, "rows"), Progress())
        rows, chosen = work / shard.name / "rows.parquet", work / "chosen.npy"
        np.save(chosen, np.ones(pq.read_metadata(rows).num_rows, bool))
        shard = Shard("000001-pages", (str(rows), str(chosen), given["archive"]), "")
        stage = clean.extraction

    def answer(request: Any) -> dict[str, Any]:
        # A folder of its own: what is done already would not be done again.
        with tempfile.TemporaryDirectory(dir=work) as folder:
            seconds, cpu = time.perf_counter(), time.process_time()
            counts = do_shard((stage, shard, pathlib.Path(folder), settings, "made"), Progress())
            return {
                "seconds": time.perf_counter() - seconds,
                "cpu_seconds": time.process_time() - cpu,
                "bytes_written": counts["bytes_written"],
            }

    return answer


if __name__ == "__main__":
    serve(start)
