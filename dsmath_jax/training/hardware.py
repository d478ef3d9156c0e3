"""What an accelerator chip has: the denominators of MFU and rooflines, by its makers' figures, and
the memory that a program may fill."""

from __future__ import annotations

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
    """Per JAX device (a TPU7x chip is two devices, with half of its figures each).

    flops: dense bfloat16 FLOP/s.
    memory: bytes of HBM for programs: on TPUs what libtpu's compiler grants (it refuses with "of
      15.75G hbm"), a little less than the maker's figure.
    bandwidth: bytes/s between HBM and the core.
    link: bytes/s of one interconnect link in one direction.
    links: of them, on one chip of a full torus.
    """

    name: str
    flops: float
    memory: float
    bandwidth: float
    link: float = 0.0
    links: int = 0


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 15.75 * 2**30, 819e9, 45e9, 4),
    "v5p": Chip("TPU v5p", 459e12, 95.74 * 2**30, 2765e9, 90e9, 6),
    "v6e": Chip("TPU v6e", 918e12, 31.25 * 2**30, 1640e9, 90e9, 4),
    "tpu7x": Chip("TPU7x, one of a chip's two devices", 1153.5e12, 94.75 * 2**30, 3690e9, 45e9, 6),
    "A100": Chip("NVIDIA A100 80GB SXM", 312e12, 80 * 2**30, 2039e9),
    "H100": Chip("NVIDIA H100 SXM", 989e12, 80 * 2**30, 3350e9),
    "H200": Chip("NVIDIA H200 SXM", 989e12, 140 * 2**30, 4800e9),
}

# `device_kind` as JAX gives it, in lower case, contains one of these.
KINDS = {
    "v5 lite": "v5e",
    "v5e": "v5e",
    "v5p": "v5p",
    "v5": "v5p",
    "v6 lite": "v6e",
    "v6e": "v6e",
    "7x": "tpu7x",
    "a100": "A100",
    "h100": "H100",
    "h200": "H200",
}


def chip_of(device: jax.Device) -> Chip | None:
    """The chip behind a device, or None when it is not in the table (a CPU)."""
    kind = device.device_kind.lower()
    return next((CHIPS[name] for part, name in KINDS.items() if part in kind), None)
