"""launch/mine.py: the loop on a web with known truth, people's decisions, stages alone."""

import csv
import json
import pathlib
import re
import runpy

import numpy as np
import pytest

pytest.importorskip("fastwarc", reason="the extra `mining`")
pytest.importorskip("fasttext", reason="the extra `mining`")

import pyarrow.parquet as pq

from dsmath_jax.mining import collect as ranking
from dsmath_jax.mining import iteration, urls
from dsmath_jax.mining.defaults import get_defaults
from dsmath_jax.mining.near_duplicates import THRESHOLD, shingles
from dsmath_jax.mining.run import open_run
from tests.conftest import REPO

CONFIG = "--config=configs/mine_tiny.py"
SMALL = ("--config.iterations=2", "--config.workers=2")


def mine(launch, workdir, *flags, check=True):
    return launch("mine.py", CONFIG, *SMALL, f"--workdir={workdir}", *flags, check=check)


@pytest.fixture(scope="module")
def mined(launch, tmp_path_factory) -> pathlib.Path:
    """A run that waited for a person, and then took the suggestions."""
    workdir = tmp_path_factory.mktemp("mined") / "run"
    waits = mine(launch, workdir)
    assert f"ended: decide in {workdir}/annotate_iter1.csv" in waits.stderr
    assert not (workdir / "iter2").exists()
    done = mine(launch, workdir, "--annotate=auto")
    assert "score: 4 shards are done already" in done.stderr
    return workdir


@pytest.fixture(scope="module")
def report(mined):
    return json.loads((mined / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def truth(mined):
    lines = (mined / "web" / "truth.jsonl").read_text(encoding="utf-8").splitlines()
    return {urls.url_hash(row["url"]): row for row in map(json.loads, lines)}


def corpus(mined, number=2):
    files = sorted((mined / f"iter{number}" / "corpus").glob("*/clean.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_the_second_iteration_finds_pages_that_the_first_misses(mined, report, tmp_path):
    first, second = (i["collect"]["measured"] for i in report["iterations"])
    assert first["all"]["precision"] > 0.95
    assert second["all"]["recall"] > 0.93 and second["all"]["precision"] > 0.93
    assert second["zh"]["recall"] > first["zh"]["recall"] + 0.3
    # And not because it takes more: the first classifier, with the second's budgets, finds less.
    config = runpy.run_path(str(REPO / "configs" / "mine_tiny.py"))["get_config"]()
    config.inputs = (str(mined / "web" / "*.warc.gz"),)
    config.labels = str(mined / "web" / "truth.jsonl")
    run = open_run(config, mined, say=lambda line: None)
    budgets = {name: of[1] for name, of in config.budgets.items()}
    found = ranking.collect(run.rows(1), budgets, tmp_path / "ranking")
    at_once = iteration.measured(run, 1, found.cuts)
    assert second["all"]["recall"] > at_once["all"]["recall"] + 0.05
    assert second["all"]["precision"] > at_once["all"]["precision"]


def similarity(a, b):
    a, b = (set(shingles(text).tolist()) for text in (a, b))
    return len(a & b) / len(a | b)


def test_the_corpus_has_no_copies_and_no_benchmarks(mined, report, truth):
    rows = corpus(mined)
    known = [truth[row["url_hash"]] for row in rows]
    assert len({row["url_hash"] for row in rows}) == len(rows) > 200
    texts = {of["url"]: row["text"] for of, row in zip(known, rows, strict=True)}
    for of in known:
        for other in (of["duplicate_of"], of["mirror_of"]):
            assert other not in texts or similarity(texts[of["url"]], texts[other]) < THRESHOLD
    assert not [row["url"] for row in known if row["planted"]]
    removed = report["iterations"][1]["samples"]["removed"]
    assert removed["rows"]["benchmark"] > 0 and removed["rows"]["near-duplicate"] > 0
    assert set(removed["benchmarks"]) == {"benchmarks/english", "benchmarks/chinese"}
    hit = removed["examples"]["benchmark"][0]
    assert hit["url"] and hit["of"].startswith("benchmarks/") and hit["ngram"]


def test_formulas_of_pages_are_in_the_corpus(mined, truth):
    found = wanted = 0
    for row in corpus(mined):
        text = re.sub(r"\s", "", row["text"])
        for formula in truth[row["url_hash"]]["formulas"]:
            wanted += 1
            found += re.sub(r"\s", "", formula) in text
    assert wanted > 500 and found / wanted > 0.6  # MathML's are equal in meaning, not in letters


def test_the_corpus_is_a_dataset_and_parquet(mined):
    tfds = pytest.importorskip("tensorflow_datasets", reason="the extra `data`")
    builder = tfds.builder_from_directory(str(mined / "corpus"))
    for split in ("train", "heldout"):
        records = builder.as_data_source(split)
        table = pq.read_table(mined / "corpus_parquet" / split).to_pylist()
        assert len(records) == len(table) > 0
        assert records[0]["url"].decode() == table[0]["url"]
        assert set(table[0]) >= {"url", "domain", "text", "language", "score", "source"}
    manifest = json.loads((mined / "manifest.json").read_text())
    assert manifest["iteration"] == 2


def test_the_report_says_what_was_done(mined, report):
    first, second = report["iterations"]
    assert report["ended"] == "config.iterations=2" and report["self_test"]["texts"] == 100
    assert first["annotate"]["mode"] == "auto" and first["grow"]["added"] > 20
    assert second["train"]["positives"]["sources"]["annotation 1"] == first["grow"]["added"]
    assert {"en", "zh"} <= set(second["decontaminate"]["languages"])
    assert 0.3 < second["decontaminate"]["overlap"] < 1
    assert second["domains"]["gained"]
    for kind in ("kept", "above the cut", "below the cut", "dropped"):
        assert len(second["samples"][kind]) >= 10
    text = (mined / "report.html").read_text(encoding="utf-8")
    for part in ("No person annotated", "core-hours", "Domains with pages gained", "below the cut"):
        assert part in text
    assert "<script" not in text


def stamps(workdir):
    return {p: p.stat().st_mtime_ns for p in workdir.glob("iter*/*/*/done.json")}


def test_the_same_command_does_nothing_twice(launch, mined):
    before = stamps(mined)
    mine(launch, mined, "--annotate=auto")
    assert stamps(mined) == before and len(before) > 50


def test_a_person_decides(launch, mined):  # the last of this run: it changes it
    workdir = mined
    path = workdir / "annotate_iter1.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 5
    for row in rows:
        row["decision"] = "yes" if row["pattern"] == rows[0]["pattern"] else "no"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    mine(launch, workdir, "--stage=annotate,grow", "--iteration=1")
    notes = json.loads((workdir / "iter1" / "report" / "grow.json").read_text())
    assert notes["patterns"] == [rows[0]["pattern"]]
    assert 0 < notes["added"] <= int(rows[0]["pages"]) - int(rows[0]["collected"])

    path.rename(workdir / "annotate_iter2.csv")  # where iteration 2 would ask
    failed = mine(launch, workdir, "--stage=annotate", check=False)
    assert failed.returncode == 2 and "it is of iteration 1, and this is 2" in failed.stderr


def test_a_corpus_that_there_is_can_be_cleaned(launch, tmp_path):
    sentence = "the sum of the angles of a triangle equals two right angles in the plane of Euclid"
    rng = np.random.default_rng(0)

    def page(n):
        words = " ".join(f"w{x}" for x in rng.integers(0, 999, 300))
        return {"url": f"https://a.org/{n}", "text": words}

    pages = [page(n) for n in range(20)]
    pages[1]["text"] = pages[0]["text"].replace("w1 ", "w2 ")  # a near-duplicate
    pages[2]["text"] += " " + sentence
    bench = tmp_path / "bench.jsonl"
    bench.write_text(json.dumps({"question": sentence}) + "\n")
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pages))
    flags = (
        "--config.generated.pages=0",
        "--config.classify=False",
        f"--config.inputs=('{tmp_path}/pages.jsonl',)",
        f"--config.benchmarks=('{bench}',)",
    )
    mine(launch, tmp_path / "run", *flags)
    left = {row["url"] for row in corpus(tmp_path / "run", 1)}
    assert len(left) == 18 and "https://a.org/2" not in left
    assert len(left & {"https://a.org/0", "https://a.org/1"}) == 1


def test_the_crawls_configuration_has_the_papers_settings_and_runs_small(launch, tmp_path):
    path = REPO / "configs" / "mine_common_crawl.py"
    c = runpy.run_path(str(path))["get_config"]()
    settings = {"dim": 256, "learning_rate": 0.1, "word_ngrams": 3, "min_count": 3, "epochs": 3}
    assert settings.items() <= c.classifier.to_dict().items()
    assert (c.positives, c.negatives, c.domain_share, c.stop_overlap) == (
        500_000,
        500_000,
        0.1,
        0.98,
    )
    assert sum(of[0] for of in c.budgets.values()) == 40 * 10**9
    assert sum(of[-1] for of in c.budgets.values()) == 120 * 10**9
    launch("mine.py", f"--config={path}:smoke", f"--workdir={tmp_path}", check=True)
    assert json.loads((tmp_path / "manifest.json").read_text())["pages"] > 50
    assert (tmp_path / "iter2" / "taken.npy").exists()


GENERATED = "--config.generated.pages=60"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.generated.pages=0"], "config.inputs: give archives"),
        (["--config.generated.pages=0", "--config.inputs=('/no/x.warc.gz',)"], "names no file"),
        (["--annotate=maybe"], "annotate='maybe': choose one of csv, auto"),
        (["--engine=spark"], "engine='spark': choose one of local, ray"),
        (["--stage=mine"], "--stage=mine: there is no such stage"),
        (["--stage=collect"], "run --stage=score --iteration=1 first"),
        (["--workdir=/proc/none"], "--workdir=/proc/none cannot be written to"),
        (["--config.budgets.en=()"], "config.budgets.en=(): give tokens"),
        (["--config.iterations=0"], "config.iterations=0: it must be at least 1"),
        (["--config.domain_share=10.0"], "config.domain_share=10.0: it is a share"),
        (["--config.classifier.path=/no/model.bin"], "/no/model.bin: there is no classifier here"),
    ],
)
def test_bad_input_is_one_clear_sentence(launch, tmp_path, flags, message):
    failed = mine(launch, tmp_path / "run", GENERATED, *flags, check=False)
    assert failed.returncode == 2, failed.stderr
    assert message in failed.stderr.splitlines()[-1] and "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (None, "config.seed={}: No such file"),
        ("", "config.seed={} is empty: it needs mathematical pages"),
        ('{"url": "https://a.org/1"}\n', "{}, line 1: not an object with url and text"),
        ("of one label", "the classifier's training set has no other page: it needs both"),
    ],
)
def test_bad_seeds_are_one_clear_sentence(launch, tmp_path, seed, message):
    path, archive = tmp_path / "seed.jsonl", tmp_path / "pages.jsonl"
    page = json.dumps({"url": "https://a.org/1", "text": "Let x be a number. " * 20}) + "\n"
    archive.write_text(page)
    if seed is not None:
        path.write_text(page if seed == "of one label" else seed)
    failed = launch(
        "mine.py",
        CONFIG,
        "--config.generated.pages=0",
        f"--config.inputs=('{archive}',)",
        f"--config.seed={path}",
        "--config.held_out_share=0.0",
        f"--workdir={tmp_path / 'run'}",
    )
    assert failed.returncode == 2, failed.stderr
    assert message.format(path) in failed.stderr.splitlines()[-1]


def test_a_full_disk_is_one_clear_sentence(monkeypatch, tmp_path):
    import errno

    from dsmath_jax.data.errors import InputError
    from dsmath_jax.mining import command

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command, "_mine", full)
    with pytest.raises(InputError, match="is full: make room, and start the same command again"):
        command.mine(get_defaults(), tmp_path, [], 1)
