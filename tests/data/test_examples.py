"""Reading JSONL: named fields, bad lines counted, clear refusals."""

import json

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.examples import load_examples, read_jsonl
from dsmath_jax.stages.defaults import get_defaults

FIELDS = {"question": "question", "solution": "answer"}
GOOD = {"question": "1+1?", "answer": "#### 2"}


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def test_fields_are_picked_by_name(tmp_path):
    path = write(tmp_path / "a.jsonl", [json.dumps({"problem": "1+1?", "gold": 2, "more": []})])
    fields = {"question": "problem", "answer": "gold"}
    assert list(read_jsonl(path, fields, 0.0, None)) == [{"question": "1+1?", "answer": "2"}]


def test_bad_lines_are_counted_with_file_line_and_reason(tmp_path):
    lines = [json.dumps(GOOD)] * 97 + ["{oops", "[]", json.dumps({"question": "x"})]
    path = write(tmp_path / "a.jsonl", lines)
    rejected = tmp_path / "run" / "rejected.jsonl"
    assert len(list(read_jsonl(path, FIELDS, 0.05, rejected))) == 97
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
        list(read_jsonl(path, FIELDS, 0.05, None))


def test_hostile_lines_do_not_end_the_reading(tmp_path):
    surrogate = '{"question": "\\ud800", "answer": "#### 1"}'
    digits = '{"question": 1' + "0" * 5000 + ', "answer": "#### 1"}'
    lines = [json.dumps(GOOD)] * 99 + ["[" * 100_000, surrogate, digits]
    path = tmp_path / "a.jsonl"
    write(path, lines)
    path.write_bytes(path.read_bytes() + b'{"question": "\xff\xfe", "answer": "#### 1"}\n')
    assert len(list(read_jsonl(str(path), FIELDS, 0.03, None))) == 100


def test_missing_and_empty_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.jsonl does not exist: set config.data.path"):
        list(read_jsonl(str(tmp_path / "nowhere.jsonl"), FIELDS, 0.0, None))
    with pytest.raises(InputError, match="holds no examples"):
        list(read_jsonl(write(tmp_path / "a.jsonl", ["", " "]), FIELDS, 0.0, None))


def test_gsm8k_needs_no_code(data_dir, tmp_path):
    config = get_defaults("sft").data
    config.path = str(data_dir / "benchmarks/gsm8k/train.jsonl")
    config.heldout_path = str(data_dir / "benchmarks/gsm8k/test.jsonl")
    train, heldout = (load_examples(config, s, tmp_path) for s in ("train", "heldout"))
    assert (len(train), len(heldout)) == (7473, 512)
    assert train[0]["question"].startswith("Natalia sold clips")
    assert train[0]["answer"].endswith("#### 72")
