"""Writes mining_cost.md and mining_cost.json beside itself.

python docs/results/make_mining_cost.py runs/mining_cost [--pages 1000 10000 100000] [--bench FILE]

Runs each stage of the loop's first iteration in a process of its own with one worker, on generated webs of so
many pages, 1000 a file, and notes its seconds of CPU and the most memory of both. FILE is what
launch/bench.py wrote for configs/bench/mining.py; from it and from the largest web comes the cost of a
whole crawl. 100,000 pages take about ten minutes.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time

from dsmath_jax.mining import loop
from dsmath_jax.mining.defaults import get_defaults
from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.projection import SIZES, Stage, projected
from dsmath_jax.mining.run import open_benchmarks, open_run
from dsmath_jax.training.provenance import provenance

HERE = pathlib.Path(__file__).resolve().parent
STAGES = (
    "train",
    "score",
    "collect",
    "extract",
    "deduplicate",
    "decontaminate",
    "domains",
    "samples",
    "annotate",
    "grow",
)
OF_TAKEN = ("extract", "deduplicate", "decontaminate")
TAKEN = (
    0.01  # of a crawl's pages: the paper's corpus is 35.5 million of 40 billion, a tenth of this
)
FIELDS = ("seconds", "cpu_seconds", "own_mb", "worker_mb")


def configuration(web, pages):
    c = get_defaults()
    c.inputs = tuple(sorted(str(p) for p in web.glob("*.warc.gz")))
    c.seed, c.benchmarks = str(web / "seed.jsonl"), (str(web / "benchmarks"),)
    c.positives = c.negatives = 1000
    c.classifier.dim, c.classifier.buckets, c.classifier.epochs = 16, 20_000, 20
    c.classifier.learning_rate, c.classifier.min_count = 0.5, 1
    c.budgets = {"en": (130 * pages,), "zh": (65 * pages,)}
    c.min_score = 0.0  # the budgets alone decide, so that the share taken is the same
    c.annotate, c.workers = "auto", 1
    return c


def one(folder, pages, stage):
    """Runs a stage in this process, and prints what it took."""
    run = open_run(configuration(folder / "web", pages), folder / "run", lambda line: None)
    if stage == "decontaminate":
        open_benchmarks(run)
    start, cpu = time.perf_counter(), cpu_seconds()
    loop.run_stages(run, [stage], 1)
    own, worker = (resource.getrusage(who).ru_maxrss / 1024 for who in BOTH)
    values = (time.perf_counter() - start, cpu_seconds() - cpu, own, worker)
    print(json.dumps(dict(zip(FIELDS, values, strict=True))))


BOTH = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def cpu_seconds():
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, BOTH))


def measure(folder, pages):
    shutil.rmtree(folder, ignore_errors=True)
    write_web(folder / "web", pages=pages, files=max(1, pages // 1000))
    found = {}
    for stage in STAGES:
        command = [sys.executable, __file__, str(folder), "--pages", str(pages), "--one", stage]
        found[stage] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        )
        print(f"{pages} pages, {stage}: {found[stage]}", file=sys.stderr, flush=True)
    notes = folder / "run" / "iter1" / "report"
    found["taken"] = json.loads((notes / "collect.json").read_text())["counts"]["taken"]
    shutil.rmtree(folder)
    return found


def cost_table(found):
    sizes = sorted(found, key=int)
    head = [f"{int(n):,}" for n in sizes]
    lines = [
        f"| stage | {' | '.join(f'ms a page, {n}' for n in head)} | "
        f"{' | '.join(f'MB, {n}' for n in head)} |",
        "|---|" + "---|" * 2 * len(sizes),
    ]
    for stage in STAGES:
        cells = [f"{1000 * found[n][stage]['cpu_seconds'] / int(n):.2f}" for n in sizes]
        cells += [
            f"{found[n][stage]['own_mb']:.0f} + {found[n][stage]['worker_mb']:.0f}" for n in sizes
        ]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return lines


def projection_table(found, bench):
    """From pages/s of real pages, where there is a file of them, and of the largest web."""
    largest = max(found, key=int)
    stages = {}
    for stage in STAGES[1:-3]:  # annotation and what grows from it is of a few groups
        seen = found[largest]["taken"] if stage in OF_TAKEN else int(largest)
        stages[stage] = Stage(seen, found[largest][stage]["cpu_seconds"])
    lines = []
    kinds = {"WARC": ("score", "pages"), "WET": ("score_wet", "wet")} if bench else {"": ("", "")}
    for kind, (side, file) in kinds.items():
        if bench:
            pages = bench["input"][file]["pages"]
            read = bench["input"][file]["bytes_stored"]
            written = round(bench[side]["bytes_written_per_page"] * pages)
            stages["score"] = Stage(pages, pages / bench[side]["pages_per_s"], read, written)
            pages = bench["input"]["formulas"]["pages"]
            read = bench["input"]["formulas"]["bytes_stored"]
            written = round(bench["extract"]["bytes_written_per_page"] * pages)
            stages["extract"] = Stage(pages, pages / bench["extract"]["pages_per_s"], read, written)
        for what, pages in SIZES.items():
            title = f"{what}{f', from {kind}' if kind else ''}"
            lines += [f"\n{title}, {TAKEN:.0%} of pages taken:\n"]
            lines += [
                "| stage | pages | core-hours | TB read | TB written |",
                "|---|---|---|---|---|",
            ]
            for name, cost in projected(stages, pages, TAKEN).items():
                cells = [f"{cost.pages:,}", f"{cost.core_hours:,.0f}"]
                cells += [f"{x / 1e12:,.1f}" if x else "" for x in (cost.read, cost.written)]
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pages", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--bench", type=pathlib.Path)
    parser.add_argument("--table", action="store_true", help="from the numbers that are there")
    parser.add_argument("--one", help="used within")
    args = parser.parse_args()
    if args.one:
        one(args.folder, args.pages[0], args.one)
        return
    kept = HERE / "mining_cost.json"
    if args.table:
        content = json.loads(kept.read_text())
    else:
        found = {str(n): measure(args.folder / str(n), n) for n in args.pages}
        content = {"numbers": found} | provenance()
    if args.bench:
        content["bench"] = json.loads(args.bench.read_text())["numbers"]
    kept.write_text(json.dumps(content, indent=1) + "\n")
    lines = [
        "# What mining costs, by pages",
        "",
        "Written by `make_mining_cost.py`: milliseconds of CPU a page of the web, and the most memory of the main",
        "process and of its one worker, each stage in a process of its own.",
        "",
        *cost_table(content["numbers"]),
        "",
        "## A crawl, and 40 billion pages",
        *projection_table(content["numbers"], content.get("bench")),
    ]
    (HERE / "mining_cost.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
