"""Damaged and hostile archives through whole stages in watched processes: what is lost is counted
in `rejected`, what is good is kept, and every run ends."""

import collections
import gzip
import pathlib
import random
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastwarc", reason="archives: pip install 'dsmath-jax[mining]'")
pytest.importorskip("fasttext", reason="fastText: pip install 'dsmath-jax[mining]'")

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import classifier, clean, loop, score
from dsmath_jax.mining.archives import read_pages
from dsmath_jax.mining.defaults import get_defaults
from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.pages import Counts
from dsmath_jax.mining.run import open_run
from dsmath_jax.mining.shards import Engine, Shard, file_hash, input_shards, run_shards
from tests.mining.stages_for_tests import score_with_hostile_pages
from tests.mining.test_archives_damage import mutate, originals
from tests.mining.test_html_text import BOMBS
from tests.mining.warc_files import members, page, response

GOOD = 400  # bytes of a page that is long enough to be scored
ENGINE = Engine(workers=2, stuck_seconds=30.0, memory_gb=8.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.bin"
    texts = [f"page {n} filler" for n in range(40)]
    classifier.train(texts[:20], texts[20:], path, dim=4, buckets=100, min_count=1)
    return classifier.collapsed_path(path)


def run_score(folder, paths, model, stage=score.score, engine=ENGINE):
    """(counts of each file, URLs that have a row, rejected rows)"""
    paths = [str(path) for path in paths]
    settings = {
        "classifier": str(model),
        "classifier_hash": file_hash(model),
        "max_page_bytes": 8 << 20,
        "rate": None,
    }
    shards = list(input_shards(paths, lambda path: file_hash(pathlib.Path(path))))
    counts = run_shards(stage, 1, shards, folder, settings, engine, say=str)
    urls, rejected = [], []
    for shard in shards:
        urls += pq.read_table(folder / shard.name / "rows.parquet")["url"].to_pylist()
        rejected += pq.read_table(folder / shard.name / "rejected.parquet").to_pylist()
    total = collections.Counter(row["reason"] for row in rejected)
    assert total == sum((collections.Counter(c["rejected"]) for c in counts), total.__class__())
    return counts, urls, rejected


def good(*numbers):
    return [f"http://a.example/{n}" for n in numbers]


def test_a_page_of_200_mb_a_file_cut_short_and_wrong_lengths(tmp_path, model):
    large = tmp_path / "large.warc.gz"
    head = response(b"", length=200_000_100, url="x/1").removesuffix(b"\r\n\r\n")
    with gzip.open(large, "wb", compresslevel=1) as out:
        out.write(head + b"<p>a million</p>" * 12_500_000 + b"\r\n\r\n")
    large.write_bytes(members([page(0, GOOD)]) + large.read_bytes() + members([page(2, GOOD)]))
    cut = tmp_path / "cut.warc.gz"
    cut.write_bytes(members([page(n, GOOD) for n in (10, 11, 12)])[:-40])
    wrong = tmp_path / "wrong.warc"
    records = [page(n, GOOD) for n in (20, 21, 22, 23, 24)]
    records[1] = response(b"<html>" + b"more than it says " * 30, length=100)
    records[3] = records[3].replace(b"Content-Length: ", b"Content-Length: -")
    wrong.write_bytes(b"".join(records))
    _, urls, rejected = run_score(tmp_path / "out", [large, cut, wrong], model)
    assert sorted(urls) == good(0, 10, 11, 2, 20, 22, 24)
    reasons = [(row["source"], row["reason"]) for row in rejected]
    assert sorted(reasons) == [
        (0, "too large"),
        (1, "cut short"),
        (2, "no length"),
        (2, "wrong length"),
    ]


@pytest.mark.slow
def test_pages_made_to_hang_are_read_or_counted(tmp_path, model):
    path = tmp_path / "bombs.warc.gz"
    bodies = [html.encode(errors="surrogatepass") for html in BOMBS.values()]
    records = [response(body, url=f"http://bomb.example/{n}") for n, body in enumerate(bodies)]
    mixed = [r for n, bomb in enumerate(records) for r in (bomb, page(n, GOOD))]
    path.write_bytes(b"".join(gzip.compress(record, 1, mtime=0) for record in mixed))
    begin = time.monotonic()
    ((counts,), urls, rejected) = run_score(tmp_path / "out", [path], model)
    assert set(urls) >= set(good(*range(len(bodies))))
    skipped = counts["skipped"].get("short", 0)
    assert counts["pages"] + len(rejected) + skipped == len(mixed)
    assert {row["reason"] for row in rejected} <= {"too large", "not readable"}

    (rows,) = (tmp_path / "out").glob("*/rows.parquet")
    np.save(tmp_path / "chosen.npy", np.ones(counts["pages"], bool))
    shard = Shard("0-bombs", (str(rows), str(tmp_path / "chosen.npy"), str(path)), "")
    settings = {"max_page_bytes": 8 << 20, "rate": None}
    (found,) = run_shards(
        clean.extraction, 1, [shard], tmp_path / "text", settings, ENGINE, say=str
    )
    assert found["pages"] + sum(found["rejected"].values()) == counts["pages"]
    assert found["rejected"].keys() <= {"no content", "not readable"}
    assert time.monotonic() - begin < 120


def test_pages_at_which_processes_hang_die_or_grow_are_counted(tmp_path, model):
    paths = []
    for name in ("hang", "die", "grow"):
        body = f"<html>{name} here {'filler ' * 50}</html>".encode()
        records = [page(1, GOOD), response(body, url="x/bad"), page(2, GOOD)]
        paths.append(tmp_path / f"{name}.warc.gz")
        paths[-1].write_bytes(members(records))
    engine = Engine(workers=2, stuck_seconds=3.0, memory_gb=8.0)
    _, urls, rejected = run_score(tmp_path / "out", paths, model, score_with_hostile_pages, engine)
    assert sorted(urls) == sorted(good(1, 2) * 3)
    assert [(r["source"], r["url"], r["reason"]) for r in rejected] == [
        (n, "x/bad", "crashed or hung") for n in range(3)
    ]


def test_real_archives_of_others(tmp_path, model, data_dir):
    folder = data_dir / "web" / "archives"
    if not folder.is_dir():
        pytest.skip(f"archives: no folder {folder}")
    paths = sorted(folder.glob("*.gz"))
    counts, _, rejected = run_score(tmp_path / "out", paths, model)
    found = {path.name.split("__")[1]: c for path, c in zip(paths, counts, strict=True)}
    assert {name for name, c in found.items() if c["rejected"]} == {"clipped.warc.gz"}
    assert [row["reason"] for row in rejected] == ["cut short"]
    example = found["example.warc.gz"]  # 299 responses, of images, redirects and other protocols
    assert example["pages"] + sum(example["skipped"].values()) == 299 + 523
    assert found["clueweb-quirk.warc.gz"]["pages"] == 29
    assert found["whirlwind.warc.wet.gz"]["pages"] == found["whirlwind.warc.gz"]["pages"] == 1


@pytest.mark.slow
def test_10_000_mutated_records(tmp_path, model):
    draws = random.Random(7)
    paths, numbers = [], []
    for n in range(40):
        parts = []
        for i in range(250):
            one = mutate(draws, draws.choice(originals()))
            parts.append(members([one]) if n % 2 else mutate(draws, members([one])))
            if i % 10 == 9:
                numbers.append(1000 * n + i)
                parts.append(members([page(numbers[-1], GOOD)]))
        paths.append(tmp_path / f"{n}.warc.gz")
        paths[-1].write_bytes(b"".join(parts))
    counts, urls, rejected = run_score(tmp_path / "out", paths, model)
    assert set(urls) >= set(good(*numbers))
    for path, found in zip(paths, counts, strict=True):
        read = Counts()
        pages = collections.deque(read_pages(str(path), counts=read), 0)
        assert not pages
        unread = found["rejected"].get("not readable", 0)
        short = found["skipped"].get("short", 0)
        assert found["pages"] + unread + short == read.pages
        assert sum(found["rejected"].values()) - unread == read.rejected.total()
    assert len(rejected) > 3000


@pytest.mark.slow
def test_a_run_stops_above_its_share_of_damage(tmp_path):
    truth = write_web(tmp_path / "web", pages=300, files=4)
    for path in map(pathlib.Path, truth.archives[:2]):
        data = bytearray(path.read_bytes())
        for at in range(5000, len(data), 20_000):
            data[at : at + 40] = bytes(40)
        path.write_bytes(data)
    c = get_defaults()
    c.inputs, c.seed = truth.archives, truth.seed
    c.classifier.update({"dim": 8, "buckets": 2000, "epochs": 5})
    c.update({"iterations": 1, "workers": 2, "max_rejected_share": 0.02})
    run = open_run(c, tmp_path / "mined", say=str)
    with pytest.raises(InputError, match=r"\d+ of \d+ records were rejected .*max_rejected_share"):
        loop.mine(run)
    c.max_rejected_share = 0.9
    loop.mine(run)
    score = run.notes(1)["score"]
    assert score["rejected"]["damaged gzip"] > 10
    assert score["pages"] > 150
