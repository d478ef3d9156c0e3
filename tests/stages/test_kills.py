"""Twenty kills and two damaged checkpoints leave no trace in a run's end: packing, a mixture,
gradient accumulation, asynchronous saving."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from dsmath_jax.data.word_problems import generate
from tests.conftest import REPO
from tests.stages.test_resume import assert_same_run, damage_last_checkpoint, history, saved_steps

pytestmark = pytest.mark.slow

KILLS, STEPS = 20, 600
CONFIG = """
import json
from dsmath_jax.stages.defaults import get_defaults, with_argument

def get_config(arg=""):
    c = with_argument(get_defaults("sft"), "smoke")
    c.model_changes.num_layers = 1
    c.length, c.batch_size, c.micro_batches, c.steps = 96, 8, 2, {steps}
    c.checkpoint.every, c.checkpoint.keep, c.eval.every, c.eval.batch_size = 4, 3, 50, 8
    c.log.tensorboard = False
    c.data.mixture = json.loads({mixture!r})
    return c
"""


@pytest.fixture
def config(tmp_path):
    """SFT on two sources, 3 to 1."""
    mixture = {}
    for name, weight in {"short": 0.75, "chains": 0.25}.items():
        mixture[name] = {"weight": weight}
        for split, field in (("train", "path"), ("heldout", "heldout_path")):
            path = tmp_path / f"{name}_{split}.jsonl"
            share = 1.0 if name == "chains" else 0.0
            problems = generate(120, split=split, seed=1, chain_share=share)
            rows = [{"question": p.question, "answer": p.solution} for p in problems]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            mixture[name][field] = str(path)
    path = tmp_path / "mixed.py"
    path.write_text(CONFIG.format(steps=STEPS, mixture=json.dumps(mixture)))
    return path


def start(config, workdir):
    with workdir.with_name(f"{workdir.name}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, "launch/train.py", f"--config={config}", f"--workdir={workdir}"],
            cwd=REPO,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            stderr=log,
        )


def log(workdir) -> str:
    return workdir.with_name(f"{workdir.name}.log").read_text()


def saving(workdir) -> set[str]:
    return {p.name for p in workdir.glob("checkpoints/*.orbax-checkpoint-tmp*")}


def size(path) -> int:
    return path.stat().st_size if path.exists() else 0


def kill_at_some_moment(process, workdir, rng, *, in_a_save: bool) -> None:
    """A while after its first step, or one of its first checkpoints; or a little into a save."""
    metrics = workdir / "metrics.jsonl"
    partial, saved, written = saving(workdir), saved_steps(workdir)[-1], size(metrics)
    checkpoints = 1 if in_a_save else rng.randrange(3)

    def until(condition) -> None:
        while process.poll() is None and not condition():
            time.sleep(0.002)

    until(lambda: size(metrics) and size(metrics) != written)
    until(lambda: saved_steps(workdir)[-1] >= saved + 4 * checkpoints)
    if in_a_save:
        until(lambda: saving(workdir) - partial)
    time.sleep(rng.uniform(0.0, 0.06 if in_a_save else 0.4))
    assert process.poll() is None, f"it ended before it was killed:\n{log(workdir)[-2000:]}"
    process.kill()
    process.wait()


def test_twenty_kills_and_two_damaged_checkpoints(config, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(config, whole).wait(600) == 0, log(whole)[-2000:]
    rng, half_saved = random.Random(20), 0
    for number in range(KILLS):
        process = start(config, killed)
        kill_at_some_moment(process, killed, rng, in_a_save=number % 2 == 1)
        half_saved += bool(saving(killed))
        if number in (10, 15):
            damage_last_checkpoint(killed)
    assert half_saved >= 3  # a kill in a save leaves Orbax's partial directory
    assert 0 < saved_steps(killed)[-1] < STEPS
    assert start(config, killed).wait(600) == 0, log(killed)[-2000:]
    assert len(list(killed.glob("checkpoints/*.damaged"))) == 2
    assert [row["step"] for row in history(killed) if "grad_norm" in row] == [*range(1, STEPS + 1)]
    assert_same_run(whole, killed)
