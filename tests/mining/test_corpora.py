"""Random pages and the seed as corpora beside the mined one."""

import json
import random

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="the extra `mining`")
pytest.importorskip("fastwarc", reason="the extra `mining`")

import pyarrow.parquet as pq

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import corpora, iteration, page_rows
from dsmath_jax.mining.defaults import get_defaults
from dsmath_jax.mining.run import open_benchmarks, open_run

TEXT = "we prove that the sum of all terms is at most one and so this series converges"
PROBLEM = "How many of the ninety seven green apples does Ottoline give to her three tall cousins?"


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pages(count, salt):
    draws = random.Random(salt)
    return [
        {
            "url": f"https://h{n % 7}.example/{salt}/{n}",
            "text": " ".join(draws.choices(TEXT.split(), k=60)) + f" {salt}{n}.",
        }
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that has scored 100 pages of two archives, of which 4 addresses are in both and one
    page holds a benchmark's problem."""
    folder = tmp_path_factory.mktemp("run")
    c = get_defaults()
    first, second = pages(60, "a"), pages(40, "b")
    first[3]["text"] += " " + PROBLEM
    c.inputs = (
        write_lines(folder / "0.jsonl", first),
        write_lines(folder / "1.jsonl", second + first[10:14]),
    )
    seed = [*pages(20, "s"), {"url": "https://h1.example/bad", "text": f"Solve. {PROBLEM} Now."}]
    c.seed = write_lines(folder / "seed.jsonl", seed)
    c.benchmarks = (
        write_lines(folder / "bench.jsonl", [{"id": "1", "question": PROBLEM, "answer": "4"}]),
    )
    c.classify, c.workers = False, 1
    run = open_run(c, folder / "work", lambda line: None)
    open_benchmarks(run)
    iteration.score_pages(run, 1)
    return run


def test_random_pages_do_not_depend_on_files(run, tmp_path):
    files = run.rows(1)
    one = corpora.choose_random(files, 30)
    rows = [page_rows.read(file, ["url_hash"])["url_hash"] for file in files]
    drawn = np.concatenate([r[c] for r, c in zip(rows, one, strict=True)])
    assert len(drawn) == len(set(drawn.tolist())) == 30
    other = corpora.choose_random(files[::-1], 30)
    again = np.concatenate([r[c] for r, c in zip(rows[::-1], other, strict=True)])
    assert sorted(again.tolist()) == sorted(drawn.tolist())
    assert sum(c.sum() for c in corpora.choose_random(files, 1000)) == 100
    seeded = corpora.choose_random(files, 30, seed=1)
    assert any((a != b).any() for a, b in zip(one, seeded, strict=True))


def test_random_pages_and_seed_hold_out_the_mined_hosts_and_no_benchmark(run):
    found = corpora.write_others(run, 1, {"pages": 100, "heldout_share": 0.3})
    folder = run.workdir / "corpora"
    counts = {"random": 99, "seed": 20}
    held = {}
    for name, count in counts.items():
        assert found[name]["pages"] == count and found[name]["iteration"] == 0
        assert found[name] == json.loads((folder / name / "manifest.json").read_text())
        hosts = {}
        for split in ("train", "heldout"):
            rows = pq.read_table(folder / name / "corpus_parquet" / split).to_pylist()
            assert rows and not any("Ottoline" in row["text"] for row in rows)
            hosts[split] = {row["domain"] for row in rows}
        assert not hosts["train"] & hosts["heldout"]
        held[name] = hosts["heldout"]
    assert held["random"] == held["seed"]
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet") if "corpus_p" in str(p)}
    corpora.write_others(run, 1, {"pages": 100, "heldout_share": 0.3})
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_a_bad_seed_is_named_by_line(run, tmp_path):
    path = write_lines(tmp_path / "seed.jsonl", [{"url": "https://a.b", "text": "x"}, {"url": 1}])
    run.config.seed = path
    with pytest.raises(InputError, match=r"seed.jsonl, line 2: not an object with url and text"):
        corpora.export_seed(run, 0.0)
