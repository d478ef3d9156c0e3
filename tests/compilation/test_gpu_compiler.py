"""What XLA's compiler for GPUs makes of training and decoding; it needs its package, but no GPU."""

import importlib.util
import os
import re
import subprocess
import sys
import textwrap

import pytest

if not any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin"))):
    pytest.skip("needs the extra cuda", allow_module_level=True)

# Without measurements the compiler chooses no kernels; cuBLAS' are those it would.
FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 151397597184 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
SETUP = f"""
import jax, jax.numpy as jnp
from dsmath_jax.training import xla_flags
assert xla_flags.apply() == []
from jax.experimental import topologies
from dsmath_jax.models.config import preset
from dsmath_jax.stages import setup
from dsmath_jax.stages.defaults import get_defaults
devices = topologies.get_topology_desc(
    "", platform="cuda", topology="1x1x1", target_config='''{H200}'''
).devices
"""
TRAIN = """
from dsmath_jax.stages.supervised import make_programs
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.state import abstract_state
c = get_defaults("pretrain")
c.length, c.batch_size, c.remat = 1024, 4, "dots"
mc = preset("deepseek_1_3b", num_layers=3, vocab_size=1024)
mesh = setup.mesh_of(c, devices)
optimizer = make_optimizer(c.optimizer, 10)
jax.default_backend = lambda: "gpu"
programs = make_programs(c, setup.open_model(c, mc), optimizer)
state = abstract_state(mc, optimizer, mesh)
everywhere = jax.tree.leaves(state)[0].sharding
batch = {
    name: jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=everywhere)
    for name in ("tokens", "positions", "segment_ids", "loss_mask")
}
with jax.set_mesh(mesh):
    print(programs.update.lower(state, batch).compile().as_text())
"""
DECODE = """
from flax import nnx
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.sharding import param_shardings
from dsmath_jax.models.transformer import side_by_side
from dsmath_jax.rollout.cache import cache_shapes
from dsmath_jax.rollout.decode import Options, decode
from dsmath_jax.rollout.slots import Shard, Sizes, make_plan
c = get_defaults("rl")
mc = preset("deepseek_1_3b", num_layers=3, vocab_size=1024)
mesh = setup.open_generation_mesh(c, setup.mesh_of(c, devices))
sizes = Sizes.of(64, 16, 64, 64, 64, 1)
weights = jax.tree.map(
    lambda spec, layout: jax.ShapeDtypeStruct(spec.shape, jnp.bfloat16, sharding=layout),
    param_specs(mc),
    param_shardings(mc, mesh),
)
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
def of(shape, dtype):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=everywhere)
types = dict(dtype=jnp.bfloat16, kv_dtype=jnp.bfloat16)
cache = cache_shapes(mc, mesh, sizes, own=sizes.own_blocks(), by_layer=True, **types)
plan = jax.tree.map(lambda x: of(x.shape, x.dtype), make_plan([Shard(sizes)], [], sizes))
options = Options(
    jax.eval_shape(lambda: jax.random.key(0)),
    *(jax.ShapeDtypeStruct(*x) for x in (((), "float32"), ((1,), "int32"))),
    *(jax.ShapeDtypeStruct(*x) for x in (((), "int32"), ((), "float32"))),
)
hidden = of((sizes.slots, mc.hidden_size), jnp.bfloat16)
graph = nnx.split(setup.open_model(c, mc))[0]
def of_layer(stacked):
    return side_by_side({name: x[:1] for name, x in stacked.items()})
layer = {
    name: of(x.shape, x.dtype) for name, x in jax.eval_shape(of_layer, weights["layers"]).items()
}
arguments = (weights, [layer] * mc.num_layers, cache, hidden, plan, options)
with jax.set_mesh(mesh):
    print(decode.lower(graph, 8, "all", *arguments).compile().as_text())
"""


def compiled(program):
    code = textwrap.dedent(SETUP) + program
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


OWN_BLOCKS = 64 * 2 + 1


def products(text):
    """Shapes of the matrix products' results, inside fusions too."""
    return re.findall(r"= \((\w+\[[\d,]+\])[^=]*custom_call_target=\"__cublas", text)


def test_training_computes_no_product_twice():
    found = products(compiled(TRAIN))
    # Forward qkv, out, gate and up, down, and the vocabulary's; backward two for each of them.
    assert len(found) == 3 * 5, found


def test_decoding_reads_weights_and_keys_in_place_and_computes_no_product_twice():
    text = compiled(DECODE)
    # Of each of three layers: query, key and value; out; gate and up; down.
    assert len([x for x in products(text) if x.startswith("bf16[64,")]) == 3 * 4
    weights = r"(2048,2048|2048,6144|2048,11264|5632,2048)"
    copies = re.findall(rf"= bf16\[(?:1,)?{weights}\]\S* (?:copy|fusion|fusion-done)\(", text)
    assert copies == []
    recent = re.findall(r"= bf16\[1,64,16,8,128\]\S* copy\(", text)
    assert len(recent) <= 2 * 3  # once an interval, not at each token
    assert len(re.findall(r'custom_call_target="__gpu\$xla.gpu.triton"', text)) == 2 * 3
    # New keys and values go into the blocks at once: no loop over slots that the host would drive.
    assert len(re.findall(r" while\(", text)) == 1
    assert len(re.findall(r" scatter\(", text)) == 2 * 3
    assert re.findall(rf"= bf16\[1,{OWN_BLOCKS},16,32,128\]\S* copy\(", text) == []
