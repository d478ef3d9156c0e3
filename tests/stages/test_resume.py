"""A run that is killed and started again ends bit for bit like one that never was."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import REPO

SMALL_FLAGS = {
    "pretrain": [
        "--config=configs/pretrain_7b_tpu.py:smoke",
        "--config.steps=40",
        "--config.micro_batches=2",
    ],
    "sft": ["--config=configs/sft_tiny.py:smoke", "--config.steps=40"],
    "rl": ["--config=configs/grpo_tpu.py:smoke", "--config.steps=14", "--config.dtype=float32"],
}


def start(stage: str, workdir) -> subprocess.Popen:
    flags = [
        *SMALL_FLAGS[stage],
        f"--workdir={workdir}",
        "--config.checkpoint.every=3",
        "--config.eval.every=7",
        "--config.log.tensorboard=False",
        "--config.data.num_heldout=8",
        "--config.model_changes.num_layers=1",
    ]
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *flags],
        cwd=REPO,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


def final_state(workdir) -> dict[str, np.ndarray]:
    step = max(ocp.utils.checkpoint_steps(workdir / "checkpoints"))
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / "checkpoints" / str(step) / "state")
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in flat}


def history(workdir) -> list[dict]:
    """The lines of metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    timed = ("time/", "tokens_per_s")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def assert_same_run(one, other):
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert history(one) == history(other)


def run_killing(stage: str, workdir, number: int, moments) -> int:
    """Starts the run until it ends by itself, sending `number` at each of the moments (seconds after
    its first step line); returns how many it reached."""
    sent = 0
    for moment in moments:
        process = start(stage, workdir)
        for line in process.stderr:
            if "1/" in line or "going on" in line:
                break
        time.sleep(moment)
        if process.poll() is None:
            process.send_signal(number)
            sent += 1
        process.communicate(timeout=120)
        if number == signal.SIGTERM:
            assert process.returncode == 0
    process = start(stage, workdir)
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-2000:]
    return sent


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    process = start("sft", tmp_path / "stopped")
    for line in process.stderr:
        if line.startswith("sft 1/"):
            break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command goes on" in log
    steps = ocp.utils.checkpoint_steps(tmp_path / "stopped" / "checkpoints")
    assert max(steps) == history(tmp_path / "stopped")[-1]["step"] < 40


@pytest.mark.slow
@pytest.mark.parametrize("stage", SMALL_FLAGS)
def test_killed_run_ends_like_one_never_killed(stage, tmp_path):
    process = start(stage, tmp_path / "whole")
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-2000:]
    rng = random.Random(stage)
    moments = [rng.uniform(0.0, 1.5) for _ in range(4)]
    assert run_killing(stage, tmp_path / "killed", signal.SIGKILL, moments) >= 2
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
