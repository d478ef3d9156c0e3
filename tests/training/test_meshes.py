"""Every mesh shape gives the loss, the gradient and the updated parameters of one device."""

import json
import os
import subprocess
import sys

import pytest

MESHES = {
    "data": {"data": 8, "fsdp": 1},
    "fsdp": {"fsdp": 8},
    "fsdp_tensor": {"fsdp": 4, "tensor": 2},
    "tensor_sequence": {"fsdp": 1, "tensor": 4, "sequence": 2},
    "all": {"fsdp": 2, "tensor": 2, "sequence": 2},
    "data_fsdp_sequence": {"data": 2, "fsdp": 2, "sequence": 2},
}
LOSSES = {mesh: ["sft_chunked"] for mesh in MESHES} | {
    "fsdp_tensor": ["sft", "sft_chunked", "grpo"],
    "all": ["sft_chunked", "grpo"],
}

# Relative differences from one device, as JSON: {mesh: {loss: {"loss": ..., "gradient": ...}}}.
PROGRAM = """
import functools, json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from dsmath_jax.losses import grpo_loss, next_token_loss, token_logprobs
from dsmath_jax.models import ModelConfig, Transformer, init_params
from dsmath_jax.models.sharding import batch_sharding, make_mesh, param_shardings
from dsmath_jax.training import update
from dsmath_jax.training.update import accumulate, predicted_mask, sequence_logprobs

config = ModelConfig(256, 64, 96, 2, 8, 4, 8, qkv_bias=True, init_std=0.2)
params = jax.jit(lambda: init_params(config, 0))()
rng = np.random.default_rng(0)
rows, length = 16, 32
ends = rng.integers(8, 24, (rows, 1))
index = np.arange(length)
segments = np.where(index < ends, 1, np.where(index < ends + 6, 2, 0)).astype(np.int32)
batch = {
    "tokens": rng.integers(0, 256, (rows, length)).astype(np.int32),
    "segment_ids": segments,
    "loss_mask": (segments > 0).astype(np.float32),
    "old_logp": rng.normal(-5, 0.2, (rows, length)).astype(np.float32),
    "advantages": rng.normal(size=rows).astype(np.float32),
}
graph = nnx.split(Transformer(config, params=params))[0]

def sft(params, batch):
    loss, sums = next_token_loss(sequence_logprobs(graph, params, batch), predicted_mask(batch))
    return loss, (sums, {})

def grpo(params, batch):
    old, advantages = batch["old_logp"], batch["advantages"][:, None]
    logp = sequence_logprobs(graph, params, batch)
    loss, sums = grpo_loss(logp, old, old - 0.1, advantages, predicted_mask(batch))
    return loss, (sums, {})

def sft_chunked(params, batch):
    return sft(params, batch)

def results(params, batch, names):
    out = {}
    for name in names:
        chunk = 24 if name == "sft_chunked" else None  # does not divide 256, nor its parts
        update.token_logprobs = functools.partial(token_logprobs, chunk=chunk)
        loss_fn = globals()[name]
        grads, sums, _ = jax.jit(lambda p, b, f=loss_fn: accumulate(f, p, b, 2))(params, batch)
        total, count = sums["loss"]
        out[name] = (total / count, grads)
    return out

def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.abs(a - b).max() / np.abs(b).max())

meshes, losses = json.loads(sys.argv[1]), json.loads(sys.argv[2])
expected = results(params, batch, ["sft", "sft_chunked", "grpo"])
report = {}
for mesh_name, sizes in meshes.items():
    mesh = make_mesh(**sizes)
    placed = jax.device_put(params, param_shardings(config, mesh))
    there = {k: jax.device_put(v, batch_sharding(mesh, v.shape)) for k, v in batch.items()}
    names = losses[mesh_name]
    with jax.set_mesh(mesh):
        got = results(placed, there, names)
    report[mesh_name] = {
        name: {
            "loss": relative(got[name][0], expected[name][0]),
            "gradient": max(
                jax.tree.leaves(jax.tree.map(relative, got[name][1], expected[name][1]))
            ),
        }
        for name in names
    }
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def differences():
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 "
        "--xla_backend_optimization_level=0",  # compiles in half the time
    }
    command = [sys.executable, "-c", PROGRAM, json.dumps(MESHES), json.dumps(LOSSES)]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh, loss", [(m, loss) for m, some in LOSSES.items() for loss in some])
def test_loss_and_gradient_are_those_of_one_device(differences, mesh, loss):
    assert differences[mesh][loss]["loss"] < 1e-5
    assert differences[mesh][loss]["gradient"] < 1e-5
