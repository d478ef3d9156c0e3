"""Rematerialisation "offload": layers' inputs wait for the backward pass in the host's memory."""

import jax
import jax.numpy as jnp
import pytest

from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.models import ModelConfig, Transformer
from dsmath_jax.models.parameters import param_specs
from dsmath_jax.models.sharding import batch_sharding, make_mesh, param_sharding

pytestmark = pytest.mark.usefixtures("quick_compiler")

CONFIG = ModelConfig(512, 256, 512, 16, 2, 2, 128)
SHAPE = (8, 4096)


def compiled_gradient(mesh, remat):
    params = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct(s.shape, jnp.float32, sharding=param_sharding(s, mesh)),
        param_specs(CONFIG),
    )
    tokens = jax.ShapeDtypeStruct(SHAPE, jnp.int32, sharding=batch_sharding(mesh, SHAPE))

    def loss(params, tokens):
        model = Transformer(CONFIG, params=params, dtype=jnp.bfloat16, remat=remat)
        return model.hidden(tokens).astype(jnp.float32).mean()

    with jax.set_mesh(mesh):
        return jax.jit(jax.grad(loss)).lower(params, tokens).compile().memory_analysis()


def test_the_inputs_of_all_layers_move_from_a_tpu_to_its_host():
    pytest.importorskip("libtpu", reason="the TPU compiler: pip install -e '.[tpu]'")
    mesh = make_mesh(fsdp=4, devices=open_topology("v5e:2x2")[0])
    kept, offloaded = (compiled_gradient(mesh, remat) for remat in ("attention", "offload"))
    inputs = CONFIG.num_layers * SHAPE[0] // 4 * SHAPE[1] * CONFIG.hidden_size * 2
    assert kept.host_temp_size_in_bytes == 0
    assert offloaded.host_temp_size_in_bytes >= inputs
    # All but those of the layers at work: 51 of 67 MB.
    assert kept.temp_size_in_bytes - offloaded.temp_size_in_bytes >= inputs / 2
