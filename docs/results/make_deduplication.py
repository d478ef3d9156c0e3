"""Writes deduplication.md and deduplication.json beside itself.

python docs/results/make_deduplication.py

Makes pages and copies of them at known similarities, runs all steps of near-duplicate removal, and
compares with similarities counted by Python's sets. One minute on one core.
"""

import argparse
import json
import pathlib
import platform
import tempfile
import time

import numpy as np

from dsmath_jax.mining import duplicate_clusters as clusters
from dsmath_jax.mining.near_duplicates import (
    THRESHOLD,
    bands,
    shared_band_probability,
    shingles,
    signature,
)
from dsmath_jax.mining.normalize import words

HERE = pathlib.Path(__file__).resolve().parent
LOWEST = np.round(np.arange(0.5, 1.0, 0.05), 2)  # of the table's rows; the last is 1 alone


class Writer:
    """Texts of made-up words, as unevenly frequent as in a language."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        letters = self.rng.choice(list("etaoinshrdlu"), (30_000, 7))
        self.words = np.array(["".join(w)[: 2 + i % 6] for i, w in enumerate(letters)])
        weights = 1 / np.arange(1, len(self.words) + 1)
        self.cumulative = np.cumsum(weights) / weights.sum()

    def text(self, length: int) -> list[str]:
        return self.words[np.searchsorted(self.cumulative, self.rng.random(length))].tolist()

    def copy(self, text: list[str], similarity: float, kind: str) -> list[str]:
        """A copy whose similarity to the text is about this: with single words changed here and
        there ("scattered"), or with another end ("block")."""
        common = 2 * similarity / (1 + similarity)  # share of the shingles
        other = self.text(len(text))
        if kind == "block":
            cut = round(common * len(text))
            return text[:cut] + other[cut:]
        changed = self.rng.random(len(text)) < 1 - common ** (1 / 5)
        return [b if c else a for a, b, c in zip(text, other, changed, strict=True)]


def true_similarity(a: str, b: str) -> float:
    sets = []
    for text in (a, b):
        tokens = words(text)
        sets.append({tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def run_steps(pages, shards: int, parts: int):
    """Removals, and the seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/shard{i}" for i in range(shards)]
        pairs = [f"{folder}/pairs{i}.npy" for i in range(parts)]
        similar = [f"{folder}/similar{i}.npy" for i in range(parts)]
        times = [time.process_time()]
        for i, name in enumerate(names):
            clusters.write_shard(pages[i::shards], name)
        times.append(time.process_time())
        count = sum(clusters.write_pairs(names, i, parts, pairs[i]) for i in range(parts))
        times.append(time.process_time())
        kept = sum(clusters.write_similar(names, pairs, i, parts, similar[i]) for i in range(parts))
        times.append(time.process_time())
        found = clusters.find_duplicates(names, similar)
        times.append(time.process_time())
    seconds = dict(
        zip(("shards", "pairs", "similar", "decide"), np.diff(times).tolist(), strict=True)
    )
    return found, {"seconds": seconds, "pairs": count, "similar_pairs": kept}


def recall_and_precision(kind: str, each: int) -> list[dict]:
    writer = Writer(1)
    pages, pairs = [], []
    for target in np.append(np.arange(0.5, 1.0, 0.025) + 0.0125, 1.0):
        for _ in range(each):
            text = writer.text(int(writer.rng.integers(100, 1500)))
            a, b = (" ".join(t) for t in (text, writer.copy(text, target, kind)))
            number = len(pages)
            pages += [(number, 1.0, a), (number + 1, 0.5, b)]
            meet = np.any(bands(signature(shingles(a))) == bands(signature(shingles(b))))
            pairs.append((number + 1, true_similarity(a, b), bool(meet)))
    found, _ = run_steps(pages, 4, 4)
    removed = dict(zip(found.page.tolist(), found.kept.tolist(), strict=True))
    rows = []
    for low in [*LOWEST.tolist(), 1.0]:
        inside = [p for p in pairs if int(p[1] * 20 + 1e-9) == round(low * 20)]
        similarity = np.array([s for _, s, _ in inside])
        rows.append(
            {
                "low": low,
                "pairs": len(inside),
                "mean": float(similarity.mean()),
                "meet": sum(m for _, _, m in inside) / len(inside),
                "theory": float(shared_band_probability(similarity).mean()),
                "similar": int((similarity >= THRESHOLD).sum()),
                "removed": sum(removed.get(p) == p - 1 for p, _, _ in inside),
            }
        )
    assert len(removed) == sum(row["removed"] for row in rows)  # none for another reason
    return rows


def speed() -> float:
    """Pages of 5,000 characters a second, from text to buckets."""
    writer = Writer(2)
    pages = [" ".join(writer.text(1200))[:5000] for _ in range(500)]
    rates = []
    for _ in range(5):
        start = time.process_time()
        for page in pages:
            bands(signature(shingles(page)))
        rates.append(len(pages) / (time.process_time() - start))
    return float(np.median(rates))


def many(count: int) -> dict:
    """A collection of pages of which three in ten are copies."""
    writer = Writer(3)
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and writer.rng.random() < 0.3:
            source = texts[writer.rng.integers(len(texts))]
            texts.append(writer.copy(source, writer.rng.uniform(0.6, 1), "scattered"))
        else:
            texts.append(writer.text(int(writer.rng.integers(100, 1500))))
    pages = [(i, float(writer.rng.random()), " ".join(t)) for i, t in enumerate(texts)]
    found, report = run_steps(pages, 8, 4)
    return report | {"pages": count, "removed": len(found.page), "clusters": found.sizes()}


def page_of(results: dict) -> str:
    lines = [
        "# Near-duplicates, measured",
        "",
        "Written by `python docs/results/make_deduplication.py`.",
        f"Machine: {results['machine']}, one core.",
        "",
        "Pairs of a page of 100 to 1,500 made-up words and its copy, by their true similarity, which",
        "is counted by Python's sets of word 5-grams. *Meet*: share of the pairs that share a band;",
        "*theory*: 1 - (1 - s^6)^20, the mean over the row's pairs. *Removed*: through all steps, at",
        f"the threshold {THRESHOLD}.",
    ]
    for kind, title in (("scattered", "Single words changed"), ("block", "Another end")):
        rows = results[kind]
        lines += ["", f"## {title}", ""]
        lines += ["| similarity | pairs | mean | meet | theory | at least 0.8 | removed |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in rows:
            name = f"{row['low']:.2f} to {row['low'] + 0.05:.2f}" if row["low"] < 1 else "1"
            lines.append(
                f"| {name} | {row['pairs']} | {row['mean']:.3f} | {row['meet']:.3f} "
                f"| {row['theory']:.3f} | {row['similar']} | {row['removed']} |"
            )
        similar, removed = (sum(row[k] for row in rows) for k in ("similar", "removed"))
        below = sum(row["removed"] for row in rows if row["low"] < THRESHOLD)
        lines += ["", f"Recall {(removed - below) / similar:.4f} ({removed - below} of {similar}),"]
        lines += [f"precision {(removed - below) / removed:.4f}."]
    m = results["many"]
    lines += [
        "",
        "## Speed",
        "",
        f"From text to buckets: {results['speed']:,.0f} pages of 5,000 characters a second and core.",
        "",
        f"{m['pages']:,} pages, three in ten copies at 0.6 to 1: {m['removed']:,} removed, "
        f"{m['pairs']:,} candidate pairs, {m['similar_pairs']:,} of them similar. Seconds: "
        + ", ".join(f"{k} {v:.1f}" for k, v in m["seconds"].items())
        + ".",
        "",
        "Pages of a cluster, and number of such clusters: "
        + ", ".join(f"{k}: {v}" for k, v in m["clusters"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=150, help="at each of 21 similarities")
    parser.add_argument("--pages", type=int, default=20_000)
    args = parser.parse_args()
    results = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}",
        "scattered": recall_and_precision("scattered", args.pairs),
        "block": recall_and_precision("block", args.pairs),
        "speed": speed(),
        "many": many(args.pages),
    }
    (HERE / "deduplication.json").write_text(json.dumps(results, indent=1) + "\n")
    (HERE / "deduplication.md").write_text(page_of(results))


if __name__ == "__main__":
    main()
