"""Reading JSONL, text and TFDS: fields by name, bad records counted, clear refusals."""

import json
import sys

import pytest

from dsmath_jax.data import sources
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import open_source, read_chunk, read_examples
from tests.data.tfds_directory import write_tfds

FIELDS = {"question": "question", "solution": "answer"}
GOOD = {"question": "1+1?", "answer": "#### 2"}


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def read(path, fields=FIELDS, share=0.0, rejected=None, **options):
    return list(read_examples(open_source(path, fields, **options), share, rejected))


def test_fields_are_picked_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [json.dumps({"problem": "1+1?", "gold": 2, "more": []})])
    assert read(path, {"question": "problem", "answer": "gold"}) == [
        {"question": "1+1?", "answer": "2"}
    ]


def test_bad_lines_are_counted_with_file_line_and_reason(tmp_path):
    lines = [json.dumps(GOOD)] * 97 + ["{oops", "[]", json.dumps({"question": "x"})]
    path = write(tmp_path / "a.jsonl", lines)
    rejected = tmp_path / "run" / "rejected.jsonl"
    assert len(read(path, FIELDS, 0.05, rejected)) == 97
    rows = [json.loads(line) for line in rejected.open()]
    assert [(r["file"], r["line"]) for r in rows] == [(path, 98), (path, 99), (path, 100)]
    assert "Expecting property name" in rows[0]["reason"]
    assert "not a JSON object" in rows[1]["reason"]
    assert "no field 'answer'" in rows[2]["reason"]


def test_too_many_bad_lines_are_refused_by_the_first(tmp_path):
    path = write(tmp_path / "a.jsonl", [json.dumps(GOOD)] * 9 + ["{oops"])
    with pytest.raises(
        InputError, match=r"a.jsonl line 10: .*1 of 10 lines.*max_rejected_share=0.05"
    ):
        read(path, FIELDS, 0.05)


def test_hostile_lines_do_not_end_the_reading(tmp_path):
    surrogate = '{"question": "\\ud800", "answer": "#### 1"}'
    digits = '{"question": 1' + "0" * 5000 + ', "answer": "#### 1"}'
    lines = [json.dumps(GOOD)] * 99 + ["[" * 100_000, surrogate, digits]
    path = tmp_path / "a.jsonl"
    write(path, lines)
    path.write_bytes(path.read_bytes() + b'{"question": "\xff\xfe", "answer": "#### 1"}\n')
    assert len(read(str(path), FIELDS, 0.03)) == 100


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.jsonl does not exist: set config.data.path"):
        read(str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(InputError, match="holds no examples"):
        read(write(tmp_path / "a.jsonl", ["", " "]))
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder holds no .jsonl, no .parquet, no .txt and no "):
        read(str(tmp_path / "folder"), name="heldout_path")


@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 1000])
def test_chunks_cut_anywhere_hold_every_line_once(chunk_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", chunk_bytes)
    lines = [json.dumps(GOOD | {"question": "x" * (n % 13)}) for n in range(60)]
    lines[30:30] = ["", "{oops"]
    path = write(tmp_path / "a.jsonl", lines)
    source = open_source(path, FIELDS)
    found = [e["question"] for c in source.chunks for e in read_chunk(c, source.fields).examples]
    assert found == ["x" * (n % 13) for n in range(60)]
    rejected = tmp_path / "rejected.jsonl"
    list(read_examples(source, 0.1, rejected))
    assert [json.loads(line)["line"] for line in rejected.open()] == [32]


def test_globs_directories_and_lists_are_read_in_order(tmp_path):
    text = {"text": "text"}
    (tmp_path / "b.txt").write_text("two\nlines")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "c.txt").write_text("third")
    (tmp_path / "notes.md").write_text("not data")
    wanted = [{"text": "first"}, {"text": "two\nlines"}, {"text": "third"}]
    assert read(str(tmp_path), text) == wanted
    assert read(str(tmp_path / "*.txt"), text) == wanted[1:]
    assert read([str(tmp_path / "c.txt"), str(tmp_path / "a.jsonl")], text) == wanted[::-2]
    with pytest.raises(InputError, match=r"b.txt is plain text"):
        read(str(tmp_path), FIELDS)


def test_parquet_is_read_by_row_groups(tmp_path, monkeypatch):
    pa = pytest.importorskip("pyarrow", reason="the extra `mining`")
    pq = pytest.importorskip("pyarrow.parquet")
    texts = [f"page {n} é" for n in range(50)] + [None]
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"text": texts, "n": range(51)}), path, row_group_size=8)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 500)
    source = open_source(str(tmp_path), {"text": "text"})
    assert 1 < len(source.chunks) < 7 and source.files == [str(path)]
    rejected = tmp_path / "rejected.jsonl"
    found = [e["text"] for e in read_examples(source, 0.02, rejected)]
    assert found == texts[:50]
    assert [json.loads(line)["line"] for line in rejected.open()] == [51]
    with pytest.raises(
        InputError, match=r"part.parquet has no field 'body' \(fields here: text, n"
    ):
        read(str(path), {"text": "body"})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"part.parquet is not a readable Parquet file"):
        read(str(path), {"text": "text"})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[mining\]'"):
        read(str(path), {"text": "text"})


def test_a_tfds_directory_is_read_without_tensorflow(tmp_path):
    rows = [f"page {n} é" for n in range(100)]
    directory = write_tfds(tmp_path / "corpus", {"train": rows, "validation": ["held out"]})
    before = "tensorflow" in sys.modules
    assert read(str(directory), {"text": "text"}) == [{"text": t} for t in rows]
    assert read(str(directory.parent), {"text": "text"}, split="heldout") == [{"text": "held out"}]
    assert ("tensorflow" in sys.modules) == before
    with pytest.raises(InputError, match=r"no field 'body' \(fields here: .*url.*text_field"):
        read(str(directory), {"text": "body"})


def test_a_tfds_directory_that_cannot_be_read_is_refused(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match="is not a readable TFDS directory"):
        read(str(tmp_path), {"text": "text"})


def test_the_extra_is_named_where_tfds_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(InputError, match=r"pip install -e '\.\[data\]'"):
        read(str(tmp_path), {"text": "text"})


def test_splits_of_a_tfds_directory(tmp_path):
    both = write_tfds(tmp_path / "both", {"train": ["a"], "test": ["b"]})
    only = write_tfds(tmp_path / "only", {"train": ["c"]})
    text = {"text": "text"}
    assert read(str(both), text, split="heldout") == [{"text": "b"}]
    assert read(str(only), text, split="heldout") == [{"text": "c"}]
    odd = write_tfds(tmp_path / "odd", {"one": ["c"], "two": ["d"]})
    for split in ("train", "heldout"):
        with pytest.raises(InputError, match=rf"splits one, two, and not '{split}'"):
            read(str(odd), text, split=split, name="mixture.math.path")
