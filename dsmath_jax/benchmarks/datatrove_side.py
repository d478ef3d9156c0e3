"""datatrove's pipeline for the benchmark of mining: WarcReader, Trafilatura, a fastText filter and
JsonlWriter, on one core. A script for the Python of an environment that holds datatrove: it imports
nothing of this project. Speaks as `side.serve` does.
"""

import json
import os
import pathlib
import resource
import sys
import tempfile
import time

import trafilatura  # noqa: F401 - fails here where a part of it is missing, not in a process
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import FastTextClassifierFilter
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers.jsonl import JsonlWriter

TIMEOUT = 60  # seconds for a page: of its default, 1, a busy machine would leave pages out


def measure(given):
    archive = pathlib.Path(given["archive"])
    with tempfile.TemporaryDirectory(dir=given["folder"]) as folder:
        out = pathlib.Path(folder) / "out"
        pipeline = [
            WarcReader(str(archive.parent), glob_pattern=archive.name, recursive=False),
            Trafilatura(timeout=TIMEOUT),
            FastTextClassifierFilter(given["classifier"], keep_labels=("math", 0.5)),
            JsonlWriter(str(out)),
        ]
        seconds, cpu = time.perf_counter(), cpu_seconds()
        LocalPipelineExecutor(pipeline, tasks=1, workers=1, logging_dir=f"{folder}/logs").run()
        return {
            "seconds": time.perf_counter() - seconds,
            "cpu_seconds": cpu_seconds() - cpu,
            "bytes_written": sum(p.stat().st_size for p in out.rglob("*") if p.is_file()),
            "peak_memory_gb": sum(peak_memory(who) for who in BOTH),
        }


# Extraction is in a process of its own.
BOTH = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def cpu_seconds():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, BOTH))


def peak_memory(who):
    return resource.getrusage(who).ru_maxrss * 1024 / 1e9


def main():
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        given = json.loads(sys.stdin.readline())
        if given["core"] >= 0:
            os.sched_setaffinity(0, {given["core"]})
        print('"ready"', file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(measure(given)), file=answers, flush=True)


main()
