"""Configurations at their smoke size; two files of tests run them, one for each worker."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp

SUPERVISED = [
    "sft_tiny",
    "sft_gsm8k",
    "compare_corpora",
    "pretrain_1_3b_tpu",
    "pretrain_7b_tpu",
    "sft_7b_tpu",
]
RL = ["grpo_tiny", "grpo_gsm8k", "grpo_tpu"]


def assert_float32(workdir):
    """Master weights and moments, whatever the computation's dtype."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        stored = checkpointer.metadata(workdir / "checkpoints" / "3" / "state").item_metadata.tree
    leaves = jax.tree.leaves({k: stored[k] for k in ("params", "opt_state")})
    assert {np.dtype(x.dtype) for x in leaves if x.shape} == {np.dtype("float32")}


def same_losses_on_one_and_eight_devices(name, tmp_path, launch):
    """Runs a configuration's smoke size twice and compares."""
    losses = []
    for devices in (1, 8):
        workdir = tmp_path / str(devices)
        launch(
            "train.py",
            f"--config=configs/{name}.py:smoke",
            f"--workdir={workdir}",
            "--config.log.tensorboard=False",
            devices=devices,
            check=True,
        )
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
        steps = [r for r in rows if "loss" in r]
        assert [r["step"] for r in steps] == [1, 2, 3]
        assert all(np.isfinite(r["grad_norm"]) for r in steps)
        assert (workdir / "report.html").stat().st_size > 10_000
        losses.append([r["loss"] for r in steps])
        assert_float32(workdir)
    np.testing.assert_allclose(*losses, rtol=2e-3, atol=1e-5)
