"""Times on tori whose numbers are worked out by hand."""

import itertools
import types

import numpy as np
import pytest

from dsmath_jax.compilation.collectives import Collective
from dsmath_jax.compilation.hlo import Array
from dsmath_jax.compilation.roofline import Links, times
from dsmath_jax.training.hardware import CHIPS

AXES = ("data", "fsdp", "tensor", "sequence")


def torus(shape, sizes, cores=1):
    """A mesh over a torus' devices in row-major order."""
    places = itertools.product(*map(range, shape), range(cores))
    devices = [types.SimpleNamespace(coords=p[:-1], core_on_chip=p[-1]) for p in places]
    grid = np.empty(len(devices), object)
    grid[:] = devices
    return types.SimpleNamespace(
        shape=dict(zip(AXES, sizes, strict=True)), devices=grid.reshape(sizes)
    )


def collective(kind, sent, axes):
    return Collective("c", kind, (Array("f32", (1,)),), axes, 2, 1.0, sent, ("computed",), "", "")


@pytest.mark.parametrize(
    ("chip", "shape", "sizes", "axes", "links"),
    [
        ("v5p", (4, 4, 4), (1, 64, 1, 1), ("fsdp",), 6),  # three dimensions that wrap around
        ("v5p", (4, 4, 4), (4, 16, 1, 1), ("fsdp",), 4),
        ("v5p", (4, 4, 4), (4, 16, 1, 1), ("data",), 2),
        ("v5p", (4, 4, 4), (1, 32, 2, 1), ("tensor",), 1),  # half of a dimension: no way around
        ("v5p", (2, 2, 2), (1, 8, 1, 1), ("fsdp",), 3),
        ("v5p", (2, 2, 4), (1, 16, 1, 1), ("fsdp",), 3),  # less than a cube has no ways around
        ("v5p", (2, 4, 4), (1, 32, 1, 1), ("fsdp",), 3),
        ("v5p", (4, 4, 8), (1, 128, 1, 1), ("fsdp",), 6),
        ("v5e", (8, 8, 1), (1, 64, 1, 1), ("fsdp",), 2),  # 8 of 16 do not wrap around
        ("v5e", (16, 16, 1), (16, 16, 1, 1), ("fsdp",), 2),
        ("v5e", (16, 16, 1), (16, 16, 1, 1), ("data", "fsdp"), 4),
    ],
)
def test_bandwidth_is_that_of_the_links_that_an_axis_spans(chip, shape, sizes, axes, links):
    assert Links(torus(shape, sizes), CHIPS[chip]).bandwidth(axes) == links * CHIPS[chip].link


def test_two_devices_of_a_chip_are_close():
    chip = CHIPS["tpu7x"]
    mesh = torus((4, 4, 4), (64, 2, 1, 1), cores=2)
    assert Links(mesh, chip).bandwidth(("fsdp",)) == 12 * chip.link
    assert Links(mesh, chip).bandwidth(("data",)) == 6 * chip.link


def test_the_longest_of_three_is_predicted():
    chip, mesh = CHIPS["v5p"], torus((4, 4, 4), (4, 16, 1, 1))
    gather = collective("all-gather", 4 * 90e9 * 0.5, ("fsdp",))
    found = times(459e12, 2765e9 * 0.25, [gather], mesh, chip)
    assert (found.compute, found.memory, found.interconnect) == (1.0, 0.25, 0.5)
    assert (found.predicted, found.bound) == (1.0, "compute")
    found = times(459e11, 0.0, [gather, gather], mesh, chip)
    assert (found.predicted, found.bound) == (1.0, "interconnect")


def test_an_all_to_all_goes_a_quarter_of_the_way_around():
    chip, mesh = CHIPS["v5e"], torus((16, 16, 1), (16, 16, 1, 1))
    near = Links(mesh, chip).seconds(collective("all-gather", 1e9, ("fsdp",)))
    assert Links(mesh, chip).seconds(collective("all-to-all", 1e9, ("fsdp",))) == 4 * near
