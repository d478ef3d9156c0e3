"""Attention split over eight (simulated) devices: rows, heads and queries."""

import json

import pytest

MESHES = {  # mesh sizes, kv_heads of 4 heads, length, backend
    "rows": ({"data": 2, "fsdp": 4}, 2, 40, "chunked"),
    "heads_and_queries": ({"fsdp": 1, "tensor": 2, "sequence": 4}, 2, 40, "chunked"),
    "all_four": ({"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2}, 4, 40, "chunked"),
    "more_parts_than_kv_heads": ({"fsdp": 2, "tensor": 4}, 2, 40, "chunked"),
    "queries_that_do_not_divide": ({"fsdp": 1, "sequence": 8}, 1, 37, "chunked"),
    "splash_all_four": ({"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2}, 4, 256, "splash"),
    "splash_queries": ({"fsdp": 2, "tensor": 1, "sequence": 4}, 2, 300, "splash"),
    "prefixes": ({"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2}, 2, 40, "chunked"),
    "splash_prefixes": ({"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2}, 2, 300, "splash"),
}

# Value and gradients against a dense float64 version: the largest difference, relative to the
# largest entry. And the bytes that a device needs for a long row, of which it takes an n-th part of
# the queries.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from dsmath_jax.models.attention import causal_attention
from dsmath_jax.models.sharding import make_mesh, partition_spec
from tests.models.test_attention import prefixed_rows, reference

def step(q, k, v, segments, d_out, prefixes, backend):
    def attend(q, k, v):
        return causal_attention(q, k, v, segments, backend, True, prefixes)
    out, pull = jax.vjp(attend, q, k, v)
    return out, *pull(d_out)

step = jax.jit(step, static_argnums=6)
random = np.random.RandomState(0)
report = {}
for name, (sizes, kv_heads, length, backend) in json.loads(sys.argv[1]).items():
    def draw(heads):
        return random.normal(size=(4, length, heads, 8)).astype(np.float32)
    q, k, v, d_out = draw(4), draw(kv_heads), draw(kv_heads), draw(4)
    segments = np.sort(random.randint(1, 4, (4, length)), axis=1).astype(np.int32)
    segments[0, length - 5:] = 0
    prefixes = None
    if "prefixes" in name:
        segments, prefixes = prefixed_rows(random, 4, length)
    expected = reference(q, k, v, segments, d_out, prefixes)
    mesh = make_mesh(**sizes)
    axes = ("batch", "length", "heads", "hidden")
    placed = [
        x if x is None
        else jax.device_put(x, NamedSharding(mesh, partition_spec(axes[: x.ndim], x.shape, mesh)))
        for x in (q, k, v, segments, d_out, prefixes)
    ]
    with jax.set_mesh(mesh):
        got = step(*placed, backend)
    report[name] = max(
        float(np.abs(np.asarray(a) - b).max() / np.abs(b).max())
        for a, b in zip(got, expected, strict=True)
    )

def bytes_of_a_device(sequence):
    mesh = make_mesh(fsdp=1, sequence=sequence, devices=jax.devices()[:sequence])
    axes = ("batch", "length", "heads", "hidden")
    def spec(*shape, dtype=np.float32):
        sharding = NamedSharding(mesh, partition_spec(axes[: len(shape)], shape, mesh))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    q = spec(1, 4096, 8, 16)
    k = spec(1, 4096, 2, 16)
    with jax.set_mesh(mesh):
        lowered = step.lower(q, k, k, spec(1, 4096, dtype=np.int32), q, None, "chunked")
    m = lowered.compile().memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes

report["bytes"] = {n: bytes_of_a_device(n) for n in (1, 2, 8)}
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def on_eight_devices(run_on):
    return run_on(8, PROGRAM, json.dumps(MESHES))


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_give_the_dense_value_and_gradients(on_eight_devices, name):
    assert on_eight_devices[name] < 1e-5


def test_a_device_needs_less_the_more_split_the_queries(on_eight_devices):
    one, two, eight = (on_eight_devices["bytes"][n] for n in "128")
    assert two < 0.7 * one and eight < 0.4 * one
    assert one < 8 * 4096 * 4096 * 4 / 8  # the scores of all heads, of which it holds blocks
