"""What a step used: tokens/s and model FLOP/s of a chip, share of time spent on data, memory."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import resource
import sys

import jax

from dsmath_jax.training.hardware import Chip, chip_of

FLOPS = "flops/"  # a step's metrics hold FLOPs of the model under this and the name of a phase


def speed(values: dict[str, float], devices: int, chip: Chip | None) -> dict[str, float]:
    """Rates of a step, from its counts and its seconds.

    Args:
      values: of the step: `tokens`, `flops/PHASE` over all devices, and `time/PHASE`; the phase
        "step" is the whole.
      devices: how many took part.
      chip: what they are, if known.

    Returns:
      tokens_per_s, tokens_per_s_per_chip; for each phase with FLOPs tflops (10^12 model FLOP/s of
      a chip) and, if its peak is known, mfu: under these names for the whole step, and
      tflops_PHASE, mfu_PHASE for its parts.
    """
    rates = {}
    step = values["time/step"]
    if "tokens" in values:
        rates["tokens_per_s"] = values["tokens"] / step
        rates["tokens_per_s_per_chip"] = values["tokens"] / step / devices
    for name in [k for k in values if k.startswith(FLOPS)]:
        phase = name.removeprefix(FLOPS)
        end = "" if phase == "step" else f"_{phase}"
        achieved = values[name] / values[f"time/{phase}"] / devices
        rates[f"tflops{end}"] = achieved / 1e12
        if chip is not None:
            rates[f"mfu{end}"] = achieved / chip.flops
    return rates


def mesh_chip() -> tuple[int, Chip | None]:
    """(number of devices of all processes, the chip they are, if it is in the table)."""
    return jax.device_count(), chip_of(jax.devices()[0])


def memory() -> dict[str, float]:
    """memory/host: GB (10^9 bytes) resident, of this process and those it started with
    multiprocessing (pages that they share count for each). memory/device: GB that the fullest of
    its devices ever held; absent where the backend does not say (CPU)."""
    held = {"memory/host": _resident() / 1e9}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
    return held | ({"memory/device": max(peaks) / 1e9} if peaks else {})


def _resident() -> int:
    """Bytes. Without /proc (macOS), the most this process has held, its children left out."""
    if not pathlib.Path("/proc/self/statm").exists():
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    pages = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            pages += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        except OSError:  # it has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")
