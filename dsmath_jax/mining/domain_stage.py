"""The stage "domains": which domains are mathematical, and the URL-path groups of their pages
(DeepSeekMath 2.1)."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from dsmath_jax.mining import domains, page_rows
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.run import Run, needed
from dsmath_jax.mining.shards import Shard, file_hash, output_key
from dsmath_jax.mining.sorted_arrays import is_in_sorted
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


def find_domains(run: Run, number: int) -> None:
    """Writes domains.parquet, all domains with their counts, and groups.parquet, the URL-path
    groups of those of which more than `config.domain_share` was collected."""
    c, folder = run.config, run.folder(number)
    collected = needed(folder / "above.npy", "collect", number)
    key = file_hash(collected)
    shards = [
        Shard(shard.name, (str(rows), str(collected)), f"{output_key(rows.parent)} {key}")
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
    groups = domains.add_groups(read_groups(file) for file in files)
    page_rows.write([_group_row(g) for g in groups], GROUPS, folder / "groups.parquet")
    run.note(number, "domains", _about_domains(run, number, counts, is_math))


def count_hosts(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes hosts.parquet. Inputs: rows, and url_hash of the pages that are collected (.npy)."""
    rows, above = shard.inputs
    table = pq.read_table(rows, columns=["url_hash", "host", "score"])
    collected = is_in_sorted(table["url_hash"].to_numpy(), np.load(above, mmap_mode="r"))
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
    """By halves: a file's hosts are summed as often as the files can be halved."""
    if len(files) > 100:
        middle = len(files) // 2
        tables = [_sum_hosts(files[:middle]), _sum_hosts(files[middle:])]
    else:
        tables = [HOSTS.empty_table(), *(pq.read_table(file) for file in files)]
    return _by_host(pa.concat_tables(tables))


def count_groups(
    shard: Shard, folder: pathlib.Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Writes groups.parquet of the pages of mathematical domains.

    Inputs: rows, url_hash of the pages that are collected (.npy), names of the domains (.parquet).
    """
    rows, above, names = shard.inputs
    columns = ["url_hash", "url", "host", "score", "source", "offset", "length"]
    table = pq.read_table(rows, columns=columns)
    hosts = pq.read_table(names)["host"]
    table = table.filter(pyarrow.compute.is_in(table["host"].cast(pa.string()), hosts))
    collected = is_in_sorted(table["url_hash"].to_numpy(), np.load(above, mmap_mode="r")).tolist()
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


def read_groups(file: pathlib.Path) -> Iterator[domains.Group]:
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
