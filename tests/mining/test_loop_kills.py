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
from tests.mining.process_trees import command, descendants

ROOT = pathlib.Path(__file__).parents[2]
KILLS = 20
STAGES = ["model", "scores", "documents", "signatures", "pairs", "similar", "corpus", "added"]

COMMAND = """
import json, pathlib, sys
from dsmath_jax.mining import loop, report
from dsmath_jax.mining.defaults import get_defaults
if __name__ == "__main__":
    web = pathlib.Path(sys.argv[1])
    c = get_defaults()
    c.inputs = (str(web / "*.warc.gz"),)
    c.seed = str(web / "seed.jsonl")
    c.benchmarks = (str(web / "benchmarks"),)
    c.classifier.update({"dim": 16, "buckets": 2000, "learning_rate": 0.5, "epochs": 15})
    c.classifier.min_count = 1
    c.update({"annotate": "auto", "iterations": 2, "workers": 2, "parts": 2})
    c.update({"group_pages": 2, "domain_pages": 3, "negatives": 150, "min_score": 0.3})
    settings = (setting.split("=") for setting in sys.argv[2:])
    c.update_from_flattened_dict({name: json.loads(value) for name, value in settings})
    run = loop.open_mine(c, pathlib.Path("mined"), say=lambda line: print(line, flush=True))
    report.write_reports(run, loop.mine(run))
"""


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    pytest.importorskip("fastwarc")
    pytest.importorskip("fasttext")
    folder = tmp_path_factory.mktemp("web")
    write_web(folder, pages=400, files=4)
    (folder / "command.py").write_text(COMMAND)
    return folder


class Run:
    """A run of the loop in a folder, in a process group of its own; `lines` is what it says."""

    def __init__(self, web, folder, *settings):
        folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, web / "command.py", web, *settings],
            cwd=folder,  # the same relative paths, which are among the settings, in each folder
            env=os.environ | {"PYTHONPATH": str(ROOT)},
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
    """Bytes of all files but those of reports' seconds."""
    found = {}
    for path in sorted((folder / "mined").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            if path.name == "report.json":
                data = re.sub(rb'\n *"seconds": [0-9.e-]+,?', b"", data)
            found[str(path.relative_to(folder))] = data
    return found


def markers(folder):
    """Of each finished shard: which file its marker is, and since when."""
    found = {}
    for path in (folder / "mined").rglob("done.json"):
        if not path.parent.name.startswith("."):
            status = path.stat()
            found[str(path.parent.relative_to(folder))] = (status.st_ino, status.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def expected(web, tmp_path_factory):
    """What a run writes that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    Run(web, folder).end()
    assert {name.split("/")[2] for name in markers(folder)} >= set(STAGES)
    return outputs(folder)


def assert_same(folder, expected):
    found = outputs(folder)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []


@pytest.mark.slow
def test_ray_changes_no_byte(web, expected, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'dsmath-jax[ray]'")
    Run(web, tmp_path, 'ray="local"').end()
    assert_same(tmp_path, expected)


@pytest.mark.slow
def test_20_random_kills_change_no_byte_and_repeat_no_finished_shard(web, expected, tmp_path):
    draws = random.Random(0)
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"killed{rounds}"
        rounds += 1
        finished = {}
        run = Run(web, folder)
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
            run = Run(web, folder)
        run.end()
        assert finished.items() <= markers(folder).items()
        assert_same(folder, expected)


@pytest.mark.slow
def test_a_changed_setting_has_done_again_what_depends_on_it(web, tmp_path):
    def changed(*settings):
        """Stages of each iteration of which shards are done again."""
        before = markers(tmp_path)
        Run(web, tmp_path, *settings).end()
        after = markers(tmp_path)
        return {
            tuple(pathlib.PurePath(name).parts[1:-1])
            for name in after
            if after[name] != before.get(name)
        }

    all_of_1 = {("sample",), *(("iter1", stage) for stage in STAGES)}
    all_of_2 = {("iter2", stage) for stage in STAGES[:-1]}
    assert changed("iterations=1") == all_of_1 - {("iter1", "added")}
    assert changed() == all_of_2 | {("iter1", "added")}
    assert changed() == set()
    # Budgets: the second iteration's seed is another, as other pages were taken.
    unread = {("sample",), ("iter1", "model"), ("iter1", "scores")}
    assert changed("iterations=1", "budgets.en=4000") == all_of_1 - unread - {("iter1", "added")}
    assert changed("iterations=1", "budgets.en=4000", "group_pages=3") == set()
    found = changed("iterations=1", "budgets.en=4000", "classifier.epochs=14")
    assert found >= {("iter1", "model"), ("iter1", "scores")} and ("sample",) not in found
    found = changed("iterations=1", "budgets.en=4000", "classifier.epochs=14", "sampled_share=0.9")
    assert ("sample",) in found
