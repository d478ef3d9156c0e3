"""The stages of an iteration, from the seed to the corpus (DeepSeekMath 2.1). Each reads what those
before it have left in the run's directory and can be run alone."""

from __future__ import annotations

import hashlib
import pathlib
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import (
    classifier,
    clean,
    duplicate_clusters,
    page_rows,
    quality,
    score,
    select,
    training_set,
)
from dsmath_jax.mining import collect as ranking
from dsmath_jax.mining.run import (
    Run,
    add_counts,
    arrays_hash,
    content_key,
    folder_hash,
    needed,
    save_array,
)
from dsmath_jax.mining.shards import Shard, file_hash, output_key
from dsmath_jax.mining.sorted_arrays import is_in_sorted
from dsmath_jax.mining.workers import Progress


# ---- Classifier ---------------------------------------------------------------------------------
def train(run: Run, number: int) -> None:
    """Trains the classifier of an iteration, and measures it on hosts that it never saw.

    Negatives are random pages that neither are in the seed nor were above the cut of the iteration
    before: the paper does not say so, but what was found to be mathematical is no negative.
    With `config.classifier.path` the first iteration's is given, and nothing is trained for it.
    """
    c, folder = run.config, run.folder(number)
    folder.mkdir(parents=True, exist_ok=True)
    if number == 1 and (c.seed or not c.classifier.path):
        seed = training_set.read_seed(c.seed, c.positives)
        page_rows.write(seed, training_set.TEXTS, folder / "seed.parquet")
    if number == 1 and c.classifier.path:
        classifier.Scorer(c.classifier.path)
        run.note(number, "train", {"classifier": c.classifier.path})
        return
    positives = list(training_set.read_texts([needed(folder / "seed.parquet", "grow", number - 1)]))
    known = {row["url_hash"] for row in positives}
    if number > 1:
        known |= set(run.above(number - 1).tolist())
    sets = {
        "positives": training_set.draw(positives, c.positives, number),
        "negatives": training_set.draw(_random_pages(run), c.negatives, number, known),
    }

    def is_out(row: dict[str, Any]) -> bool:
        return quality.held_out(row["host"], c.held_out_share, c.classifier.seed)

    (folder / "training").mkdir(exist_ok=True)
    inputs = []
    for name, rows in sets.items():
        path = folder / "training" / f"{name}.parquet"
        page_rows.write([row for row in rows if not is_out(row)], training_set.TEXTS, path)
        inputs.append(path)
    key = " ".join(file_hash(path) for path in inputs)
    shard = Shard("classifier", tuple(str(path) for path in inputs), key)
    settings = c.classifier.to_dict()
    del settings["path"]
    run.do(training, 1, [shard], folder / "model", settings)
    measured = {name: [row for row in rows if is_out(row)] for name, rows in sets.items()}
    found: dict[str, Any] = {
        name: {
            "pages": len(rows),
            "languages": _tally(row["language"] for row in rows),
            "sources": _tally(row["source"] for row in rows),
        }
        for name, rows in sets.items()
    }
    found["seed"] = len(positives)
    found["held_out"] = _quality(_model(run, number), measured)
    run.note(number, "train", found)


def training(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """The job that trains; inputs are files of positives and of negatives."""
    files = [[pathlib.Path(path)] for path in shard.inputs]
    positives, negatives = [(row["text"] for row in training_set.read_texts(of)) for of in files]
    settings.pop("rate")
    classifier.train(positives, negatives, folder / "model.bin", **settings)
    return {}


def _random_pages(run: Run) -> Iterable[dict[str, Any]]:
    """Texts of pages of the archives, from which negatives are drawn."""
    c = run.config
    shards = run.shards
    if c.sampled_inputs:
        shards = sorted(shards, key=lambda s: hashlib.sha256(s.inputs[0].encode()).digest())
        shards = sorted(shards[: c.sampled_inputs], key=lambda s: s.name)
    settings = {"share": c.sampled_share, "max_page_bytes": c.max_page_bytes}
    folder = run.workdir / "sample"
    run.do(training_set.sample, training_set.SAMPLE_VERSION, shards, folder, settings)
    return training_set.read_texts([folder / s.name / "sample.parquet" for s in shards])


def _model(run: Run, number: int) -> pathlib.Path:
    if number == 1 and run.config.classifier.path:
        return pathlib.Path(run.config.classifier.path)
    path = run.folder(number) / "model" / "classifier" / "model.bin"
    return needed(classifier.collapsed_path(path), "train", number)


def _quality(model: pathlib.Path, measured: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """By language, and of "all"."""
    scorer = classifier.Scorer(model)
    rows = [*measured["positives"], *measured["negatives"]]
    labels = np.arange(len(rows)) < len(measured["positives"])
    scores = scorer([row["text"] for row in rows])
    languages = np.array([row["language"] for row in rows], "U8")
    found = {"all": quality.measures(scores, labels)}
    for name in sorted(set(languages.tolist())):
        here = languages == name
        found[name] = quality.measures(scores[here], labels[here])
    return found


# ---- Scores and the cut -------------------------------------------------------------------------
def score_pages(run: Run, number: int) -> None:
    """Scores every page of the archives."""
    model = _model(run, number) if run.config.classify else None
    settings = {
        "max_page_bytes": run.config.max_page_bytes,
        "classifier_hash": file_hash(model) if model else "",
    }
    folder = run.folder(number) / "scores"
    found = run.do(
        score.score, score.VERSION, run.shards, folder, settings, classifier=str(model or "")
    )
    run.note(number, "score", found)
    _check_rejected(run, found)


def _check_rejected(run: Run, found: dict[str, Any]) -> None:
    rejected = sum(found.get("rejected", {}).values())
    records = rejected + found.get("pages", 0)
    if rejected > run.config.max_rejected_share * max(1, records):
        raise InputError(
            f"{rejected:,} of {records:,} records were rejected ({found['rejected']}), more than "
            f"config.max_rejected_share={run.config.max_rejected_share}; which they are: "
            f"{run.workdir}/iter*/scores/*/rejected.parquet"
        )
    if not found.get("pages"):
        raise InputError(f"no page in {len(run.shards)} archives: nothing to mine")


def collect(run: Run, number: int) -> None:
    """Takes the best pages up to the budgets; without a classifier all of them."""
    c = run.config
    budgets = {name: of[min(number, len(of)) - 1] for name, of in c.budgets.items()}
    if not c.classify:
        budgets = dict.fromkeys(ranking.LANGUAGES, 2**62)
    least = c.min_score if c.classify else 0.0
    files, above = run.rows(number), run.folder(number) / "above.npy"
    made_of = [output_key(file.parent) for file in files]
    key = content_key([made_of, budgets, least, c.labels])
    if above.exists() and run.notes(number).get("collect", {}).get("key") == key:
        run.say("collect: done already")
        return
    start = time.perf_counter()
    found = ranking.collect(files, budgets, run.folder(number) / "ranking", least)
    hashes = run.choose(number, "chosen", found.chosen)
    save_array(above, np.sort(hashes))
    report = {
        "key": key,
        "pages": found.counts["pages"],
        "seconds": round(time.perf_counter() - start, 3),
        "counts": found.counts,
        "cuts": {name: least for name, (least, _) in found.cuts.items()},
        "histograms": {name: _coarse(h) for name, h in found.histograms.items()},
    }
    if c.labels:
        report["measured"] = measured(run, number, found.cuts)
    run.note(number, "collect", report)


def measured(
    run: Run, number: int, cuts: Mapping[str, tuple[float, int]]
) -> dict[str, dict[str, float]]:
    """By language and of "all": precision and recall of the cut, of pages that have a label."""
    labels = quality.read_labels(run.config.labels)
    right, language, above = [], [], []
    for file in run.rows(number):
        rows = page_rows.read(file, ["url_hash", "language", "score"])
        taken = {
            name: select.taken(rows["score"], rows["url_hash"], last) for name, last in cuts.items()
        }
        for i, url_hash in enumerate(rows["url_hash"].tolist()):
            if url_hash in labels:
                right.append(labels[url_hash])
                language.append(rows["language"][i])
                above.append(bool(rows["language"][i] in taken and taken[language[-1]][i]))
    found = {}
    for name in ("all", *sorted(set(language))):
        here = np.array([name in ("all", x) for x in language], bool)
        found[name] = quality.precision_recall(np.array(above)[here], np.array(right)[here])
    return found


def _coarse(histogram: np.ndarray) -> list[list[int]]:
    """[2, 64]: pages and tokens."""
    return histogram.reshape(2, 64, -1).sum(axis=2).tolist()


# ---- From pages to the corpus -------------------------------------------------------------------
def extract(run: Run, number: int) -> None:
    """Reads the taken pages again, for their content with its formulas."""
    found = run.do(
        clean.extraction,
        clean.EXTRACT_VERSION,
        run.chosen(number, "chosen", "collect"),
        run.folder(number) / "documents",
        {"max_page_bytes": run.config.max_page_bytes},
    )
    run.note(number, "extract", found)


def deduplicate(run: Run, number: int) -> None:
    """Finds near-duplicates, and which page of each cluster stays."""
    folder = run.folder(number)
    documents = run.made(folder / "documents", "extract", number, "documents.parquet")
    counted = [
        run.do(clean.signatures, clean.SIGNATURES_VERSION, documents, folder / "signatures", {})
    ]
    signed = run.made(folder / "signatures", "deduplicate", number, "shard")
    paths, keys = [s.inputs[0] for s in signed], " ".join(s.key for s in signed)
    settings = {"parts": run.config.parts}
    parts = [Shard(f"{n:04d}", tuple(paths), keys) for n in range(run.config.parts)]
    counted.append(run.do(clean.pairs, clean.PAIRS_VERSION, parts, folder / "pairs", settings))
    names = [folder / "pairs" / part.name for part in parts]
    pairs, keys = [str(n / "pairs.npy") for n in names], " ".join(output_key(n) for n in names)
    parts = [Shard(part.name, tuple(pairs), keys) for part in parts]
    where = folder / "similar"
    counted.append(
        run.do(clean.similar, clean.SIMILAR_VERSION, parts, where, settings, signatures=paths)
    )
    similar = [str(folder / "similar" / part.name / "similar.npy") for part in parts]
    found = duplicate_clusters.find_duplicates(paths, similar)
    partial = folder / "duplicates.partial.npz"
    of = np.array(_documents_key(documents))
    np.savez(partial, of=of, page=found.page, kept=found.kept, similarity=found.similarity)
    partial.replace(folder / "duplicates.npz")
    sizes = {str(size): count for size, count in found.sizes().items()}
    report = {"cluster_sizes": sizes, "near-duplicates": len(found.page)}
    report["pages"] = counted[0].get("pages", 0)
    report["seconds"] = round(sum(counts["seconds"] for counts in counted), 3)
    run.note(number, "deduplicate", report)


def decontaminate(run: Run, number: int) -> None:
    """Removes near-duplicates, where they were looked for, and pages with benchmarks' texts."""
    folder = run.folder(number)
    documents = run.made(folder / "documents", "extract", number, "documents.parquet")
    duplicates, key = folder / "duplicates.npz", ""
    if duplicates.exists():
        with np.load(duplicates) as arrays:
            if str(arrays["of"]) != _documents_key(documents):
                raise InputError(
                    f"{duplicates} is of other documents: run --stage=deduplicate "
                    f"--iteration={number} again, or remove the file"
                )
            key = arrays_hash(*(arrays[name] for name in ("page", "kept", "similarity")))
    index_key = folder_hash(run.index) if run.index else ""
    given = (str(duplicates) if key else "", run.index)
    shards = [
        Shard(s.name, (*s.inputs, *given, *of.inputs), f"{s.key} {key} {index_key}")
        for s, of in zip(documents, run.shards, strict=True)
    ]
    found = run.do(clean.cleaning, clean.CLEAN_VERSION, shards, folder / "corpus", {})
    taken = [page_rows.read(file, ["url_hash"])["url_hash"] for file in corpus_files(run, number)]
    hashes = np.unique(np.concatenate([np.zeros(0, np.uint64), *taken]))
    save_array(folder / "taken.npy", hashes)
    if number > 1:
        before = run.taken(number - 1)
        found["taken_before"] = len(before)
        found["overlap"] = float(is_in_sorted(hashes, before).mean()) if len(hashes) else 0.0
    run.note(number, "decontaminate", found)


def _documents_key(documents: Sequence[Shard]) -> str:
    return content_key([shard.key for shard in documents])


def corpus_files(run: Run, number: int) -> list[pathlib.Path]:
    """The files of an iteration's corpus."""
    folders = [run.folder(number) / "corpus" / shard.name for shard in run.shards]
    return [needed(folder / "clean.parquet", "decontaminate", number) for folder in folders]


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(add_counts({name: 1} for name in names).items()))
