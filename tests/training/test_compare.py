"""launch/report.py: runs side by side."""

import json
import os
import subprocess
import sys

import pytest

from dsmath_jax.training.compare import differences, read_runs, summary, table
from tests.conftest import REPO


def make_run(path, rate, losses, *, steps=20, **more):
    path.mkdir(parents=True)
    config = {"stage": "sft", "steps": steps, "optimizer": {"learning_rate": rate, "b1": 0.9}}
    (path / "config.json").write_text(json.dumps(config | more))
    rows = []
    for step, loss in enumerate(losses, 1):
        rows.append({"step": step, "loss": loss, "tokens": 1000, "grad_norm": 0.5, "skipped": 2})
        rows[-1] |= {"tokens_per_s": 10.0 if step == 1 else 500.0, "data_wait": 0.25, "spikes": 3}
        rows[-1] |= {"memory/host": 1.5 + step, "time/run": 60.0 * step, "time/step": 2.0}
        if step % 5 == 0:
            rows.append({"step": step, "eval/loss": loss + (step == 10), "time/run": 60.0 * step})
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.fixture
def runs(tmp_path):
    one = make_run(tmp_path / "one", 1e-3, [20.0 - i for i in range(20)])
    two = make_run(tmp_path / "two", 2e-3, [5.0] * 10, note="x")
    with open(f"{two}/metrics.jsonl", "a") as file:
        file.write('{"step": 11, "lo')  # still being written
    return [one, two]


def test_numbers_of_a_run(runs):
    one, two = map(summary, read_runs(runs))
    assert one["steps"] == "20 of 20" and two["steps"] == "10 of 20"
    assert one["tokens"] == "20k"
    assert one["loss, last 10"] == one["loss, best 10"] == "5.5"  # mean of 10, 9, ..., 1
    assert (one["tokens/s"], one["waiting for data"]) == ("500", "25.0%")  # the first step compiles
    assert (one["skipped"], one["spikes"]) == ("2", "3")
    assert (one["memory/host, most"], one["wall time"]) == ("21.5 GB", "20m00s")
    assert one["eval/loss"] == "1"
    assert two["eval/loss"] == "6 (best 5 at 5)"


def test_only_fields_that_differ_are_shown(runs):
    assert differences(read_runs(runs)) == {
        "config.optimizer.learning_rate": ["0.001", "0.002"],
        "config.note": ["-", '"x"'],
    }


@pytest.mark.parametrize(("width", "blocks"), [(200, 1), (50, 2)])
def test_columns_are_aligned_and_fit(runs, width, blocks):
    lines = table(read_runs(runs), width).splitlines()
    assert sum(line.split()[-1:] in (["one"], ["two"]) for line in lines) == blocks
    assert max(map(len, lines)) <= width
    if blocks == 1:
        assert lines[0].split() == ["one", "two"]
        ends = {len(line) for line in lines}
        assert len(ends) == 1


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = [make_run(tmp_path / p / "run", 1e-3, [1.0]) for p in "ab"]
    assert [run.name for run in read_runs(paths)] == paths


def report(*arguments):
    return subprocess.run(
        [sys.executable, "launch/report.py", *map(str, arguments)],
        cwd=REPO,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "90", "JAX_PLATFORMS": "cpu"},
        timeout=120,
    )


def test_command_prints_and_writes_curves(runs, tmp_path):
    page = tmp_path / "both.html"
    ended = report(*runs, f"--html={page}")
    assert ended.returncode == 0, ended.stderr
    assert "config.optimizer.learning_rate" in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 90
    assert "data:image/png;base64," in page.read_text() and "one, two" in page.read_text()
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_no_run_is_refused_in_one_sentence(runs, tmp_path):
    ended = report(runs[0], tmp_path / "missing")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"error: {tmp_path}/missing is not a run's directory: it has no config.json\n"
    )
    (tmp_path / "one" / "config.json").write_text("{")
    ended = report(runs[0])
    assert ended.returncode == 2 and ended.stderr.count("\n") == 1
    assert "one cannot be read" in ended.stderr


def test_a_run_without_a_step_yet(tmp_path):
    path = make_run(tmp_path / "new", 1e-3, [])
    (tmp_path / "new" / "metrics.jsonl").unlink()
    assert summary(*read_runs([path])) == {"steps": "0 of 20"}
    assert table(read_runs([path]), 80).split() == ["new", "steps", "0", "of", "20"]
