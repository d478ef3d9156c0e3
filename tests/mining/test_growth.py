"""Stages between two iterations, on files of rows made by hand."""

import json

import numpy as np
import pytest

pytest.importorskip("fastwarc", reason="the extra `mining`")

import pyarrow.parquet as pq

from dsmath_jax.mining import domain_stage, growth, page_rows, urls
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.shards import Shard
from dsmath_jax.mining.workers import Progress


def write_rows(path, addresses):
    rows = []
    for n, url in enumerate(addresses):
        row = {"url_hash": urls.url_hash(url), "url": url, "host": urls.host(url), "score": 0.5}
        row |= {"language": "en", "tokens": 9, "text_hash": n, "source": 0, "date": ""}
        rows.append(row | {"offset": n, "length": 1})
    rows.sort(key=lambda row: row["url_hash"])
    page_rows.write(rows, page_rows.ROWS, path)
    return rows


def test_pages_of_accepted_groups_that_were_not_collected(tmp_path):
    addresses = [
        f"https://{host}/{folder}/{n}.html"
        for host in ("a.org", "b.org", "c.org")
        for folder in ("math", "news")
        for n in range(20)
    ]
    rows = write_rows(tmp_path / "rows.parquet", addresses)
    collected = np.array([row["url_hash"] for row in rows][::3], np.uint64)
    np.save(tmp_path / "collected.npy", collected)
    (tmp_path / "accepted.json").write_text(json.dumps(["a.org/math/", "b.org/*"]))
    names = ("rows.parquet", "collected.npy", "accepted.json")
    shard = Shard("0", tuple(str(tmp_path / name) for name in names), "")
    counts = growth.find_accepted(shard, tmp_path, {}, Progress())
    found = np.load(tmp_path / "found.npy")
    expected = [
        n
        for n, row in enumerate(rows)
        if ("a.org/math/" in row["url"] or "b.org/" in row["url"]) and n % 3
    ]
    assert found["row"].tolist() == expected and counts == {"found": len(expected)}
    hashes = np.array([rows[n]["url_hash"] for n in expected], np.uint64)
    assert np.array_equal(found["order"], mix(hashes))


def test_hosts_of_many_files_add_up(tmp_path):
    np.save(tmp_path / "collected.npy", np.array([urls.url_hash("https://h0.org/0")], np.uint64))
    files = []
    for n in range(230):
        folder = tmp_path / str(n)
        folder.mkdir()
        write_rows(folder / "rows.parquet", [f"https://h{n % 7}.org/{n}", "https://every.org/"])
        inputs = (str(folder / "rows.parquet"), str(tmp_path / "collected.npy"))
        domain_stage.count_hosts(Shard(str(n), inputs, ""), folder, {}, Progress())
        files.append(folder / "hosts.parquet")
    assert pq.read_table(files[0])["pages"].to_pylist() == [1, 1]
    total = domain_stage._sum_hosts(files)
    assert total["host"].to_pylist() == ["every.org", *(f"h{n}.org" for n in range(7))]
    assert total["pages"].to_pylist() == [230, *(len(range(n, 230, 7)) for n in range(7))]
    assert total["collected"].to_pylist() == [0, 1, 0, 0, 0, 0, 0, 0]
    assert total["scores"].to_pylist() == [n / 2 for n in total["pages"].to_pylist()]
