"""What attention's compiled programs hold at 4096 tokens: never scores of [4096, 4096]."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding

from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.models import ModelConfig, Transformer, init_params
from dsmath_jax.models.attention import causal_attention
from dsmath_jax.models.sharding import make_mesh, partition_spec

LENGTH = 4096


def gradient(q, k, v, segments, d_out):
    return jax.vjp(lambda *x: causal_attention(*x, segments), q, k, v)[1](d_out)


def inputs(dtype, heads, kv_heads, head_dim, mesh=None):
    def spec(*shape, dtype=dtype):
        axes = ("batch", "length", "heads", "hidden")[: len(shape)]
        sharding = mesh and NamedSharding(mesh, partition_spec(axes, shape, mesh))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    q = spec(1, LENGTH, heads, head_dim)
    k = spec(1, LENGTH, kv_heads, head_dim)
    return q, k, k, spec(1, LENGTH, dtype=jnp.int32), q


def shapes_in(compiled):
    """Of all arrays in a compiled program, as lists of numbers in text."""
    found = re.findall(r"[a-z]+\d*\[([\d,]+)\]", compiled.as_text())
    assert found
    return [shape.split(",") for shape in found]


def test_chunked_gradient_takes_an_eighth_of_the_scores():
    heads = 4
    compiled = jax.jit(gradient).lower(*inputs(jnp.float32, heads, 2, 64)).compile()
    scores = heads * LENGTH * LENGTH * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 8
    assert not any(shape.count(str(LENGTH)) > 1 for shape in shapes_in(compiled))


def test_gradient_of_a_layer_takes_less_than_the_scores():
    config = ModelConfig(64, 256, 688, 1, 4, 4, 64)
    params = jax.eval_shape(lambda: init_params(config, 0))
    tokens = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)

    def loss(params, tokens, segments):
        return Transformer(config, params=params).hidden(tokens, segment_ids=segments).sum()

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, tokens, tokens).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * 4 * LENGTH * LENGTH * 4
    assert not any(shape.count(str(LENGTH)) > 1 for shape in shapes_in(compiled))


@functools.cache
def chips(name: str):
    pytest.importorskip("libtpu", reason="the TPU compiler: pip install -e '.[tpu]'")
    return open_topology(name)[0]


def compile_for_tpu(name, heads, kv_heads, head_dim, dtype=jnp.bfloat16, step=None, **sizes):
    mesh = make_mesh(**{"fsdp": 1} | sizes, devices=chips(name)[: max(sizes.values(), default=1)])
    arguments = inputs(dtype, heads, kv_heads, head_dim, mesh)
    with jax.set_mesh(mesh):
        return jax.jit(step or gradient).lower(*arguments).compile()


@pytest.mark.parametrize("sequence", [1, 4])
def test_splash_on_tpu_has_no_array_of_length_by_length(sequence):
    heads = 4
    compiled = compile_for_tpu("v5p:2x2x1", heads, 2, 128, sequence=sequence)
    text = compiled.as_text()
    assert {"splash_mha_fwd_segmented_residuals", "splash_mha_dkv_segmented_no_residuals"} <= set(
        re.findall(r"splash_mha_\w+", text)
    )
    shapes = shapes_in(compiled)
    part = LENGTH // sequence
    assert ["1", str(heads), str(part), "128"] in shapes
    scores = sorted([str(part), str(LENGTH)])
    assert not any(sorted(shape[-2:]) == scores or shape.count(str(LENGTH)) > 1 for shape in shapes)
    # Forward and backward kernels keep k, v and their gradients whole, which the scores dwarf.
    assert compiled.memory_analysis().temp_size_in_bytes < heads * LENGTH * part * 4 / 2

    def count(op):
        return len(re.findall(rf" {op}(?:-start)?\(", text))

    # k, v and segments are gathered once; gradients of k and v are scattered back.
    split = sequence > 1
    assert (count("all-gather"), count("reduce-scatter")) == ((3, 2) if split else (0, 0))
    assert count("all-reduce") == count("all-to-all") == 0


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiler")
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1"])
@pytest.mark.parametrize(
    "head_dim, dtype", [(64, jnp.bfloat16), (128, jnp.bfloat16), (128, jnp.float32)]
)
def test_splash_compiles_within_every_chip_s_memory(name, head_dim, dtype):
    assert "splash_mha" in compile_for_tpu(name, 2, 2, head_dim, dtype).as_text()

    def shared(q, k, v, segments, d_out):
        def attend(q, k, v):
            return causal_attention(q, k, v, segments, prefix_ids=segments // 2)

        return jax.vjp(attend, q, k, v)[1](d_out)

    assert "splash_mha" in compile_for_tpu(name, 2, 2, head_dim, dtype, shared).as_text()
