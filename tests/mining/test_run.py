"""What a run reads: listings of a crawl, seeds; stale files, and two runs in one directory."""

import fcntl
import gzip
import json

import pytest

pytest.importorskip("fastwarc", reason="the extra `mining`")

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import command, common_crawl, iteration, loop, training_set
from dsmath_jax.mining.defaults import get_defaults
from dsmath_jax.mining.fasttext_process import train_in_process
from dsmath_jax.mining.run import open_run, write_json


def page(n, words="let the number be a prime and its square a sum"):
    return {"url": f"https://a.org/{n}", "text": f"{words} {n} " * 30}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def test_a_listing_names_the_archives_of_a_crawl(tmp_path):
    for n in range(3):
        write(tmp_path / f"{n}.jsonl", [page(n)])
    listing = tmp_path / "warc.paths.gz"
    names = [f"crawl-data/{n}.jsonl" for n in range(3)]
    listing.write_bytes(gzip.compress("\n".join(names).encode()))
    (tmp_path / "crawl-data").symlink_to(tmp_path)
    c = get_defaults()
    c.crawl, c.crawl_prefix, c.crawl_files = str(listing), str(tmp_path), 2
    c.classify = False
    run = open_run(c, tmp_path / "run", say=str)
    loop.mine(run)
    assert [s.inputs[0] for s in run.shards] == [f"{tmp_path}/{name}" for name in names[:2]]
    assert run.notes(1)["decontaminate"]["pages"] == 2


def test_a_remote_listing_names_no_file_of_this_machine(tmp_path, monkeypatch):
    listing = tmp_path / "list.paths"
    listing.write_text("crawl-data/a.warc.gz\n/etc/passwd\n")
    opened = listing.open("rb")
    monkeypatch.setattr(common_crawl.storage, "open", lambda path, rate=None: opened)
    with pytest.raises(InputError, match="names '/etc/passwd', which is no address"):
        common_crawl.paths("https://crawl.example/list.paths")


def test_a_seed_is_read_by_lines_and_drawn_from(tmp_path):
    rows = [page(n, "a\u2028b\u0085c") for n in range(50)]
    path = write(tmp_path / "seed.jsonl", rows)
    assert len(training_set.read_seed(path, 100)) == 50
    few = training_set.read_seed(path, 20)
    assert len(few) == 20 and few == training_set.read_seed(path, 20)
    with pytest.raises(InputError, match="line 1: not an object with url and text"):
        training_set.read_seed(write(tmp_path / "bad.jsonl", [{"url": None, "text": "x"}]), 10)


def cleaned(tmp_path, pages):
    c = get_defaults()
    c.inputs, c.classify = (write(tmp_path / "pages.jsonl", pages),), False
    return open_run(c, tmp_path / "run", say=str)


def test_near_duplicates_of_other_documents_are_not_used(tmp_path):
    run = cleaned(tmp_path, [page(n) for n in range(4)])
    loop.mine(run)
    other = cleaned(tmp_path, [page(n) for n in range(6)])
    loop.run_stages(other, ["score", "collect", "extract"], 1)
    with pytest.raises(InputError, match="is of other documents: run --stage=deduplicate"):
        iteration.decontaminate(other, 1)
    loop.run_stages(other, ["deduplicate", "decontaminate"], 1)


def test_one_run_at_a_time_works_in_a_directory(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another run works in it"):
            command.mine(get_defaults(), tmp_path, [], 0)


def test_numbers_that_json_does_not_have_are_null(tmp_path):
    write_json(tmp_path / "a.json", {"auc": float("nan"), "of": [1.0, float("nan")]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"auc": None, "of": [1.0, None]}


def test_a_given_classifier_needs_the_two_labels(tmp_path):
    pytest.importorskip("fasttext", reason="the extra `mining`")
    (tmp_path / "texts").write_text("__label__a x y\n__label__b z w\n" * 20)
    options = {"dim": 4, "epoch": 1, "verbose": 0, "thread": 1, "bucket": 0, "minCount": 1}
    train_in_process(tmp_path / "texts", tmp_path / "model.bin", options)
    run = cleaned(tmp_path, [page(n) for n in range(4)])
    run.config.classify = True
    run.config.classifier.path = str(tmp_path / "model.bin")
    with pytest.raises(InputError, match="its labels are not __label__math and __label__other"):
        iteration.train(run, 1)
