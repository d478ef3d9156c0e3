"""The miner's loop (DeepSeekMath 2.1): train a classifier, score every page, take the best, remove
near-duplicates and benchmarks, see which domains they come from, have their URL groups annotated,
and begin again with a larger seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import (
    annotation,
    benchmark_texts,
    classifier,
    clean,
    common_crawl,
    decontamination,
    domains,
    duplicate_clusters,
    page_rows,
    quality,
    score,
    storage,
    training_set,
)
from dsmath_jax.mining.archives import read_pages_at
from dsmath_jax.mining.collect import Collection, collect
from dsmath_jax.mining.pages import Page
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
class Mine:
    """One run: where it works, and what it reads."""

    config: ConfigDict
    workdir: pathlib.Path
    engine: Engine
    say: Say
    inputs: list[str]
    shards: list[Shard]  # of the inputs
    seed: list[dict[str, Any]]  # rows of training_set.TEXTS
    index: str  # path of the benchmarks' index, "" where there are none
    self_test: dict[str, Any]

    def run(self, stage: Stage, version: int, shards: Sequence[Shard], folder: str, settings: dict):
        return run_shards(
            stage, version, shards, self.workdir / folder, settings, self.engine, self.say
        )


def open_mine(config: ConfigDict, workdir: pathlib.Path, say: Say = print) -> Mine:
    """Reads what a run needs at its start.

    Raises:
      InputError: an input is missing or wrong; the index does not find the benchmarks' own texts.
    """
    if config.annotate not in ("csv", "auto"):
        raise InputError(f"config.annotate={config.annotate!r}: choose one of csv, auto")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--workdir={workdir}: {e.strerror}") from None
    if config.crawl:
        inputs = list(common_crawl.paths(config.crawl, prefix=config.crawl_prefix))
    elif config.inputs:
        inputs = list(storage.list(list(config.inputs)))
    else:
        raise InputError("config.inputs: give archives, or a listing with config.crawl")
    seed = training_set.read_seed(config.seed)
    index, found = _open_benchmarks(config, workdir)
    engine = Engine(config.workers, config.ray, config.stuck_seconds, config.memory_gb)
    shards = list(input_shards(inputs, lambda path: f"{path} {storage.size(path)}"))
    return Mine(config, workdir, engine, say, inputs, shards, seed, index, found)


def _open_benchmarks(config: ConfigDict, workdir: pathlib.Path) -> tuple[str, dict[str, Any]]:
    if not config.benchmarks:
        return "", {}
    items = benchmark_texts.load(list(config.benchmarks))
    index = decontamination.Index.build(items)
    found = decontamination.self_test(index, items)
    path = workdir / "benchmarks"
    index.save(path)
    return str(path), dataclasses.asdict(found) | {"false_removals": found.false_removal_rate}


def mine(run: Mine) -> list[dict[str, Any]]:
    """All iterations that can be done; what each found.

    It ends when an iteration takes hardly any page that the one before had not, after
    `config.iterations`, or where a person is to annotate.
    """
    c, reports = run.config, []
    positives, taken_before = run.seed, np.zeros(0, np.uint64)
    for number in range(1, c.iterations + 1):
        run.say(f"iteration {number} of at most {c.iterations}: {len(positives):,} positives")
        report, taken, rows = iterate(run, number, positives)
        shared = np.isin(taken, taken_before).sum()
        report["overlap"] = float(shared) / max(1, len(taken))
        report["taken_before"] = len(taken_before)
        reports.append(report)
        if number > 1 and report["overlap"] >= c.stop_overlap:
            report["ended"] = f"{report['overlap']:.1%} of the pages taken were taken before"
            break
        if number == c.iterations:
            report["ended"] = f"config.iterations={c.iterations}"
            break
        patterns = annotate(run, number, rows, taken, report)
        if patterns is None:
            report["ended"] = f"annotate {_csv(run, number)}, and start again"
            break
        positives = grow(run, number, positives, patterns, rows, taken, report)
        taken_before = taken
    return reports


# ---- One iteration ------------------------------------------------------------------------------
def iterate(
    run: Mine, number: int, positives: list[dict[str, Any]]
) -> tuple[dict[str, Any], np.ndarray, list[pathlib.Path]]:
    """(what was found, url_hash of each page that was taken, the files of rows)."""
    folder = f"iter{number}"
    report: dict[str, Any] = {"iteration": number}
    model = train(run, number, positives, report)

    settings = {
        "classifier": str(model),
        "classifier_hash": file_hash(model),
        "sources": {path: n for n, path in enumerate(run.inputs)},
        "max_page_bytes": run.config.max_page_bytes,
    }
    counted = run.run(score.score, score.VERSION, run.shards, f"{folder}/scores", settings)
    report["score"] = _sum(counted)
    _check_rejected(run.config, report["score"])
    rows = [run.workdir / folder / "scores" / s.name / "rows.parquet" for s in run.shards]

    found = collect(rows, run.config.budgets.to_dict(), run.config.min_score)
    report["collected"] = found.counts
    report["cuts"] = {name: least for name, (least, _) in found.cuts.items()}
    report["histograms"] = {name: _coarse(h) for name, h in found.histograms.items()}
    taken = clean_corpus(run, folder, rows, found, report)
    return report, taken, rows


def train(
    run: Mine, number: int, positives: list[dict[str, Any]], report: dict[str, Any]
) -> pathlib.Path:
    """The collapsed classifier of an iteration, and how it does on hosts that it never saw."""
    c = run.config
    chosen = run.shards
    if c.sampled_inputs:
        chosen = sorted(chosen, key=lambda s: hashlib.sha256(s.inputs[0].encode()).digest())
        chosen = sorted(chosen[: c.sampled_inputs], key=lambda s: s.name)
    settings = {"share": c.sampled_share, "max_page_bytes": c.max_page_bytes}
    run.run(training_set.sample, training_set.SAMPLE_VERSION, chosen, "sample", settings)
    files = [run.workdir / "sample" / s.name / "sample.parquet" for s in chosen]
    known = [row["url_hash"] for row in positives]
    negatives = training_set.draw(training_set.read_texts(files), c.negatives, number, known)
    positives = training_set.draw(positives, c.positives, number)

    def out(row: dict[str, Any]) -> bool:
        return quality.held_out(row["host"], c.held_out_share, c.classifier.seed)

    sets = {"positives": positives, "negatives": negatives}
    trained = {name: [row for row in rows if not out(row)] for name, rows in sets.items()}
    measured = {name: [row for row in rows if out(row)] for name, rows in sets.items()}
    folder = run.workdir / f"iter{number}" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    inputs = []
    for name, rows in trained.items():
        page_rows.write(rows, training_set.TEXTS, folder / f"{name}.parquet")
        inputs.append(str(folder / f"{name}.parquet"))
    shard = Shard("classifier", tuple(inputs), " ".join(file_hash(pathlib.Path(p)) for p in inputs))
    run.run(training, 1, [shard], f"iter{number}/model", c.classifier.to_dict())
    model = run.workdir / f"iter{number}" / "model" / "classifier" / "model.bin"
    report["seed"] = {
        name: {"pages": len(rows), "languages": _languages(rows)} for name, rows in sets.items()
    }
    report["held_out"] = _quality(classifier.collapsed_path(model), measured)
    return classifier.collapsed_path(model)


def training(shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress) -> dict:
    """The stage that trains: inputs are files of positives and negatives."""
    files = [[pathlib.Path(path)] for path in shard.inputs]
    positives, negatives = [(row["text"] for row in training_set.read_texts(of)) for of in files]
    classifier.train(positives, negatives, folder / "model.bin", **settings)
    return {}


def clean_corpus(
    run: Mine,
    folder: str,
    rows: Sequence[pathlib.Path],
    found: Collection,
    report: dict[str, Any],
) -> np.ndarray:
    """From the chosen rows to the iteration's corpus; url_hash of each page that was taken."""
    c = run.config
    settings = {
        "inputs": {n: path for n, path in enumerate(run.inputs)},
        "max_page_bytes": c.max_page_bytes,
    }
    chosen = _chosen_shards(run, f"{folder}/chosen", rows, found.chosen)
    counted = run.run(
        clean.extraction, clean.EXTRACT_VERSION, chosen, f"{folder}/documents", settings
    )
    report["extraction"] = _sum(counted)

    documents = _next(run, f"{folder}/documents", chosen, "documents.parquet")
    run.run(clean.signatures, clean.SIGNATURES_VERSION, documents, f"{folder}/signatures", {})
    signed = _next(run, f"{folder}/signatures", documents, "shard")
    paths, keys = [s.inputs[0] for s in signed], " ".join(s.key for s in signed)
    settings = {"parts": c.parts}
    parts = [Shard(f"{n:04d}", tuple(paths), keys) for n in range(c.parts)]
    run.run(clean.pairs, clean.PAIRS_VERSION, parts, f"{folder}/pairs", settings)
    paired = _next(run, f"{folder}/pairs", parts, "pairs.npy")
    parts = [
        Shard(s.name, tuple(p.inputs[0] for p in paired), " ".join(p.key for p in paired))
        for s in paired
    ]
    run.run(
        clean.similar,
        clean.SIMILAR_VERSION,
        parts,
        f"{folder}/similar",
        settings | {"shards": paths},
    )
    similar = [s.inputs[0] for s in _next(run, f"{folder}/similar", parts, "similar.npy")]
    near = duplicate_clusters.find_duplicates(paths, similar)
    duplicates = run.workdir / folder / "duplicates.npz"
    with duplicates.open("wb") as file:
        np.savez(file, page=near.page, kept=near.kept, similarity=near.similarity)
    report["cluster_sizes"] = {str(size): count for size, count in near.sizes().items()}

    key = hashlib.sha256(
        b"".join(x.tobytes() for x in (near.page, near.kept, near.similarity))
    ).hexdigest()
    index_key = _folder_hash(pathlib.Path(run.index)) if run.index else ""
    cleaned = [
        Shard(s.name, (s.inputs[0], str(duplicates), run.index), f"{s.key} {key} {index_key}")
        for s in documents
    ]
    counted = run.run(clean.cleaning, clean.CLEAN_VERSION, cleaned, f"{folder}/corpus", {})
    report["corpus"] = _sum(counted)
    files = [run.workdir / folder / "corpus" / s.name / "clean.parquet" for s in cleaned]
    taken = [page_rows.read(file, ["url_hash"])["url_hash"] for file in files]
    return np.unique(np.concatenate([np.zeros(0, np.uint64), *taken]))


# ---- Between iterations -------------------------------------------------------------------------
def annotate(
    run: Mine,
    number: int,
    rows: Sequence[pathlib.Path],
    taken: np.ndarray,
    report: dict[str, Any],
) -> list[str] | None:
    """Patterns of URL groups whose pages are mathematical; None where a person must say so."""
    c = run.config
    columns = [page_rows.read(f, ["url_hash", "url", "host", "score"]) for f in rows]
    counts = domains.add(
        domains.count(x["host"], np.isin(x["url_hash"], taken), x["score"]) for x in columns
    )
    names = set(domains.mathematical(counts, c.domain_share, c.domain_pages))
    report["domains"] = {name: counts[name] for name in sorted(names)}
    pages: dict[str, dict[str, tuple[str, bool, float]]] = {name: {} for name in names}
    for x in columns:
        collected = np.isin(x["url_hash"], taken)
        for i, host in enumerate(x["host"]):
            if host in names:
                page = (x["url"][i], bool(collected[i]), float(x["score"][i]))
                pages[host][x["url"][i]] = page
    groups = [
        group
        for name in sorted(names)
        for group in domains.path_groups(list(pages[name].values()), c.group_depth, c.group_pages)
        if group.count.pages >= c.group_pages and group.count.gain
    ]
    path = _csv(run, number)
    asked = [annotation.make_row(g, number, _sample_texts(run, g, rows)) for g in groups]
    before = annotation.read(path, number) if path.exists() else []
    asked = annotation.kept_decisions(asked, before)
    annotation.write(asked, path)
    report["asked"] = len(asked)
    decided = [row for row in asked if row.decision]
    report["decided_by_a_person"] = len(decided)
    if c.annotate == "csv" and asked and not decided:
        return None
    return annotation.accepted(asked, auto=c.annotate == "auto")


def grow(
    run: Mine,
    number: int,
    positives: list[dict[str, Any]],
    patterns: list[str],
    rows: Sequence[pathlib.Path],
    taken: np.ndarray,
    report: dict[str, Any],
) -> list[dict[str, Any]]:
    """The next seed: the positives, and pages of accepted groups that were not taken."""
    accepted = domains.Patterns(patterns)
    chosen = []
    for file in rows:
        columns = page_rows.read(file, ["url_hash", "url"])
        new = ~np.isin(columns["url_hash"], taken)
        chosen.append(new & np.array([url in accepted for url in columns["url"]], bool))
    shards = _chosen_shards(run, f"iter{number}/added_rows", rows, chosen)
    settings = {
        "inputs": {n: path for n, path in enumerate(run.inputs)},
        "max_page_bytes": run.config.max_page_bytes,
    }
    run.run(training_set.added, training_set.ADDED_VERSION, shards, f"iter{number}/added", settings)
    files = [run.workdir / f"iter{number}" / "added" / s.name / "added.parquet" for s in shards]
    known = {row["url_hash"]: row for row in positives}
    for row in training_set.read_texts(files):
        known.setdefault(row["url_hash"], row)
    report["patterns"] = patterns
    report["added"] = len(known) - len(positives)
    return [known[h] for h in sorted(known)]


# ---- Small parts --------------------------------------------------------------------------------
def _chosen_shards(
    run: Mine, folder: str, rows: Sequence[pathlib.Path], chosen: Sequence[np.ndarray]
) -> list[Shard]:
    """A shard for each file of rows, with which of them are chosen."""
    target = run.workdir / folder
    target.mkdir(parents=True, exist_ok=True)
    shards = []
    for shard, file, which in zip(run.shards, rows, chosen, strict=True):
        path = target / f"{shard.name}.npy"
        np.save(path, which)
        key = f"{output_key(file.parent)} {file_hash(path)}"
        shards.append(Shard(shard.name, (str(file), str(path)), key))
    return shards


def _next(run: Mine, folder: str, shards: Sequence[Shard], name: str) -> list[Shard]:
    """Shards that read a file of each of these, which are done."""
    done = [run.workdir / folder / shard.name for shard in shards]
    return [Shard(path.name, (str(path / name),), output_key(path)) for path in done]


def _sample_texts(run: Mine, group: domains.Group, rows: Sequence[pathlib.Path]) -> list[str]:
    """Beginnings of the texts of a group's sample."""
    wanted = annotation.sample_urls(group)[: annotation.TEXTS]
    places: dict[str, tuple[int, int, int]] = {}
    for file in rows:
        columns = page_rows.read(file, ["url", "source", "offset", "length"])
        for i, url in enumerate(columns["url"]):
            if url in wanted:
                source, offset, length = (int(columns[n][i]) for n in columns if n != "url")
                places[url] = source, offset, length
    texts = []
    for url in wanted:
        source, offset, length = places[url]
        page = next(read_pages_at(run.inputs[source], [(offset, length)]))
        texts.append((score.text_of(page) or "") if isinstance(page, Page) else "")
    return texts


def _folder_hash(folder: pathlib.Path) -> str:
    return " ".join(file_hash(path) for path in sorted(folder.rglob("*")) if path.is_file())


def _csv(run: Mine, number: int) -> pathlib.Path:
    return run.workdir / f"annotate_iter{number}.csv"


def _check_rejected(config: ConfigDict, counts: dict[str, Any]) -> None:
    rejected = sum(counts.get("rejected", {}).values())
    records = rejected + counts.get("pages", 0)
    if rejected > config.max_rejected_share * max(1, records):
        raise InputError(
            f"{rejected} of {records} records were rejected ({counts['rejected']}), more than "
            f"config.max_rejected_share={config.max_rejected_share}"
        )


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


def _languages(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["language"]] = counts.get(row["language"], 0) + 1
    return dict(sorted(counts.items()))


def _sum(counted: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Numbers, and dictionaries of numbers, added up."""
    total: dict[str, Any] = {}
    for counts in counted:
        for name, value in counts.items():
            if isinstance(value, dict):
                total[name] = _sum([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total


def _coarse(histogram: np.ndarray) -> list[list[int]]:
    """[2, 64]: pages and tokens."""
    return histogram.reshape(2, 64, -1).sum(axis=2).tolist()


def write_json(path: pathlib.Path, value: Any) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    partial.replace(path)
