"""Layouts in which each host has all parts of the weights."""

import types

import numpy as np
import pytest

from dsmath_jax.rollout import local


def mesh_of(processes, kind="TPU v5p"):
    """Stands in for a mesh of devices of a kind, whose processes are these."""
    devices = np.array(
        [
            types.SimpleNamespace(process_index=p, number=i, device_kind=kind)
            for i, p in enumerate(processes)
        ]
    )
    return types.SimpleNamespace(devices=devices, size=len(devices))


ORDERS = {  # of TPU slices' devices as a mesh orders them along their links
    "one host": [0] * 4,
    "in turn": [0, 1, 0, 1, 0, 1, 0, 1],
    "in pairs": [0, 0, 2, 2, 0, 0, 2, 2, 1, 1, 3, 3, 1, 1, 3, 3],
    "in a ring": [0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0],
}


@pytest.mark.parametrize("processes", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_each_host_has_each_part_equally_often(processes, tensor, monkeypatch):
    monkeypatch.setattr(local, "Mesh", lambda devices, *_, **__: mesh_like(devices))
    grid, axes = local._within_hosts(mesh_of(processes), tensor)
    parts = local._parts(grid.devices.shape, axes)
    assert [d.number for d in grid.devices.flat] == list(range(len(processes)))
    for host in set(processes):
        of_host = parts[np.array(processes) == host]
        assert np.bincount(of_host, minlength=tensor).tolist() == [len(of_host) // tensor] * tensor
        here = local.local_mesh(mesh_of(processes), tensor, host).devices
        assert here.shape == (len(of_host) // tensor, 1, tensor, 1)
        assert {d.process_index for d in here.flat} == {host}
        numbers = np.array([d.number for d in here.flat]).reshape(-1, tensor)
        assert (parts[numbers] == np.arange(tensor)).all()


@pytest.mark.parametrize(
    ("kind", "hosts"), [("TPU v5p", 1), ("TPU v5 lite", 4), ("TPU v6 lite", 4), ("cpu", 1)]
)
def test_hosts_of_some_chips_generate_on_a_mesh_of_all(kind, hosts, monkeypatch):
    monkeypatch.setattr(local, "Mesh", lambda devices, *_, **__: mesh_like(devices))
    mesh = mesh_of(ORDERS["in pairs"], kind)
    found = local.generation_mesh(mesh, 2, 1).devices
    assert found.shape == (2 * hosts, 1, 2, 1)
    here = [local.local_mesh(mesh, 2, h).devices for h in (range(4) if hosts > 1 else [1])]
    assert [d.number for d in found.flat] == [d.number for of in here for d in of.flat]
    alone = local.generation_mesh(mesh_of(ORDERS["one host"], kind), 2, 0)
    assert alone.devices.shape == (2, 1, 2, 1)


def mesh_like(devices):
    return types.SimpleNamespace(devices=devices)


def test_more_parts_than_a_host_has_devices_are_refused():
    with pytest.raises(ValueError, match="tensor=8 does not split each host's 4 devices"):
        local.local_mesh(mesh_of(ORDERS["in pairs"]), 8, 0)


def test_primes():
    assert [local._primes(n) for n in (1, 2, 12, 64)] == [(), (2,), (2, 2, 3), (2,) * 6]
