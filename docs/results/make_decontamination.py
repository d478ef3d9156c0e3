"""Writes decontamination.md and decontamination.json beside itself.

python docs/results/make_decontamination.py BENCHMARKS PAGES.jsonl

BENCHMARKS is a folder of benchmark files. PAGES.jsonl holds pages that copy no benchmark, with fields
text and, to tell kinds apart, label. Five minutes on one core.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import platform
import tempfile
import time

import numpy as np

from dsmath_jax.mining import benchmark_texts
from dsmath_jax.mining.decontamination import Index, self_test, shuffled_pages
from dsmath_jax.mining.normalize import words

HERE = pathlib.Path(__file__).resolve().parent


def rates(index: Index, pages: list[dict]) -> dict:
    """Share of the pages of each label that the index removes, and for which n-grams."""
    total, removed = collections.Counter(), collections.Counter()
    ngrams, benchmarks = collections.Counter(), collections.Counter()
    for page in pages:
        hits = index.find(page["text"])
        label = page.get("label", "page")
        total[label] += 1
        removed[label] += bool(hits)
        ngrams.update({hit.ngram for hit in hits})
        benchmarks.update({hit.benchmark.split("/")[0] for hit in hits})
    return {
        "labels": {label: [removed[label], total[label]] for label in sorted(total)},
        "ngrams": dict(ngrams.most_common(15)),
        "benchmarks": dict(benchmarks.most_common()),
        "short_only": sum(
            bool(hits) and all(len(h.ngram.split()) < 10 for h in hits)
            for hits in (index.find(p["text"]) for p in pages)
        ),
    }


def speed(index: Index, pages: list[str]) -> float:
    """Pages a second and core, the tokens made each time."""
    found = []
    for _ in range(5):
        start = time.process_time()
        for page in pages:
            index.find(page)
        found.append(len(pages) / (time.process_time() - start))
    return float(np.median(found))


def cut(texts, size: int = 5000) -> list[str]:
    return [text[:size] for text in texts if len(text) >= size]


def page_of(r: dict) -> str:
    lines = [
        "# Decontamination, measured",
        "",
        "Written by `python docs/results/make_decontamination.py BENCHMARKS PAGES.jsonl`, with",
        f"{', '.join(r['names'])}. Machine: {r['machine']}, one core.",
        "",
        f"{r['items']:,} items give {r['texts']:,} indexed texts, {r['ngrams']:,} n-grams of 10 tokens",
        f"and {r['short']:,} short questions; {r['megabytes']:.0f} MB on disk. Left out: "
        + ", ".join(f"{v:,} texts ({k})" for k, v in r["left_out"].items())
        + f". Items without any indexed text: {r['uncovered']}.",
        "",
        "| step | |",
        "|---|---|",
        f"| read the files and build the index | {r['build_seconds']:.0f} s |",
        f"| open a saved index | {r['load_seconds']:.2f} s |",
        f"| self-test: every indexed text planted alone and in a longer page | {r['texts']:,} of "
        f"{r['texts']:,} found, {r['self_test_seconds']:.0f} s |",
        f"| pages of 5,000 characters of benchmark words in random order | {r['speed_shuffled']:,.0f} "
        "pages/s |",
        f"| the given pages, first 5,000 characters | {r['speed_pages']:,.0f} pages/s |",
        "",
        "## Pages removed that copy no benchmark",
        "",
        f"Pages of {r['shuffled'][1]} x 1,000 benchmark words in random order: "
        f"{r['shuffled'][0]} removed. The given pages:",
        "",
        "| pages | removed | if short answers counted, too |",
        "|---|---|---|",
    ]
    for label, (removed, total) in r["pages"]["labels"].items():
        wide = r["with_short_answers"]["labels"][label][0]
        lines.append(f"| {label} | {removed} of {total} | {wide} of {total} |")
    lines += [
        "",
        f"{r['pages']['short_only']} of them for a short question alone. By benchmark: "
        + ", ".join(f"{k} {v}" for k, v in r["pages"]["benchmarks"].items())
        + ". The n-grams of most pages:",
        "",
    ]
    lines += [f"- `{k}`: {v}" for k, v in r["pages"]["ngrams"].items()]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmarks", type=pathlib.Path)
    parser.add_argument("pages", type=pathlib.Path)
    args = parser.parse_args()
    pages = [json.loads(line) for line in args.pages.open(encoding="utf-8")]
    times = [time.process_time()]
    items = benchmark_texts.load([args.benchmarks])
    built = Index.build(items)
    times.append(time.process_time())
    with tempfile.TemporaryDirectory() as folder:
        built.save(f"{folder}/index")
        size = sum(f.stat().st_size for f in pathlib.Path(folder, "index").iterdir())
        times.append(time.process_time())
        index = Index.load(f"{folder}/index")
        times.append(time.process_time())
        report = self_test(index, items)
        times.append(time.process_time())
        shuffled = cut(shuffled_pages(items, 500, 1500))
        rate_shuffled = speed(index, shuffled)
        rate_pages = speed(index, cut(p["text"] for p in pages))
        page_rates = rates(index, pages)
    answers = [dataclasses.replace(i, question=True) for i in items]
    indexed = {(benchmark, item) for benchmark, item, _ in built.items}
    results = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "names": sorted({i.benchmark.split("/")[0] for i in items}),
        "items": len({(i.benchmark, i.item) for i in items}),
        "uncovered": len({(i.benchmark, i.item) for i in items} - indexed),
        "texts": report.texts,
        "ngrams": len(built.long.hashes),
        "short": len(built.short.hashes),
        "megabytes": size / 1e6,
        "left_out": report.left_out,
        "build_seconds": times[1] - times[0],
        "load_seconds": times[3] - times[2],
        "self_test_seconds": times[4] - times[3],
        "speed_shuffled": rate_shuffled,
        "speed_pages": rate_pages,
        "mean_tokens": float(np.mean([len(words(p)) for p in shuffled])),
        "shuffled": [report.removed, report.clean_pages],
        "pages": page_rates,
        "with_short_answers": rates(Index.build(answers), pages),
    }
    (HERE / "decontamination.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    )
    (HERE / "decontamination.md").write_text(page_of(results))


if __name__ == "__main__":
    main()
