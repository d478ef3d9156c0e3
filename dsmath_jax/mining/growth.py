"""The stages between two iterations: which domains are mathematical, which groups of their pages a
person is asked about, and how what is accepted makes the next seed (DeepSeekMath 2.1)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from dsmath_jax.mining import annotation, domains, page_rows, score, training_set
from dsmath_jax.mining.archives import read_pages_at
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.pages import Limits, Page
from dsmath_jax.mining.run import Run, needed
from dsmath_jax.mining.shards import Shard, file_hash, output_key
from dsmath_jax.mining.workers import Progress

HOSTS = pa.schema(
    [
        ("host", pa.string()),
        ("pages", pa.int64()),
        ("collected", pa.int64()),
        ("scores", pa.float64()),
    ]
)
GROUPS = pa.schema(
    [
        ("depth", pa.int32()),
        ("pattern", pa.string()),
        ("parent", pa.string()),
        ("pages", pa.int64()),
        ("collected", pa.int64()),
        ("scores", pa.float64()),
        (
            "samples",
            pa.list_(
                pa.struct(
                    [
                        ("order", pa.uint64()),
                        ("url", pa.string()),
                        ("source", pa.int32()),
                        ("offset", pa.int64()),
                        ("length", pa.int64()),
                    ]
                )
            ),
        ),
    ]
)
VERSION = 1
SHOWN = 50  # domains in the report


# ---- Domains ------------------------------------------------------------------------------------
def find_domains(run: Run, number: int) -> None:
    """Writes domains.parquet, all domains with their counts, and groups.parquet, the URL-path
    groups of those of which more than `config.domain_share` was collected."""
    c, folder = run.config, run.folder(number)
    taken = needed(folder / "taken.npy", "decontaminate", number)
    key = file_hash(taken)
    shards = [
        Shard(shard.name, (str(rows), str(taken)), f"{output_key(rows.parent)} {key}")
        for shard, rows in zip(run.shards, run.rows(number), strict=True)
    ]
    run.do(count_hosts, VERSION, shards, folder / "hosts", {})
    files = [folder / "hosts" / shard.name / "hosts.parquet" for shard in shards]
    counts = _sum_hosts(files)
    pq.write_table(counts, folder / "domains.parquet", compression="zstd")

    pages, share = counts["pages"].to_numpy(), counts["collected"].to_numpy()
    is_math = (share > c.domain_share * pages) & (pages >= c.domain_pages)
    names = counts["host"].filter(pa.array(is_math))
    mathematical = folder / "mathematical.parquet"
    pq.write_table(pa.table([names], ["host"]), mathematical)
    shards = [
        Shard(s.name, (*s.inputs, str(mathematical)), f"{s.key} {file_hash(mathematical)}")
        for s in shards
    ]
    settings = {"depth": c.group_depth}
    run.do(count_groups, VERSION, shards, folder / "groups", settings)
    files = [folder / "groups" / shard.name / "groups.parquet" for shard in shards]
    groups = domains.add_groups(_read_groups(file) for file in files)
    page_rows.write([_group_row(g) for g in groups], GROUPS, folder / "groups.parquet")
    run.note(number, "domains", _about_domains(run, number, counts, is_math))


def count_hosts(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes hosts.parquet. Inputs: rows, and url_hash of the pages that are collected (.npy)."""
    rows, taken = shard.inputs
    table = pq.read_table(rows, columns=["url_hash", "host", "score"])
    collected = np.isin(table["url_hash"].to_numpy(), np.load(taken))
    table = pa.table(
        {
            "host": table["host"].cast(pa.string()),
            "pages": pa.array(np.ones(len(collected), np.int64)),
            "collected": pa.array(collected.astype(np.int64)),
            "scores": table["score"].cast(pa.float64()),
        }
    )
    pq.write_table(_by_host(table), folder / "hosts.parquet", compression="zstd")
    return {}


def _by_host(table: pa.Table) -> pa.Table:
    names = HOSTS.names[1:]
    sums = table.group_by("host", use_threads=False).aggregate([(name, "sum") for name in names])
    sums = sums.select(["host", *(f"{name}_sum" for name in names)]).rename_columns(HOSTS.names)
    return sums.sort_by("host").cast(HOSTS)


def _sum_hosts(files: list[pathlib.Path]) -> pa.Table:
    total = HOSTS.empty_table()
    for i in range(0, len(files), 100):
        tables = [pq.read_table(file) for file in files[i : i + 100]]
        total = _by_host(pa.concat_tables([total, *tables]))
    return total


def count_groups(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes groups.parquet of the pages of mathematical domains.

    Inputs: rows, url_hash of the pages that are collected (.npy), names of the domains (.parquet).
    """
    rows, taken, names = shard.inputs
    columns = ["url_hash", "url", "host", "score", "source", "offset", "length"]
    table = pq.read_table(rows, columns=columns)
    hosts = pq.read_table(names)["host"]
    table = table.filter(pyarrow.compute.is_in(table["host"].cast(pa.string()), hosts))
    collected = np.isin(table["url_hash"].to_numpy(), np.load(taken)).tolist()
    order = mix(table["url_hash"].to_numpy()).tolist()
    pages = (
        domains.Page(
            collected[i],
            row["score"],
            domains.Sample(order[i], row["url"], row["source"], row["offset"], row["length"]),
        )
        for i, row in enumerate(table.to_pylist())
    )
    groups = domains.count_groups(pages, settings["depth"])
    page_rows.write([_group_row(g) for g in groups], GROUPS, folder / "groups.parquet")
    return {}


def _group_row(group: domains.Group) -> dict[str, Any]:
    return {
        "depth": group.depth,
        "pattern": group.pattern,
        "parent": group.parent,
        **group.count._asdict(),
        "samples": [sample._asdict() for sample in group.samples],
    }


def _read_groups(file: pathlib.Path) -> Iterator[domains.Group]:
    for row in pq.read_table(file).to_pylist():
        samples = tuple(domains.Sample(**sample) for sample in row["samples"])
        count = domains.Count(row["pages"], row["collected"], row["scores"])
        yield domains.Group(row["depth"], row["pattern"], row["parent"], count, samples)


def _about_domains(run: Run, number: int, counts: pa.Table, is_math: np.ndarray) -> dict[str, Any]:
    """For the report: the mathematical domains with most to gain, and those gained and lost."""
    gain = counts["pages"].to_numpy() - counts["collected"].to_numpy()
    order = np.lexsort((-gain, ~is_math))[: min(SHOWN, int(is_math.sum()))]
    found: dict[str, Any] = {
        "domains": len(counts),
        "mathematical": int(is_math.sum()),
        "most_to_gain": counts.take(pa.array(order)).to_pylist(),
    }
    now = _collected(counts)
    before: dict[str, int] = {}
    if number > 1:
        path = needed(run.folder(number - 1) / "domains.parquet", "domains", number - 1)
        before = _collected(pq.read_table(path))
    changes = {host: now.get(host, 0) - before.get(host, 0) for host in now.keys() | before.keys()}
    by_change = sorted(changes.items(), key=lambda item: (-abs(item[1]), item[0]))
    found["gained"] = [
        [host, before.get(host, 0), now.get(host, 0)] for host, n in by_change if n > 0
    ][:SHOWN]
    found["lost"] = [
        [host, before.get(host, 0), now.get(host, 0)] for host, n in by_change if n < 0
    ][:SHOWN]
    found["with_pages"], found["with_pages_before"] = len(now), len(before)
    return found


def _collected(counts: pa.Table) -> dict[str, int]:
    """Host -> pages, where there are any."""
    some = counts.filter(pyarrow.compute.greater(counts["collected"], 0))
    return dict(zip(some["host"].to_pylist(), some["collected"].to_pylist(), strict=True))


# ---- Annotation ---------------------------------------------------------------------------------
def annotate(run: Run, number: int) -> bool:
    """Writes annotate_iterN.csv and its page, keeping decisions that are there; whether the loop
    can go on: something was decided, suggestions are taken, or there is nothing to decide."""
    c = run.config
    groups = _read_groups(needed(run.folder(number) / "groups.parquet", "domains", number))
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
    rows = annotation.read(needed(run.csv(number), "annotate", number), number)
    patterns = annotation.accepted(rows, auto=c.annotate == "auto")
    accepted, taken = domains.Patterns(patterns), run.taken(number)
    chosen, hashes = [], []
    for file in run.rows(number):
        columns = page_rows.read(file, ["url_hash", "url"])
        new = ~np.isin(columns["url_hash"], taken)
        chosen.append(new & np.array([url in accepted for url in columns["url"]], bool))
        hashes.append(mix(columns["url_hash"]))
    found = sum(int(which.sum()) for which in chosen)
    if found > c.positives:
        most = np.uint64(c.positives / found * (2**64 - 1))
        chosen = [which & (order < most) for which, order in zip(chosen, hashes, strict=True)]
    run.choose(number, "added_rows", chosen)
    shards = run.chosen(number, "added_rows", "grow")
    settings = {"max_page_bytes": c.max_page_bytes, "source": f"annotation {number}"}
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
