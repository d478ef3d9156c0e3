"""Shards: done once, done again when something they depend on changes, and alike after any kill."""

import json
import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from dsmath_jax.mining import workers
from dsmath_jax.mining.shards import (
    SECONDS,
    Engine,
    Shard,
    do_shard,
    file_hash,
    output_key,
    read_marker,
    run_shards,
)
from dsmath_jax.mining.workers import Progress
from tests.mining.process_trees import command, descendants
from tests.mining.stages_for_tests import count_lines, read_slowly, without_progress


def make_shards(folder: pathlib.Path, texts: list[str]) -> list[Shard]:
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for n, text in enumerate(texts):
        path = folder / f"{n}.txt"
        path.write_text(text)
        shards.append(Shard(f"{n:03d}", (str(path),), file_hash(path)))
    return shards


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != SECONDS)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def run(shards, folder, settings=None, said=None, **engine):
    say = (lambda line: None) if said is None else said.append
    return run_shards(count_lines, 1, shards, folder, settings or {}, Engine(**engine), say)


def test_each_shard_is_done_once_and_again_when_its_key_changes(tmp_path):
    log = tmp_path / "log"
    settings = {"log": str(log)}
    shards = make_shards(tmp_path / "in", ["a\nb", "c", ""])
    assert [c["pages"] for c in run(shards, tmp_path / "out", settings)] == [2, 1, 0]
    before = contents(tmp_path / "out")
    said: list[str] = []
    assert [c["pages"] for c in run(shards, tmp_path / "out", settings, said)] == [2, 1, 0]
    assert log.read_text().split() == ["000", "001", "002"] and "done already" in said[-1]
    changed = make_shards(tmp_path / "in", ["a\nb", "c\nd", ""])
    assert [c["pages"] for c in run(changed, tmp_path / "out", settings)] == [2, 2, 0]
    assert log.read_text().split()[3:] == ["001"]
    after = contents(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {
        "001/lines.txt",
        "001/done.json",
    }
    run(changed, tmp_path / "out", settings | {"upper": True})
    assert log.read_text().split()[4:] == ["000", "001", "002"]
    assert (tmp_path / "out/001/lines.txt").read_text() == "C\nD"


def test_a_damaged_output_is_done_again(tmp_path):
    shards = make_shards(tmp_path / "in", ["a", "b"])
    run(shards, tmp_path / "out")
    key = output_key(tmp_path / "out/001")
    (tmp_path / "out/001/lines.txt").write_text("longer")
    (tmp_path / "out/000/done.json").write_text("{")
    assert read_marker(tmp_path / "out/001") is None
    run(shards, tmp_path / "out")
    assert (tmp_path / "out/001/lines.txt").read_text() == "b"
    assert output_key(tmp_path / "out/001") == key


def test_shards_that_are_no_more_and_leftovers_go(tmp_path):
    shards = make_shards(tmp_path / "in", ["a", "b"])
    run(shards, tmp_path / "out")
    (tmp_path / "out/.001.77").mkdir()
    run(shards[:1], tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["000", "000" + SECONDS]


def test_processes_change_no_byte(tmp_path):
    shards = make_shards(tmp_path / "in", [f"{n}\n" * n for n in range(12)])
    for count in (1, 3):
        run(shards, tmp_path / f"out{count}", workers=count)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out3")


@pytest.mark.parametrize("line", ["hang", "die", "grow"])
def test_a_page_at_which_processes_hang_or_die_is_left_out(line, tmp_path):
    shards = make_shards(tmp_path / "in", ["a\nb", f"c\n{line}\nd"])
    counts = run(shards, tmp_path / "out", stuck_seconds=3.0, memory_gb=8.0)
    assert [c["pages"] for c in counts] == [2, 2]
    assert (tmp_path / "out/001/lines.txt").read_text() == "c\nd"
    marker = json.loads((tmp_path / "out/001/done.json").read_text())
    assert marker["left_out"] == [f"{shards[1].inputs[0]}:1"]


def test_what_a_stage_raises_is_raised_and_no_folder_is_left(tmp_path):
    shards = make_shards(tmp_path / "in", ["a", "b\nwrong", "c"])
    with pytest.raises(ValueError, match="001: line 1 is wrong"):
        run(shards, tmp_path / "out")
    assert read_marker(tmp_path / "out/000") is not None
    assert not (tmp_path / "out/001").exists()


@pytest.mark.parametrize("stage", [read_slowly, without_progress])
def test_only_the_time_at_a_page_is_watched(stage, tmp_path):
    shards = make_shards(tmp_path / "in", ["a"])
    engine = Engine(stuck_seconds=0.5)
    run_shards(stage, 1, shards, tmp_path / "out", {}, engine, say=str)
    assert json.loads((tmp_path / "out/000/done.json").read_text())["left_out"] == []


def test_long_names_of_pages_are_left_out_as_well(tmp_path):
    folder = tmp_path / ("f" * 200) / ("g" * 200) / ("求" * 60)
    shards = make_shards(folder, ["b\ndie\nc"])
    run(shards, tmp_path / "out")
    assert (tmp_path / "out/000/lines.txt").read_text() == "b\nc"


def test_a_shard_may_be_done_twice_at_once(tmp_path):
    """As Ray does when it takes a node for lost that is not."""
    out, log = tmp_path / "out", tmp_path / "log"
    (shard,) = make_shards(tmp_path / "in", ["a\nb"])
    out.mkdir()
    job = (count_lines, shard, out, {"log": str(log), "seconds": 2.0}, "key")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        both = [pool.apply_async(do_shard, (job, Progress())) for _ in range(2)]
        assert [counts.get()["pages"] for counts in both] == [2, 2]
        third = pool.apply(do_shard, (job, Progress()))
    assert third["pages"] == 2
    assert log.read_text().split() == ["000", "000"]
    assert sorted(path.name for path in out.iterdir()) == ["000", "000" + SECONDS]
    assert contents(out)["000/lines.txt"] == b"a\nb"


def test_a_process_that_dies_before_it_has_a_job_is_replaced(tmp_path, monkeypatch):
    start, started = workers._Worker.__init__, []

    def start_and_die(self, *arguments):
        start(self, *arguments)
        started.append(self)
        if len(started) < 3:
            self.process.kill()
            self.process.join()

    monkeypatch.setattr(workers._Worker, "__init__", start_and_die)
    run(make_shards(tmp_path / "in", ["a"]), tmp_path / "out")
    assert json.loads((tmp_path / "out/000/done.json").read_text())["left_out"] == []
    assert len(started) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="ends with its parent: on Linux")
def test_a_process_ends_with_its_parent_whatever_it_does(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(
        "import pathlib, sys\n"
        "from tests.mining.test_shards import make_shards, run\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[1])\n"
        "    run(make_shards(folder / 'in', ['hang']), folder / 'out')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, script, tmp_path], env=environment)
    while not (folders := list((tmp_path / "out").glob(".000.*"))) and process.poll() is None:
        time.sleep(0.1)
    watched = [pid for pid in descendants(process.pid) if "spawn_main" in command(pid)]
    assert folders and watched
    process.kill()
    process.wait()
    end = time.monotonic() + 5
    while any(map(command, watched)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(map(command, watched))


COMMAND = """
import sys
from tests.mining.test_shards import make_shards, run
import pathlib
if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    shards = make_shards(folder / "in", [f"{n}\\n" * n for n in range(20)])
    settings = {"log": str(folder / "log"), "seconds": 0.05}
    run(shards, folder / "out", settings, workers=2)
"""


@pytest.mark.slow
def test_random_kills_change_no_byte_and_repeat_no_finished_shard(tmp_path):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}

    def start(folder):
        folder.mkdir(exist_ok=True)
        return subprocess.Popen([sys.executable, script, folder], env=environment)

    whole = tmp_path / "whole"
    assert start(whole).wait() == 0
    killed = tmp_path / "killed"
    draws = random.Random(0)
    for _ in range(20):
        process = start(killed)
        time.sleep(draws.uniform(0.3, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start(killed).wait() == 0
    texts = {name: text for name, text in contents(killed / "out").items() if "lines" in name}
    assert texts == {n: t for n, t in contents(whole / "out").items() if "lines" in n}
    # A kill interrupts the shards of two processes at most; the rest is done once.
    assert len((killed / "log").read_text().split()) <= 20 + 2 * 20
    for n in range(20):
        assert read_marker(killed / f"out/{n:03d}") is not None
