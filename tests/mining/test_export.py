"""The corpus as it is written for the trainer: TFDS and Parquet, once, whole, and read by it."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("pyarrow", reason="the extra `mining`")

import pyarrow.parquet as pq

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.sources import open_source, read_examples
from dsmath_jax.mining import export as exports
from dsmath_jax.mining import page_rows, urls
from dsmath_jax.mining.clean import DOCUMENTS
from dsmath_jax.mining.export import export
from dsmath_jax.mining.shards import SECONDS
from tests.conftest import REPO

FIELDS = ("url", "domain", "text", "language", "score", "source", "iteration")


def document(host: str, n: int, language: str = "en") -> dict:
    url = f"https://{host}/{n}"
    text = f"{'设' if language == 'zh' else 'Let'} $x_{n} = {n}$ on {host}.\n" * (n % 5 + 1)
    return {
        "url_hash": urls.url_hash(url),
        "url": url,
        "host": host,
        "language": language,
        "score": 0.5 + n / 1000,
        "tokens": len(text) // 4,
        "title": "",
        "text": text,
        "formulas": 1,
        "source": "part-0.warc.gz",
    }


def write_documents(folder: pathlib.Path, hosts: int = 6, each: int = 20) -> list[pathlib.Path]:
    """Two files of documents; the hosts of even numbers are Chinese."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        document(f"h{h}.example", n, "en" if h % 2 else "zh")
        for h in range(hosts)
        for n in range(each)
    ]
    files = []
    for n in range(2):
        part = sorted(rows[n::2], key=lambda row: row["url_hash"])
        page_rows.write(part, DOCUMENTS, folder / f"{n}.parquet")
        files.append(folder / f"{n}.parquet")
    return files


def records_of(files: list[pathlib.Path], iteration: int) -> list[dict]:
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [
        {name: row.get(name) for name in FIELDS} | {"domain": row["host"], "iteration": iteration}
        for row in rows
    ]


def read(folder: pathlib.Path, split: str) -> list[dict]:
    source = open_source(str(folder), {name: name for name in FIELDS}, split=split)
    return [
        example | {"score": float(example["score"]), "iteration": int(example["iteration"])}
        for example in read_examples(source)
    ]


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != SECONDS)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_both_forms_hold_the_pages_and_hosts_are_in_one_split(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="the extra `data`")
    files = write_documents(tmp_path / "in")
    said: list[str] = []
    found = export(files, tmp_path, iteration=3, heldout_share=0.3, say=said.append)
    source = tfds.builder_from_directory(str(tmp_path / "corpus")).as_data_source("train")
    assert set(source[0]) == set(FIELDS)
    wanted = records_of(files, 3)
    hosts = {}
    for split in ("train", "heldout"):
        records = read(tmp_path / "corpus", split)
        hosts[split] = {row["domain"] for row in records}
        assert records == [r for r in wanted if r["domain"] in hosts[split]]
        stored = pq.read_table(tmp_path / "corpus_parquet" / split).to_pylist()
        assert stored == [r for r in wanted if r["domain"] in hosts[split]]
        counts = found["splits"][split]
        assert counts["pages"] == len(records)
        assert counts["bytes"] == sum(len(row["text"].encode()) for row in records)
        for language, of_language in counts["languages"].items():
            assert of_language["pages"] == sum(r["language"] == language for r in records)
    assert hosts["train"] and hosts["heldout"] and not hosts["train"] & hosts["heldout"]
    assert len(hosts["train"] | hosts["heldout"]) == found["domains"] == 6
    assert found["pages"] == 120 and found["iteration"] == 3
    assert found == json.loads((tmp_path / "manifest.json").read_text())
    named = {f"{name}/{f}" for name, of in found["folders"].items() for f in of}
    assert named <= set(contents(tmp_path)) and any("array_record" in name for name in named)


def test_a_rerun_does_nothing_and_a_changed_input_does_it_again(tmp_path):
    files = write_documents(tmp_path / "in")
    export(files, tmp_path / "out", iteration=1, say=lambda line: None)
    before = contents(tmp_path / "out")
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    said: list[str] = []
    export(files, tmp_path / "out", iteration=1, say=said.append)
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    assert all("written already" in line for line in said)
    assert contents(tmp_path / "out") == before
    export(files, tmp_path / "again", iteration=1, say=lambda line: None)
    assert contents(tmp_path / "again") == before
    export(write_documents(tmp_path / "in", each=21), tmp_path / "out", iteration=1)
    assert pq.read_table(tmp_path / "out/corpus_parquet/train").num_rows == 126
    assert not list((tmp_path / "out").glob(".*"))


def test_a_share_that_holds_out_no_host_holds_out_one(tmp_path):
    files = write_documents(tmp_path / "in")
    found = export(files, tmp_path / "all", iteration=1)
    assert list(found["splits"]) == ["train"] and found["heldout_share"] == 0
    found = export(files, tmp_path / "few", iteration=1, heldout_share=1e-9)
    assert found["splits"]["heldout"]["pages"] == 20 and found["heldout_share"] > 1e-9
    lone = write_documents(tmp_path / "lone", hosts=1)
    found = export(lone, tmp_path / "one", iteration=1, heldout_share=0.3)
    assert list(found["splits"]) == ["train"]


def test_an_empty_corpus_is_refused(tmp_path):
    files = write_documents(tmp_path / "in", each=0)
    with pytest.raises(InputError, match=r"no page to write to .*lower config\.min_score"):
        export(files, tmp_path / "out", iteration=1)
    assert not (tmp_path / "out").exists()


def test_without_the_extra_parquet_alone_is_written(tmp_path, monkeypatch):
    files = write_documents(tmp_path / "in")
    monkeypatch.setattr(exports, "_missing_extra", lambda: "array_record")
    said: list[str] = []
    found = export(files, tmp_path, iteration=1, say=said.append)
    assert "pip install -e '.[data]'" in said[0] and found["folders"]["corpus"] is None
    assert not (tmp_path / "corpus").exists() and (tmp_path / "corpus_parquet").exists()


def test_long_corpora_are_cut_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr(exports, "GROUP", 8)
    monkeypatch.setattr(exports, "FILE", 32)
    files = write_documents(tmp_path / "in")
    export(files, tmp_path, iteration=2)
    parts = sorted((tmp_path / "corpus_parquet/train").iterdir())
    assert [pq.ParquetFile(p).metadata.num_rows for p in parts] == [32, 32, 32, 24]
    assert pq.ParquetFile(parts[0]).metadata.num_row_groups == 4
    assert pq.read_table(parts).to_pylist() == records_of(files, 2)


COMMAND = """
import pathlib, sys
from dsmath_jax.mining.export import export
folder = pathlib.Path(sys.argv[1])
export(sorted((folder / "in").iterdir()), folder / sys.argv[2], iteration=1, heldout_share=0.3)
"""


@pytest.mark.slow
def test_a_kill_leaves_whole_folders_or_none(tmp_path):
    write_documents(tmp_path / "in", each=2000)

    def start(name):
        command = [sys.executable, "-c", COMMAND, str(tmp_path), name]
        return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(REPO)})

    assert start("whole").wait() == 0
    for n in range(8):
        process = start("killed")
        time.sleep(0.5 + 0.4 * n)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in ("corpus", "corpus_parquet"):
            if (folder := tmp_path / "killed" / name).exists():
                assert contents(folder) == contents(tmp_path / "whole" / name)
    assert start("killed").wait() == 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
