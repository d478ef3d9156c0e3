"""Predicted time of a compiled program: the longest of computing, memory and interconnect.

Stated assumptions: matrix units run at their peak, HBM and links at their makers' figures, the
three overlap perfectly, and nothing else takes time. So times are lower bounds and MFU is an upper
bound; what they are good for is to compare layouts and to see what bounds a program.

A collective over mesh axes that span some dimensions of the torus uses all links of those
dimensions, in both directions where the dimension wraps around (16 chips on v5e and v6e; a multiple
of 4 on v5p and TPU7x), in one where it does not. An all-to-all's parts travel a quarter of the
longest dimension on average. A TPU7x chip's two devices have half of its links each, and between
them a connection of six links' speed (Google: "How to Scale Your Model" and TPU documentation).
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from dsmath_jax.compilation.collectives import Collective
from dsmath_jax.training.hardware import Chip


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of one run on one chip, each as if alone."""

    compute: float
    memory: float
    interconnect: float

    @property
    def predicted(self) -> float:
        return max(self.compute, self.memory, self.interconnect)

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


NOTHING = Times(0.0, 0.0, 0.0)


def times(
    flops: float, hbm: float, collectives: list[Collective], mesh: jax.sharding.Mesh, chip: Chip
) -> Times:
    links = Links(mesh, chip)
    return Times(
        compute=flops / chip.flops,
        memory=hbm / chip.bandwidth,
        interconnect=sum(links.seconds(c) for c in collectives),
    )


class Links:
    """The torus behind a mesh."""

    def __init__(self, mesh: jax.sharding.Mesh, chip: Chip):
        self.chip, self.names = chip, list(mesh.shape)
        self.coords = np.array([[*d.coords, d.core_on_chip] for d in mesh.devices.flat])
        self.coords = self.coords.reshape(*mesh.devices.shape, -1)
        self.sizes = self.coords.reshape(-1, self.coords.shape[-1]).max(axis=0) + 1
        if chip.links == 4:
            self.wraps = [size % 16 == 0 for size in self.sizes]
        else:  # cubes of 4x4x4 are joined to rings, smaller slices are not
            self.wraps = [all(size % 4 == 0 for size in self.sizes[:3])] * 3

    def spanned(self, axes: tuple[str, ...]) -> list[int]:
        """Chips along each dimension of the torus that a group over these mesh axes spans; the last
        is for the devices of a chip."""
        index = tuple(slice(None) if n in axes else 0 for n in self.names)
        group = self.coords[index].reshape(-1, self.coords.shape[-1])
        return [len(np.unique(column)) for column in group.T]

    def bandwidth(self, axes: tuple[str, ...]) -> float:
        """Bytes/s that a chip sends in a collective over these mesh axes."""
        *dims, cores = self.spanned(axes)
        total = 0.0
        for spanned, size, wraps in zip(dims, self.sizes, self.wraps, strict=False):
            if spanned > 1:
                total += self.chip.link * (2 if wraps and spanned == size else 1)
        return total or (6 * 2 * self.chip.link if cores > 1 else self.chip.link)

    def seconds(self, c: Collective) -> float:
        if not c.axes or not c.sent:
            return 0.0
        farther = max(1.0, max(self.spanned(c.axes)[:-1]) / 4) if c.kind == "all-to-all" else 1.0
        return c.sent * farther / self.bandwidth(c.axes)
