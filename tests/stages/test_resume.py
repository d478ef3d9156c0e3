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

from dsmath_jax.models.checkpoint import checkpoint_steps
from tests.conftest import REPO

SHORT = ("--config.length=80", "--config.batch_size=8")  # most of a longer step is waiting
SFT = ["--config=configs/sft_tiny.py:smoke", *SHORT]
STEPS = {"pretrain": 40, "sft": 40, "rl": 14, "rl_ahead": 14, "sft_then_rl": 5}


@pytest.fixture(scope="module")
def riddles(tmp_path_factory):
    """Questions that a model learns to get half right in a few steps, so that GRPO has rewards."""
    path = tmp_path_factory.mktemp("data") / "riddles.jsonl"
    rows = [{"question": f"Is {n} odd?", "answer": f"#### {n % 2}"} for n in range(200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def taught(riddles, tmp_path_factory, launch):
    """A run of SFT on the riddles, for GRPO to start from."""
    workdir = tmp_path_factory.mktemp("taught")
    flags = ("--config=configs/sft_tiny.py:smoke", f"--workdir={workdir}", "--config.steps=60")
    data = (f"--config.data.path={riddles}", "--config.optimizer.warmup_steps=5")
    launch("train.py", *flags, *data, "--config.length=64", check=True)
    return workdir


@pytest.fixture
def stage_flags(riddles, taught):
    rl = [
        "--config=configs/grpo_tpu.py:smoke",
        "--config.dtype=float32",
        "--config.optimizer.learning_rate=1e-3",
        "--config.data.prompt=plain",
        f"--config.data.path={riddles}",
        f"--config.data.heldout_path={riddles}",
        f"--config.init.checkpoint={taught}",
        "--config.length=64",
    ]
    return {
        "pretrain": [
            "--config=configs/pretrain_7b_tpu.py:smoke",
            *SHORT,
            "--config.micro_batches=2",
            "--config.spikes.window=2",  # so that some steps are skipped
            "--config.spikes.sigmas=0.1",
            "--config.spikes.max_in_a_row=2",
            "--config.optimizer.learning_rate=1e-2",
            "--config.optimizer.schedule=constant",
        ],
        "sft": SFT,
        "rl": rl,
        "rl_ahead": [*rl, "--config.rl.ahead=True", "--config.rl.dynamic_sampling=1"],
        "sft_then_rl": [
            "--config=configs/grpo_tiny.py:smoke",
            "--config.length=80",
            *(flag.replace("config.", "config.init.stage.") for flag in SHORT),
            "--config.init.stage.steps=30",
            "--config.init.stage.checkpoint.every=3",
        ],
    }


def start(flags: list[str], workdir, steps: int) -> subprocess.Popen:
    flags = [
        *flags,
        f"--workdir={workdir}",
        f"--config.steps={steps}",
        "--config.checkpoint.every=3",
        "--config.eval.every=7",
        "--config.data.num_heldout=8",
    ]
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *flags],
        cwd=REPO,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.PIPE,
        text=True,
    )


def saved_steps(workdir) -> list[int]:
    """Steps of the finished checkpoints; [0] before there is one."""
    return checkpoint_steps(workdir / "checkpoints") or [0]


def damage_last_checkpoint(workdir) -> None:
    """Changes one bit of its largest file."""
    state = workdir / "checkpoints" / str(saved_steps(workdir)[-1]) / "state"
    file = max((p for p in state.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def final_state(workdir) -> dict[str, np.ndarray]:
    step = saved_steps(workdir)[-1]
    path = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        state = checkpointer.restore(path, restore_args=as_numpy)
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in flat}


def history(workdir) -> list[dict]:
    """The lines of metrics.jsonl without what a clock measured."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    timed = ("time/", "memory/", "tokens_per_s", "tflops", "mfu", "data_wait")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in rows]


def assert_same_run(one, other):
    a, b = final_state(one), final_state(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert history(one) == history(other)


def run_killing(begin, moments) -> int:
    """Calls begin() and kills that run at each of the moments (seconds after it shows a step), then
    lets it end by itself; returns how often it was still running."""
    killed = 0
    for moment in moments:
        process = begin()
        for line in process.stderr:
            if "done," in line or "going on" in line:
                break
        time.sleep(moment)
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate(timeout=120)
    process = begin()
    _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log[-2000:]
    return killed


def test_sigterm_saves_and_exits_cleanly(tmp_path):
    workdir = tmp_path / "stopped"
    process = start(SFT, workdir, 400)
    for line in process.stderr:
        if "done," in line:
            break
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "the same command goes on" in log
    last = saved_steps(workdir)[-1]
    assert last == history(workdir)[-1]["step"] < 400


@pytest.mark.slow
@pytest.mark.parametrize("stage", STEPS)
def test_killed_run_ends_like_one_never_killed(stage, tmp_path, stage_flags):
    def begin(name):
        return start(stage_flags[stage], tmp_path / name, STEPS[stage])

    _, log = (whole := begin("whole")).communicate(timeout=300)
    assert whole.returncode == 0, log[-2000:]
    rng = random.Random(stage)
    moments = [rng.uniform(0.0, 1.5) for _ in range(4)]
    assert run_killing(lambda: begin("killed"), moments) >= 2
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    if stage == "pretrain":
        assert 0 < history(tmp_path / "whole")[-2]["skipped"] < STEPS[stage]
    if stage == "sft_then_rl":
        assert_same_run(tmp_path / "whole" / "init", tmp_path / "killed" / "init")
    if stage.startswith("rl"):
        assert any(0 < row.get("reward", 0) < 1 for row in history(tmp_path / "whole"))
        assert any(row.get("grad_norm", 0) > 1e-3 for row in history(tmp_path / "whole"))


@pytest.mark.slow
def test_what_was_generated_ahead_survives_a_signal_at_any_step(tmp_path, stage_flags):
    """SIGTERM saves after the step under way, whichever it is, with the next one's samples: they
    come from weights that the checkpoint does not have."""

    def begin(name):
        return start(stage_flags["rl_ahead"], tmp_path / name, STEPS["rl_ahead"])

    _, log = (whole := begin("whole")).communicate(timeout=300)
    assert whole.returncode == 0, log[-2000:]
    stopped = []
    while len(stopped) < 3:
        process = begin("stopped")
        for line in process.stderr:
            if "done," in line:
                break
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 0
        stopped.append(saved_steps(tmp_path / "stopped")[-1])
    assert any(step % 3 for step in stopped)  # no checkpoint was due then
    _, log = (last := begin("stopped")).communicate(timeout=300)
    assert last.returncode == 0, log[-2000:]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    first, *others = [row for row in history(tmp_path / "whole") if "loss" in row]
    assert first["staleness"] == 0.0 and first["logprob_gap_max"] < 1e-4
    assert all(0.0 < row["staleness"] <= 1.0 for row in others)
    assert max(row["logprob_gap_max"] for row in others) > 1e-3  # an update lies between
    assert {8.0, 16.0} == {row["groups_generated"] for row in (first, *others)}
