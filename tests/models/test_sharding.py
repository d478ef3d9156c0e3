"""The mesh, its rules, and a model split over eight (simulated) devices."""

import itertools
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, PartitionSpec

from dsmath_jax.models import preset
from dsmath_jax.models.parameters import flat_specs, param_specs
from dsmath_jax.models.sharding import (
    MESH_AXES,
    RULES,
    batch_sharding,
    constrain,
    make_mesh,
    param_shardings,
    partition_spec,
)

MESHES = {  # sizes, and what is compared
    "data8": ({"data": 8, "fsdp": 1}, ["logits"]),
    "fsdp8": ({"fsdp": 8}, ["logits"]),
    "fsdp4_tensor2": ({"fsdp": 4, "tensor": 2}, ["logits", "gradient"]),
    "data2_tensor2_sequence2": (
        {"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2},
        ["logits"],
    ),
}

# Logits and gradient against those of one device; prints the differences.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from dsmath_jax.models import ModelConfig, Transformer, init_params
from dsmath_jax.models.sharding import batch_sharding, make_mesh, param_shardings

assert len(jax.devices()) == 8
config = ModelConfig(64, 32, 64, 2, 4, 2, 8, qkv_bias=True, init_std=0.2)
params = jax.jit(lambda: init_params(config, 0))()
random = np.random.RandomState(0)
tokens = random.randint(0, 64, (8, 16)).astype(np.int32)
segments = np.where(np.arange(16) < random.randint(4, 13, (8, 1)), 1, 2).astype(np.int32)

def logits(params, tokens, segments):
    return Transformer(config, params=params)(tokens, segment_ids=segments)

def gradient(params, tokens, segments):
    def loss(params):
        return jax.nn.log_softmax(logits(params, tokens, segments))[..., 0].mean()
    return jax.grad(loss)(params)

steps = {f.__name__: jax.jit(f) for f in (logits, gradient)}
expected = {name: f(params, tokens, segments) for name, f in steps.items()}
report = {}
for name, (sizes, compared) in json.loads(sys.argv[1]).items():
    mesh = make_mesh(**sizes)
    placed = jax.device_put(params, param_shardings(config, mesh))
    batch = [jax.device_put(x, batch_sharding(mesh, x.shape)) for x in (tokens, segments)]
    with jax.set_mesh(mesh):
        got = {c: steps[c](placed, *batch) for c in compared}
    wanted = {c: expected[c] for c in compared}
    difference = lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max()
    differences = jax.tree.leaves(jax.tree.map(difference, got, wanted))
    wq = placed["layers"]["wq"]
    report[name] = {
        "difference": float(max(differences)),
        "wq": [wq.shape, wq.addressable_shards[0].data.shape],
        "tokens": [tokens.shape, batch[0].addressable_shards[0].data.shape],
    }
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def on_eight_devices(run_on):
    return run_on(8, PROGRAM, json.dumps(MESHES))


@pytest.mark.parametrize("name", MESHES)
def test_eight_devices_give_the_logits_and_gradient_of_one(on_eight_devices, name):
    assert on_eight_devices[name]["difference"] < 2e-5


@pytest.mark.parametrize(
    "name, wq, tokens",
    [
        ("data8", [2, 32, 32], [1, 16]),
        ("fsdp8", [2, 4, 32], [1, 16]),
        ("fsdp4_tensor2", [2, 8, 16], [2, 16]),
        ("data2_tensor2_sequence2", [2, 32, 16], [4, 8]),
    ],
)
def test_each_device_holds_its_part_alone(on_eight_devices, name, wq, tokens):
    assert on_eight_devices[name]["wq"] == [[2, 32, 32], wq]
    assert on_eight_devices[name]["tokens"] == [[8, 16], tokens]


def fake_mesh(**sizes) -> jax.sharding.AbstractMesh:
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    return jax.sharding.AbstractMesh(shape, MESH_AXES, axis_types=(AxisType.Auto,) * 4)


def test_dimensions_that_do_not_divide_stay_whole():
    mesh = fake_mesh(fsdp=4, tensor=2)
    assert partition_spec(("embed", "heads"), (32, 6), mesh) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("embed", "heads"), (30, 6), mesh) == PartitionSpec(None, "tensor")
    assert partition_spec(("embed", "heads"), (30, 7), mesh) == PartitionSpec()


def test_specs_end_at_the_last_split_dimension_as_those_of_compiled_functions_do():
    mesh = fake_mesh(fsdp=4)
    assert partition_spec(("batch", "length"), (8, 3), mesh) == PartitionSpec(("data", "fsdp"))
    shape, axes = (2, 8, 6), ("layers", "embed", "heads")
    assert partition_spec(axes, shape, mesh) == PartitionSpec(None, "fsdp")


def test_every_axis_has_a_rule_and_every_rule_a_mesh_axis():
    axes = {axis for spec in flat_specs(preset("tiny")).values() for axis in spec.axes}
    assert axes <= RULES.keys()
    for rule in RULES.values():
        assert rule is None or {rule} <= set(MESH_AXES) or set(rule) <= set(MESH_AXES)


def test_7b_is_split_over_64_chips_but_for_its_norms():
    mesh = fake_mesh(fsdp=32, tensor=2)
    for name, spec in flat_specs(preset("deepseek_7b")).items():
        parts = partition_spec(spec.axes, spec.shape, mesh)
        if "norm" not in name:
            named = [p if isinstance(p, tuple) else (p,) for p in parts if p]
            assert sorted(itertools.chain(*named)) == ["fsdp", "tensor"], name


def test_a_dimension_is_split_as_far_as_it_divides():
    mesh = fake_mesh(fsdp=32, tensor=2)
    assert partition_spec(("mlp_in",), (128,), mesh) == PartitionSpec(("tensor", "fsdp"))
    assert partition_spec(("mlp_in",), (96,), mesh) == PartitionSpec("tensor")
    assert partition_spec(("mlp_in",), (97,), mesh) == PartitionSpec()


def test_shardings_have_the_structure_of_the_parameters():
    mesh = make_mesh(devices=jax.devices()[:1])
    config = preset("tiny")
    structure = jax.tree.structure(param_specs(config))
    assert jax.tree.structure(param_shardings(config, mesh)) == structure
    assert batch_sharding(mesh, (4, 8)).spec == PartitionSpec()
    assert batch_sharding(mesh, (4,)).spec == PartitionSpec()


def test_make_mesh_fills_in_the_rest():
    mesh = make_mesh(data=-1, fsdp=1, devices=jax.devices()[:1])
    assert isinstance(mesh, Mesh) and mesh.axis_names == MESH_AXES and mesh.size == 1


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": 2, "fsdp": 2}, "data=2, fsdp=2, tensor=1, sequence=1 needs 4 devices.* 1"),
        ({"tensor": 2}, "tensor=2.*needs 2 devices; there are 1"),
        ({"data": -1, "fsdp": -1}, "only one may be -1"),
        ({"data": 0}, "data=0"),
        ({"data": -2, "fsdp": 1}, "data=-2"),
    ],
)
def test_make_mesh_refuses_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**sizes, devices=jax.devices()[:1])


def test_constrain_does_nothing_without_a_mesh():
    x = np.ones((2, 3))
    assert constrain(x, "batch", "length") is x
