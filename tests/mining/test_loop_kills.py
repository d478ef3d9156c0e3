"""The miner's loop: killed at any time and started again, it ends with the same bytes and repeats
nothing; a changed setting has done again what depends on it, and nothing else."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.shards import SECONDS
from tests.mining.process_trees import command, descendants

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 20
SKIPPED = ("report.html", "config.json")  # it has seconds; the engine
STAGES = [
    "model",
    "scores",
    "documents",
    "signatures",
    "pairs",
    "similar",
    "corpus",
    "hosts",
    "groups",
]
GROWING = ["accepted", "added"]  # the stages of all iterations but the last
FLAGS = {  # of a loop of two iterations over 400 pages
    "generated.pages": 0,
    "inputs": ("../web/*.warc.gz",),
    "seed": "../web/seed.jsonl",
    "benchmarks": ("../web/benchmarks",),
    "workers": 2,
    "parts": 2,
    "group_pages": 2,
    "negatives": 150,
}


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    pytest.importorskip("fastwarc")
    pytest.importorskip("fasttext")
    folder = tmp_path_factory.mktemp("runs")
    write_web(folder / "web", pages=400, files=4)
    return folder


class Run:
    """A run of the loop in a folder, in a process group of its own; `lines` is what it says."""

    def __init__(self, folder, *flags):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(ROOT / "launch" / "mine.py")]
        command += [f"--config={ROOT}/configs/mine_tiny.py:smoke", "--workdir=mined"]
        command += [f"--config.{name}={value}".replace(" ", "") for name, value in FLAGS.items()]
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=folder,  # beside the web: the same relative paths in each folder
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        self.begun = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self.begun.set()
        self.begun.set()

    def end(self):
        assert self.process.wait() == 0, "".join(self.lines[-30:])

    def ended(self):
        return self.process.poll() is not None

    def kill_all(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def kill_worker(self, draws):
        workers = [p for p in descendants(self.process.pid) if "spawn_main" in command(p)]
        if workers:
            os.kill(draws.choice(workers), signal.SIGKILL)
        return bool(workers)


def outputs(folder):
    """Bytes of all files, but for seconds and what is computed of them."""
    found = {}
    for path in sorted((folder / "mined").rglob("*")):
        if path.is_file() and path.suffix != SECONDS and path.name not in SKIPPED:
            data = path.read_bytes()
            if path.name == "report.json" or path.parent.name == "report":
                data = re.sub(rb'\n *"(seconds|core_hours)": [0-9.e+-]+,?', b"", data)
            found[str(path.relative_to(folder))] = data
    return found


def markers(folder):
    """Of each finished shard: which file its marker is, and since when."""
    found = {}
    for path in (folder / "mined").glob("**/*/*/done.json"):
        if not path.parent.name.startswith("."):
            status = path.stat()
            found[str(path.parent.relative_to(folder))] = (status.st_ino, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def expected(web):
    """What a run writes that nobody disturbs."""
    folder = web / "whole"
    Run(folder).end()
    assert {pathlib.PurePath(name).parts[-2] for name in markers(folder)} >= {
        *STAGES,
        *GROWING,
    }
    return outputs(folder)


def assert_same(folder, expected):
    found = outputs(folder)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_ray_changes_no_byte(web, expected):
    pytest.importorskip("ray", reason="needs Ray: pip install 'dsmath-jax[ray]'")
    folder = web / "ray"
    Run(folder, "--engine=ray").end()
    assert_same(folder, expected)


@pytest.mark.slow
def test_20_random_kills_change_no_byte_and_repeat_no_finished_shard(web, expected):
    draws = random.Random(0)
    kills = rounds = 0
    while kills < KILLS:
        folder = web / f"killed{rounds}"
        rounds += 1
        finished = {}
        run = Run(folder)
        while not run.ended():
            if kills >= KILLS:
                run.end()
                break
            run.begun.wait()
            time.sleep(draws.uniform(0.0, 3.0))
            if run.ended():
                break
            if kills % 4 == 3:
                kills += run.kill_worker(draws)
                time.sleep(0.2)
                continue
            run.kill_all()
            kills += 1
            now = markers(folder)
            assert finished.items() <= now.items()
            finished = now
            run = Run(folder)
        run.end()
        assert finished.items() <= markers(folder).items()
        assert_same(folder, expected)


@pytest.mark.slow
def test_a_changed_setting_has_done_again_what_depends_on_it(web):
    folder = web / "changed"

    def changed(*flags):
        """Stages of each iteration of which shards are done again."""
        before = markers(folder)
        Run(folder, *flags).end()
        after = markers(folder)
        return {
            tuple(pathlib.PurePath(name).parts[1:-1])
            for name in after
            if after[name] != before.get(name)
        }

    one = "--config.iterations=1"
    all_of_1 = {("sample",), *(("iter1", stage) for stage in STAGES)}
    all_of_2 = {("iter2", stage) for stage in STAGES}
    assert changed(one) == all_of_1
    assert changed() == all_of_2 | {("iter1", stage) for stage in GROWING}
    assert changed() == set()
    unread = {("sample",), ("iter1", "model"), ("iter1", "scores")}
    less = "--config.budgets.en=(4000,)"
    assert changed(one, less) == all_of_1 - unread
    assert changed(one, less, "--config.group_pages=3") == set()
    other = "--config.classifier.epochs=4"
    found = changed(one, less, other)
    assert found >= {("iter1", "model"), ("iter1", "scores")} and ("sample",) not in found
    assert ("sample",) in changed(one, less, other, "--config.sampled_share=0.9")
