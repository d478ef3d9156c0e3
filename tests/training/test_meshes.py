"""Every mesh shape gives the loss and the gradient of one device; states move between meshes."""

import json

import pytest

MESHES = {
    "data": {"data": 8, "fsdp": 1},
    "fsdp": {"fsdp": 8},
    "fsdp_tensor": {"fsdp": 4, "tensor": 2},
    "tensor_sequence": {"fsdp": 1, "tensor": 4, "sequence": 2},
    "all_four": {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 2},  # on 16 devices
    "data_fsdp_sequence": {"data": 2, "fsdp": 2, "sequence": 2},
}
LOSSES = {mesh: ["sft_chunked"] for mesh in MESHES} | {
    "fsdp_tensor": ["sft", "sft_chunked", "grpo"],
    "all_four": ["sft_chunked", "grpo"],
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
    # Two samples a row: each without its first token, which nothing predicts.
    "lengths": np.where(segments == 1, ends - 1, 5).astype(np.float32),
}
graph = nnx.split(Transformer(config, params=params))[0]

def sft(params, batch):
    loss, sums = next_token_loss(sequence_logprobs(graph, params, batch), predicted_mask(batch))
    return loss, (sums, {})

def grpo(params, batch):
    old, advantages = batch["old_logp"], batch["advantages"][:, None]
    logp = sequence_logprobs(graph, params, batch)
    mask, lengths = predicted_mask(batch), batch["lengths"]
    loss, sums = grpo_loss(logp, old, old - 0.1, advantages, mask, lengths=lengths)
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
    devices = jax.devices()[: 16 if mesh_name == "all_four" else 8]
    mesh = make_mesh(**sizes, devices=devices)
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
def differences(run_on):
    return run_on(16, PROGRAM, json.dumps(MESHES), json.dumps(LOSSES))


@pytest.mark.parametrize("mesh, loss", [(m, loss) for m, some in LOSSES.items() for loss in some])
def test_loss_and_gradient_are_those_of_one_device(differences, mesh, loss):
    assert differences[mesh][loss]["loss"] < 1e-5
    assert differences[mesh][loss]["gradient"] < 1e-5


# A state saved under one mesh and restored under another; weights laid out anew for generation.
MOVING = """
import json, pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from dsmath_jax.models import ModelConfig, Transformer, init_params
from dsmath_jax.models.sharding import make_mesh, param_shardings
from dsmath_jax.rollout import Sampler
from dsmath_jax.rollout.local import local_arrays, local_mesh
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.state import abstract_state, init_state

model_config = ModelConfig(64, 32, 48, 2, 4, 2, 8, init_std=0.3)
config = get_defaults("rl")
config.dtype = "float32"
optimizer = make_optimizer(config.optimizer, 10)

def same(a, b):
    return bool(jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b)))

mesh = make_mesh(fsdp=8)
layouts = param_shardings(model_config, mesh)
params = jax.jit(lambda: init_params(model_config, 0), out_shardings=layouts)()
state = init_state(params, optimizer, mesh, model_config, with_reference=True)
opt_state = jax.tree.map(lambda x: x + 1, state.opt_state)
state = state._replace(step=state.step + 3, opt_state=opt_state)
checkpoints = Checkpoints(pathlib.Path(sys.argv[1]), config, model_config)
checkpoints.save(3, state, {"position": 7}, force=True)
checkpoints.close()

other = make_mesh(data=2, fsdp=2, tensor=2)
abstract = abstract_state(model_config, optimizer, other, with_reference=True)
restored, data = Checkpoints(pathlib.Path(sys.argv[1]), config, model_config).restore(abstract)
report = {
    "same": same(restored, state) and data == {"position": 7},
    "layout": all(
        x.sharding == a.sharding
        for x, a in zip(jax.tree.leaves(restored), jax.tree.leaves(abstract), strict=True)
    ),
}

generation = local_mesh(mesh, 2)
config.rl.tensor = 2
model = Transformer(model_config, params=jax.device_get(params))
programs = make_programs(config, model, optimizer, mesh)
weights = programs.generation_weights(state.params)
weights = local_arrays(weights, model_config, generation)
wq = weights["layers"]["wq"]
report["weights"] = same(weights, params)
report["wq"] = [list(wq.shape), list(wq.addressable_shards[0].data.shape)]
prompts = [[1, 5, 9], [2, 7], [3, 3, 8, 4], [6]]
options = dict(samples_per_prompt=4, max_new_tokens=12, eos_ids=[0])
one = Sampler(model)(prompts, **options)
many = Sampler(model, mesh=generation)(prompts, **options, params=weights)
report["tokens"] = bool((one.tokens == many.tokens).all())
report["logprobs"] = float(np.abs(one.logprobs - many.logprobs).max())
print(json.dumps(report))
"""


def test_a_state_moves_between_meshes_and_weights_to_the_generation_layout(tmp_path, run_on):
    report = run_on(8, MOVING, str(tmp_path))
    assert report["same"] and report["layout"] and report["weights"]
    assert report["wq"] == [[2, 32, 32], [2, 32, 16]]  # whole but for its heads
    assert report["tokens"] and report["logprobs"] < 1e-5
