"""Each configuration runs at its smoke size, on one device and on eight."""

import json
import runpy

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.conftest import REPO

SMOKE = [
    "grpo_tiny",
    "sft_tiny",
    "sft_gsm8k",
    "grpo_gsm8k",
    "pretrain_1_3b_tpu",
    "pretrain_7b_tpu",
    "sft_7b_tpu",
    "grpo_tpu",
]


def test_every_config_is_run_here():
    assert sorted(SMOKE) == sorted(p.stem for p in (REPO / "configs").glob("*.py"))


def assert_float32(workdir):
    """Master weights and moments, whatever the computation's dtype."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        stored = checkpointer.metadata(workdir / "checkpoints" / "3" / "state").item_metadata.tree
    leaves = jax.tree.leaves({k: stored[k] for k in ("params", "opt_state")})
    assert {np.dtype(x.dtype) for x in leaves if x.shape} == {np.dtype("float32")}


@pytest.mark.parametrize("name", SMOKE)
def test_smoke_gives_the_same_losses_on_one_and_eight_devices(name, tmp_path, launch):
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


def paper_config(name):
    return runpy.run_path(str(REPO / "configs" / f"{name}.py"))["get_config"]()


@pytest.mark.parametrize(
    "name, model, tokens, steps, rate",
    [
        # 2.2: 150B tokens, batches of 4M; 2.3: 500B, batches of 10M; 3: 500 steps of 256 rows.
        ("pretrain_1_3b_tpu", "deepseek_1_3b", 4e6, 150e9 / 4e6, 5.3e-4),
        ("pretrain_7b_tpu", "deepseek_7b", 10e6, 500e9 / 10e6, 4.2e-4),
        ("sft_7b_tpu", "deepseek_7b", 256 * 4096, 500, 5e-5),
    ],
)
def test_paper_configs_have_the_papers_numbers(name, model, tokens, steps, rate):
    c = paper_config(name)
    assert c.model == model and c.length == 4096
    assert c.batch_size * c.length == pytest.approx(tokens, rel=0.06)
    assert c.steps == pytest.approx(steps, rel=0.06)
    assert c.steps * c.batch_size * c.length == pytest.approx(steps * tokens, rel=0.01)
    optimizer = c.optimizer
    assert optimizer.learning_rate == rate
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
    if c.stage == "pretrain":
        assert (optimizer.schedule, optimizer.warmup_steps) == ("multi_step", 2000)
    else:
        assert optimizer.schedule == "constant"


def test_the_base_models_mixture_is_the_papers():
    shares = {k: v.weight for k, v in paper_config("pretrain_7b_tpu").data.mixture.items()}
    assert shares == {
        "math": 0.56,
        "algebraic_stack": 0.04,
        "arxiv": 0.1,
        "code": 0.2,
        "language": 0.1,
    }
