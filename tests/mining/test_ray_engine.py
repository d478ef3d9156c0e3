"""Shards on a Ray cluster: the bytes of local processes, whatever is killed; one sentence where
there is no cluster."""

import contextlib
import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining import classifier
from dsmath_jax.mining.generated_web import write_web
from dsmath_jax.mining.normalize import for_classifier
from dsmath_jax.mining.shards import Engine, file_hash, input_shards, run_shards
from tests.mining.process_trees import command, descendants
from tests.mining.stages_for_tests import count_lines, score_slowly
from tests.mining.test_shards import contents, make_shards

ROOT = pathlib.Path(__file__).parents[2]
needs_ray = "needs Ray: pip install 'dsmath-jax[ray]'"
WEB_FILES = 24


# ---- No cluster --------------------------------------------------------------------------------


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'dsmath-jax\[ray\]'"):
        start(tmp_path, "auto")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nothing", "nowhere.invalid:6379"])
def test_no_cluster_at_the_address(tmp_path, address):
    pytest.importorskip("ray", reason=needs_ray)
    begin = time.monotonic()
    with pytest.raises(InputError, match=f"--address={address}: no Ray cluster"):
        start(tmp_path, address)
    assert time.monotonic() - begin < 20


def start(folder, address):
    shards = make_shards(folder / "in", ["a"])
    run_shards(count_lines, 1, shards, folder / "out", {}, Engine(ray=address), say=str)


# ---- A cluster of two nodes --------------------------------------------------------------------

COMMAND = """
import json, pathlib, sys
from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.shards import Engine
from tests.mining.test_ray_engine import score_web
from tests.mining.test_shards import make_shards, run
if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    try:
        if what == "score":
            address, web, out, log, seconds = arguments
            engine = Engine(ray=address, workers=0)
            print(json.dumps(score_web(web, out, log, float(seconds), engine)))
        else:
            address, folder = arguments[0], pathlib.Path(arguments[1])
            lines = {"pages": ["a\\nb", "c\\nhang\\nd", "die\\ne"], "wrong": ["a", "b\\nwrong"]}
            shards = make_shards(folder / "in", lines[what])
            run(shards, folder / "out", ray=address, workers=2, stuck_seconds=3.0)
    except (InputError, ValueError) as e:
        sys.exit(f"{type(e).__name__}: {e}")
"""


def score_web(web, out, log, seconds, engine):
    inputs = sorted(str(p) for p in pathlib.Path(web).glob("*.warc.gz"))
    model = pathlib.Path(web) / "model_collapsed.bin"
    settings = {
        "classifier": str(model),
        "classifier_hash": file_hash(model),
        "max_page_bytes": 8 << 20,
        "rate": None,
        "log": str(log),
        "seconds": seconds,
    }
    shards = list(input_shards(inputs, lambda path: file_hash(pathlib.Path(path))))
    found = run_shards(score_slowly, 1, shards, pathlib.Path(out), settings, engine, say=str)
    return [{k: v for k, v in counts.items() if k != "seconds"} for counts in found]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    pytest.importorskip("fastwarc")
    folder = tmp_path_factory.mktemp("web")
    truth = write_web(folder, pages=600, files=WEB_FILES)
    rows = map(json.loads, pathlib.Path(truth.seed).read_text().splitlines())
    positives = [for_classifier(row["text"]) for row in rows]
    negatives = [f"salt the soup and stir it for {n} minutes" for n in range(60)]
    settings = {"dim": 8, "buckets": 1000, "word_ngrams": 2, "epochs": 1}
    classifier.train(positives, negatives, folder / "model.bin", **settings)
    return folder


class Node:
    """`ray start --block` and all processes under it."""

    def __init__(self, environment, folder, *flags):
        few = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
        # Without these, nodes of one machine take each other's ports.
        few += ["--min-worker-port=0", "--max-worker-port=0"]
        script = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start"]
        self.process = subprocess.Popen(
            [*script, "--block", *few, *flags],
            env=environment,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def workers(self):
        """Ray's processes that are at a shard."""
        return [pid for pid in self.processes() if command(pid).startswith("ray::task")]

    def processes(self):
        return [self.process.pid, *descendants(self.process.pid)]

    def kill(self):
        for pid in self.processes():
            kill(pid)
        self.process.wait()


def kill(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class Cluster:
    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = os.environ | token
        # Nodes find the project where the miner has it, not by themselves.
        self.environment.pop("PYTHONPATH", None)
        self.folder = folder
        port = self.address.split(":")[1]
        head = ["--head", f"--port={port}", f"--temp-dir={folder}", "--include-dashboard=false"]
        self.nodes = [Node(self.environment, folder, *head)]
        wait_for(lambda: answers(self.address), 60, "the head's port")
        self.add_node()

    def add_node(self):
        self.nodes.append(Node(self.environment, self.folder, f"--address={self.address}"))

    def start(self, script, *arguments):
        return subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env=self.environment | {"PYTHONPATH": str(ROOT)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def answers(address):
    host, port = address.split(":")
    with socket.socket() as to:
        return to.connect_ex((host, int(port))) == 0


def wait_for(true, seconds, what):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"no {what} in {seconds} s"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray", reason=needs_ray)
    folder = tempfile.mkdtemp(prefix="ray")  # short, as paths of sockets must be
    cluster = Cluster(folder)
    yield cluster
    for node in cluster.nodes[::-1]:
        node.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "command.py"
    path.write_text(COMMAND)
    return path


@pytest.mark.slow
def test_pages_are_left_out_and_errors_come_back_as_from_local_processes(
    cluster, script, tmp_path, monkeypatch
):
    _, errors = (ended := cluster.start(script, "pages", cluster.address, tmp_path)).communicate()
    assert ended.returncode == 0, errors[-3000:]
    texts = [(tmp_path / f"out/{n:03d}/lines.txt").read_text() for n in range(3)]
    assert texts == ["a\nb", "c\nd", "e"]
    marker = json.loads((tmp_path / "out/001/done.json").read_text())
    assert marker["left_out"] == [f"{tmp_path}/in/1.txt:1"]
    _, errors = cluster.start(script, "wrong", cluster.address, tmp_path).communicate()
    assert errors.splitlines()[-1] == "ValueError: 001: line 1 is wrong"
    monkeypatch.setitem(cluster.environment, "RAY_AUTH_TOKEN", secrets.token_hex(32))
    begin = time.monotonic()
    _, errors = cluster.start(script, "pages", cluster.address, tmp_path).communicate()
    assert time.monotonic() - begin < 40
    assert errors.splitlines()[-1].startswith("InputError: --address=")
    assert "with its token" in errors.splitlines()[-1]


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_node_change_no_byte(cluster, script, web, tmp_path):
    log = tmp_path / "log"
    expected = score_web(web, tmp_path / "local", log, 0.3, Engine(workers=2))
    log.unlink()
    out = tmp_path / "ray"
    process = cluster.start(script, "score", cluster.address, web, out, log, 0.3)
    seen: dict[str, tuple] = {}

    def done(count):
        def enough():
            assert process.poll() is None, process.stderr.read()[-3000:]
            for path in out.glob("[0-9]*/done.json"):
                found = path.stat()
                before = seen.setdefault(path.parent.name, (found.st_ino, found.st_mtime_ns))
                assert before == (found.st_ino, found.st_mtime_ns)
            return len(seen) >= count

        wait_for(enough, 120, f"{count} shards")

    done(4)
    worker = wait_for(lambda: cluster.nodes[0].workers(), 60, "worker at a shard")[0]
    watched = wait_for(lambda: descendants(worker), 60, "watched process")
    kill(worker)
    wait_for(lambda: not any(map(command, watched)), 5, "end of the watched process")
    done(12)
    lost = cluster.nodes.pop()
    assert wait_for(lost.workers, 60, "worker on the second node")
    watched = descendants(lost.process.pid)
    lost.kill()
    wait_for(lambda: not any(map(command, watched)), 5, "end of the node's processes")
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors[-3000:]
    # Ray, too, may print, of the node that is gone.
    (counted,) = (line for line in printed.splitlines() if line.startswith("[{"))
    assert json.loads(counted) == expected

    assert contents(out) == contents(tmp_path / "local")
    for name, (inode, changed) in seen.items():
        found = (out / name / "done.json").stat()
        assert (found.st_ino, found.st_mtime_ns) == (inode, changed)
    began = [line.split() for line in log.read_text().splitlines()]
    assert [line[0] for line in began if line[1] == "again"] == []
    # What was at work on the killed worker and the killed node is begun again, and nothing else.
    assert WEB_FILES < len(began) <= WEB_FILES + 2
    cluster.add_node()


@pytest.mark.slow
def test_a_killed_run_is_taken_up_by_the_next(cluster, script, web, tmp_path):
    log = tmp_path / "log"
    first = cluster.start(script, "score", cluster.address, web, tmp_path / "out", log, 0.3)
    markers = lambda: list((tmp_path / "out").glob("[0-9]*/done.json"))  # noqa: E731
    wait_for(lambda: len(markers()) >= 5, 120, "five shards")
    first.kill()
    first.communicate()
    done = {path.parent.name for path in markers()}
    begun = len(log.read_text().splitlines())
    second = cluster.start(script, "score", cluster.address, web, tmp_path / "out", log, 0.3)
    _, errors = second.communicate(timeout=200)
    assert second.returncode == 0, errors[-3000:]
    again = [line.split()[0] for line in log.read_text().splitlines()[begun:]]
    assert not done & set(again)
    expected = score_web(web, tmp_path / "local", log, 0.3, Engine(workers=2))
    assert len(expected) == WEB_FILES
    for name in ("rows.parquet", "rejected.parquet"):
        for path in (tmp_path / "local").glob(f"*/{name}"):
            other = tmp_path / "out" / path.relative_to(tmp_path / "local")
            assert other.read_bytes() == path.read_bytes()


# ---- A cluster on this machine -----------------------------------------------------------------


@pytest.mark.slow
def test_local_starts_a_cluster(script, tmp_path):
    pytest.importorskip("ray", reason=needs_ray)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    # Another folder than the project's, and relative paths.
    ended = subprocess.run(
        [sys.executable, script, "pages", "local", "."],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "out/001/lines.txt").read_text() == "c\nd"
