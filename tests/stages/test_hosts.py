"""Two processes with four devices each, on one machine, are one run, as one process with eight."""

import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import REPO, cpu_devices
from tests.stages.test_resume import assert_same_run, damage_last_checkpoint, history, saved_steps

pytestmark = pytest.mark.slow

SMALL = [
    "--config.length=80",
    "--config.batch_size=16",
    "--config.data.num_heldout=8",
    "--config.log.tensorboard=False",
]
RL = [
    "--config=configs/grpo_tpu.py:smoke",
    "--config.dtype=float32",
    "--config.rl.group=4",
    "--config.rl.max_new_tokens=8",
]
FLAGS = {
    "pretrain": ["--config=configs/pretrain_7b_tpu.py:smoke", *SMALL],
    "sft": ["--config=configs/sft_tiny.py:smoke", *SMALL],
    "rl": RL,
    "rl_ahead": [*RL, "--config.rl.ahead=True", "--config.rl.dynamic_sampling=1"],
}
# Writes down each file that is opened for writing, made or renamed by a process.
AUDIT = """
import os, sys
log = os.open(os.environ["WRITTEN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(event, args):
    if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        os.write(log, f"{args[0]}\\n".encode())
    if event in ("os.rename", "os.mkdir"):
        os.write(log, f"{args[1 if event == 'os.rename' else 0]}\\n".encode())
sys.addaudithook(note)
"""


class Run:
    """launch/train.py as `hosts` processes on loopback; their logs are in `logs`, and
    `own` are flags of each host alone."""

    def __init__(self, flags, workdir, *, hosts=2, devices=4, environments=None, own=()):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.logs = [workdir.with_name(f"{workdir.name}.log{i}") for i in range(hosts)]
        self.processes = []
        for i in range(hosts):
            environment = cpu_devices(devices) | {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(hosts),
                "JAX_PROCESS_ID": str(i),
            }
            environment |= environments[i] if environments else {}
            command = [sys.executable, "launch/train.py", *flags, f"--workdir={workdir}"]
            command += [f"--config.distributed={hosts > 1}", "--config.host_timeout=20"]
            command += own[i] if own else []
            with self.logs[i].open("w") as log:
                self.processes.append(
                    subprocess.Popen(command, cwd=REPO, env=environment, stderr=log)
                )

    def log(self, host: int = 0) -> str:
        return self.logs[host].read_text()

    def until(self, condition, timeout: float = 300) -> None:
        end = time.monotonic() + timeout
        while not condition():
            ended = [p.poll() for p in self.processes]
            assert time.monotonic() < end and ended == [None] * len(ended), self.log()[-3000:]
            time.sleep(0.05)

    def statuses(self, timeout: float = 400) -> list[int]:
        try:
            return [p.wait(timeout) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()


@pytest.mark.parametrize("stage", FLAGS)
def test_two_processes_train_like_one_and_the_first_writes(stage, tmp_path):
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(AUDIT)
    audits = [{"PYTHONPATH": f"{tmp_path / 'hook'}:{REPO}", "WRITTEN": str(tmp_path / name)}
              for name in ("written0", "written1")]  # fmt: skip
    two, one = tmp_path / "two", tmp_path / "one"
    assert Run(FLAGS[stage], two, environments=audits).statuses() == [0, 0]
    assert Run(FLAGS[stage], one, hosts=1, devices=8).statuses() == [0]
    rows, expected = history(two), history(one)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name in row:
            # Not bit for bit: processes add up gradients in another order than threads of one.
            np.testing.assert_allclose(row[name], other[name], rtol=2e-4, atol=1e-6, err_msg=name)
            if name in ("loss", "eval/loss", "reward"):
                np.testing.assert_allclose(row[name], other[name], rtol=1e-5, atol=1e-6)

    def written(host):
        lines = (tmp_path / f"written{host}").read_text().splitlines()
        inside = {pathlib.Path(line) for line in lines if line.startswith(f"{two}/")}
        return {p.relative_to(two) for p in inside}

    first, second = written(0), written(1)
    assert {"config.json.partial", "metrics.jsonl", "report.html"} <= {p.name for p in first}
    assert {p.parts[0] for p in second} <= {"checkpoints"}


def test_hosts_with_different_configurations_are_told(tmp_path):
    run = Run(FLAGS["sft"], tmp_path / "run", own=[[], ["--config.optimizer.b2=0.9"]])
    assert run.statuses(timeout=120) == [2, 2]
    for host in (0, 1):
        assert "process 1 in config.optimizer.b2 0.95 -> 0.9" in run.log(host)


def test_hosts_that_do_not_share_the_directory_are_told(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    run = Run(FLAGS["sft"], here / "run", own=[[], [f"--workdir={there / 'run'}"]])
    assert run.statuses(timeout=120) == [2, 2]
    for host in (0, 1):
        own = (here, there)[host] / "run"
        assert f"--workdir={own}: process 1 does not see" in run.log(host)
    assert list(here.glob("run")) == list(there.glob("run")) == []


def test_a_host_is_stopped_then_killed_then_the_other_and_a_checkpoint_damaged(tmp_path):
    flags = [*FLAGS["sft"], "--config.steps=40", "--config.checkpoint.every=3"]
    flags += ["--config.eval.every=10", "--config.micro_batches=2"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert Run(flags, whole).statuses() == [0, 0]

    # Told to stop on the second host, while the first step is compiled.
    run = Run(flags, broken)
    run.until(lambda: "sft step 0: eval/loss" in run.log())
    run.processes[1].send_signal(signal.SIGTERM)
    assert run.statuses() == [0, 0]
    (stopped,) = re.findall(r"stopped at step (\d+)", run.log())
    assert int(stopped) <= 3
    assert saved_steps(broken)[-1] == int(stopped) == history(broken)[-1]["step"]

    for victim in (1, 0):
        begun = saved_steps(broken)[-1]
        run = Run(flags, broken)
        run.until(lambda begun=begun: saved_steps(broken)[-1] >= begun + 4)
        run.processes[victim].kill()
        killed = time.monotonic()
        statuses = run.statuses(timeout=90)
        assert statuses[victim] == -signal.SIGKILL and statuses[1 - victim] == 1
        assert time.monotonic() - killed < 60  # host_timeout, and the time that JAX takes to abort
        last = run.log(1 - victim).strip().splitlines()[-1]
        assert last.startswith("error: another host ended or cannot be reached")
        assert last.endswith("it goes on from the last checkpoint")

    damage_last_checkpoint(broken)
    run = Run(flags, broken)
    assert run.statuses() == [0, 0]
    assert "differs from what was written): it is set aside" in run.log(0) + run.log(1)
    assert_same_run(whole, broken)


def test_processes_that_do_not_say_where_the_first_is_are_told(tmp_path):
    wrong = [{"JAX_COORDINATOR_ADDRESS": "somewhere"}] * 2
    run = Run(FLAGS["sft"], tmp_path / "run", environments=wrong)
    assert run.statuses() == [2, 2]
    assert "JAX_COORDINATOR_ADDRESS=somewhere: it must be HOST:PORT of process 0" in run.log(1)
    assert not (tmp_path / "run").exists()
