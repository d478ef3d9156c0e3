"""The cache of tokens: made once, again when something it depends on changes, never half."""

import itertools
import json
import multiprocessing
import os
import pathlib
import threading
import time

import numpy as np
import pytest

from dsmath_jax.data import damage, sources, token_cache
from dsmath_jax.data.documents import Encoding, encode
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import open_source, read_examples
from dsmath_jax.data.token_cache import open_documents
from dsmath_jax.data.tokenizers import train_sentencepiece
from dsmath_jax.data.word_problems import generate
from tests.data.tfds_directory import write_tfds

WORKED = {"question": "question", "solution": "solution"}
TEXTS = [f"{p.question}\n{p.solution}" for p in generate(300)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_sentencepiece(TEXTS, tmp_path_factory.mktemp("tokenizer"), vocab_size=400)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [{"question": p.question, "solution": p.solution} for p in generate(300)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 4000)
    monkeypatch.setattr(damage, "BLOCK", 1024)


def opened(path, tokenizer, cache, prompt=None, fields=WORKED, **options):
    source = open_source(str(path), fields)
    return open_documents(source, tokenizer, Encoding(prompt), cache, name="c", **options)


def made(cache):
    return sorted(p.name for p in cache.iterdir() if not p.name.startswith("."))


def assert_same(one, other):
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.starts, other.starts)
    assert one.tokens.dtype == other.tokens.dtype


@pytest.mark.parametrize("prompt", [None, "sft"])
@pytest.mark.parametrize("processes", [1, 2])
def test_it_holds_what_encoding_in_memory_gives(
    prompt, processes, corpus, tokenizer, tmp_path, small_chunks
):
    cached = opened(corpus, tokenizer, tmp_path / "cache", prompt, processes=processes)
    examples = read_examples(open_source(str(corpus), WORKED))
    assert_same(cached, encode(examples, tokenizer, Encoding(prompt)))
    assert isinstance(cached.tokens, np.memmap) and cached.tokens.dtype == np.uint16
    for index in (0, 299):
        assert cached.ids(index)[-1] == tokenizer.eos_id
    assert not list((tmp_path / "cache").glob(".*.partial"))


def test_a_second_start_reads_no_text(corpus, tokenizer, tmp_path, monkeypatch):
    first = opened(corpus, tokenizer, tmp_path / "cache")
    monkeypatch.setattr(token_cache, "read_chunk", None)
    assert_same(opened(corpus, tokenizer, tmp_path / "cache"), first)


def test_a_change_of_content_tokenizer_prompt_or_fields_makes_another(corpus, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    opened(corpus, tokenizer, cache)
    opened(corpus, tokenizer, cache, "sft")
    opened(corpus, tokenizer, cache, "cot_en")
    opened(corpus, tokenizer, cache, fields={"text": "solution"})
    other = train_sentencepiece(TEXTS, tmp_path / "other", vocab_size=390)
    opened(corpus, other, cache)
    assert len(made(cache)) == 5
    before = corpus.stat()
    text = corpus.read_text()
    corpus.write_text(text.replace("Ann", "Amy"))  # same size, and same time:
    os.utime(corpus, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert text != corpus.read_text() and corpus.stat().st_size == before.st_size
    changed = opened(corpus, tokenizer, cache)
    assert len(made(cache)) == 6
    assert_same(
        changed, encode(read_examples(open_source(str(corpus), WORKED)), tokenizer, Encoding())
    )


def test_other_content_or_order_of_equal_size_has_another_digest(corpus, tokenizer, tmp_path):
    first = opened(corpus, tokenizer, tmp_path / "one", "sft")
    assert opened(corpus, tokenizer, tmp_path / "other", "sft").digest() == first.digest()
    lines = corpus.read_text().splitlines(keepends=True)
    corpus.write_text("".join(reversed(lines)))
    turned = opened(corpus, tokenizer, tmp_path / "one", "sft")
    assert len(turned.tokens) == len(first.tokens) and turned.digest() != first.digest()


@pytest.mark.parametrize("kind", ["flip", "cut", "offsets", "meta", "gone"])
def test_a_damaged_cache_is_made_again(kind, corpus, tokenizer, tmp_path, small_chunks, caplog):
    cache = tmp_path / "cache"
    first = opened(corpus, tokenizer, cache, "sft")
    wanted = encode(read_examples(open_source(str(corpus), WORKED)), tokenizer, Encoding("sft"))
    del first
    directory = cache / made(cache)[0]
    if kind == "gone":
        (directory / "starts.npy").unlink()
    else:
        names = {"offsets": "offsets.npy", "meta": "meta.json"}
        file = directory / names.get(kind, "tokens.bin")
        data = bytearray(file.read_bytes())
        if kind == "flip":
            data[len(data) // 2] ^= 1
        elif kind == "offsets":
            data[-3] ^= 1
        else:
            data = data[: len(data) // 2]
        file.write_bytes(data)
    assert_same(opened(corpus, tokenizer, cache, "sft"), wanted)
    assert "is damaged" in caplog.text and "made again" in caplog.text
    assert len(made(cache)) == 1


def test_two_processes_at_once_make_one(corpus, tokenizer, tmp_path, monkeypatch):
    real, calls = token_cache.read_chunk, []

    def slow(*arguments):
        calls.append(1)
        time.sleep(0.3)
        return real(*arguments)

    monkeypatch.setattr(token_cache, "read_chunk", slow)
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(opened(corpus, tokenizer, tmp_path / "cache"))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(made(tmp_path / "cache")) == 1
    assert_same(results[0], results[2])


def build_for_ever(corpus, tokenizer, cache, started):
    def stuck(*arguments):
        started.set()
        time.sleep(60)

    token_cache.read_chunk = stuck
    opened(corpus, tokenizer, cache)


def test_what_a_killed_process_left_is_no_cache(corpus, tokenizer, tmp_path):
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=build_for_ever, args=(corpus, tokenizer, cache, started))
    process.start()
    assert started.wait(30)
    process.kill()
    process.join()
    assert made(cache) == [] and list(cache.glob(".*.partial"))
    assert len(opened(corpus, tokenizer, cache)) == 300
    assert len(made(cache)) == 1 and not list(cache.glob(".*.partial"))


def no_locks(*arguments):
    raise OSError("no locks here")


def build_without_locks(*arguments):
    token_cache.fcntl.flock = no_locks
    build_for_ever(*arguments)


def test_without_locks_what_a_live_process_makes_stays(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache.fcntl, "flock", no_locks)
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=build_without_locks, args=(corpus, tokenizer, cache, started))
    process.start()
    assert started.wait(30)
    (live,) = cache.glob(".*.partial")
    assert len(opened(corpus, tokenizer, cache)) == 300
    assert live.exists()
    process.kill()
    process.join()
    (cache / made(cache)[0] / "meta.json").unlink()  # to be made again
    assert len(opened(corpus, tokenizer, cache)) == 300
    assert not live.exists()


def build_in_processes(corpus, tokenizer, cache):
    opened(corpus, tokenizer, cache, processes=2)


def children(pid):
    found = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def running(pid):
    status = pathlib.Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_workers_end_with_a_parent_that_is_killed(corpus, tokenizer, tmp_path):
    corpus.write_text(corpus.read_text() * 1000)  # more than they do before the kill
    cache = tmp_path / "cache"
    context = multiprocessing.get_context("spawn")
    parent = context.Process(target=build_in_processes, args=(corpus, tokenizer, cache))
    parent.start()
    wait_for(lambda: any(p.stat().st_size for p in cache.glob(".*.partial/tokens.bin")))
    workers = children(parent.pid)
    assert len(workers) >= 2 and all(map(running, workers))
    parent.kill()
    parent.join()
    wait_for(lambda: not any(map(running, workers)))


def test_bad_lines_are_reported_on_every_start(corpus, tokenizer, tmp_path, caplog):
    with corpus.open("a") as file:
        file.write("{oops\n")
    for _ in range(2):
        rejected = tmp_path / "run" / "rejected.jsonl"
        rejected.unlink(missing_ok=True)
        options = {"max_rejected_share": 0.01, "rejected": rejected}
        assert len(opened(corpus, tokenizer, tmp_path / "cache", **options)) == 300
        assert json.loads(rejected.read_text())["line"] == 301
        assert "1 of 301 lines are bad" in caplog.text
        caplog.clear()
        with pytest.raises(InputError, match=r"corpus.jsonl line 301: .*1 of 301 lines"):
            opened(corpus, tokenizer, tmp_path / "cache", max_rejected_share=0.001)
    assert len(made(tmp_path / "cache")) == 1


def test_a_tfds_corpus_in_processes(tokenizer, tmp_path, small_chunks):
    directory = write_tfds(tmp_path / "corpus", {"train": TEXTS})
    fields = {"text": "text"}
    cached = opened(directory, tokenizer, tmp_path / "cache", fields=fields, processes=2)
    assert_same(cached, encode(({"text": t} for t in TEXTS), tokenizer, Encoding()))


def test_a_large_vocabulary_takes_four_bytes_a_token(data_dir, tmp_path):
    from dsmath_jax.data.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(data_dir / "tokenizer")
    (tmp_path / "a.txt").write_text("Let $x^2=4$. 设 x 为正数。")
    cached = opened(tmp_path / "a.txt", tokenizer, tmp_path / "cache", fields={"text": "text"})
    assert cached.tokens.dtype == np.uint32
    assert tokenizer.decode(cached.ids(0)) == "Let $x^2=4$. 设 x 为正数。"
    assert cached.ids(0)[0] == tokenizer.bos_id and cached.ids(0)[-1] == tokenizer.eos_id


def test_a_large_cache_is_checked_in_places_of_which_the_ends_are_some():
    places = list(damage._spread(10_000, 256))
    assert (places[0], places[-1], len(set(places))) == (0, 9999, 256)
    assert max(b - a for a, b in itertools.pairwise(places)) <= 40
    assert list(damage._spread(200, 256)) == list(range(200))
