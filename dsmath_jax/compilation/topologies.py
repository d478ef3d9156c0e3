"""TPU slices that are not there: their devices, for compiling with the TPU's own compiler.

Needs libtpu (`pip install -e '.[tpu]'`), which compiles on any Linux machine.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator

import jax

from dsmath_jax.data.errors import InputError
from dsmath_jax.training.hardware import CHIPS, Chip

NAMES = ("v5e", "v5p", "v6e", "tpu7x")
EXAMPLES = "v5e:4x4, v5e:16x16, v5p:2x2x2, v5p:4x4x4, v5p:16x16x16, v6e:8x8, tpu7x:2x2x1"
# Read by libtpu when it is loaded: ask no cloud about this machine, and share it with other
# processes (it would lock a device that is not there).
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def open_topology(name: str) -> tuple[list[jax.Device], Chip]:
    """The devices of a slice such as "v5p:4x4x4" (chip:x x y x z, in chips), and what each has.

    Raises:
      InputError: there is no such slice, or libtpu is not installed.
    """
    match = re.fullmatch(rf"({'|'.join(NAMES)}):(\d+(?:x\d+){{1,2}})", name)
    if match is None:
        raise InputError(
            f"--dry_run={name}: write CHIP:SHAPE with one of {', '.join(NAMES)} and its chips "
            f"along each dimension, as in {EXAMPLES}"
        )
    sizes = [int(n) for n in match[2].split("x")]
    if not _exists(match[1], sizes):  # on some of these libtpu ends the process
        raise InputError(f"--dry_run={name}: there is no such slice; possible are {EXAMPLES}")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("--dry_run compiles with libtpu: pip install -e '.[tpu]'")
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    host = tuple(2 if n < 2 and size % 2 == 0 else 1 for n, size in enumerate([*sizes, 1][:3]))
    try:
        with captured_stderr():
            devices = topologies.get_topology_desc(
                topology_name=name,
                platform="tpu",
                chip_config_name="default",
                chips_per_host_bounds=host,
                num_slices=1,
            ).devices
    except Exception as e:  # jaxlib's own error types differ between versions
        first = str(e).splitlines()[0]
        raise InputError(
            f"--dry_run={name}: libtpu knows no such slice ({first}); possible are {EXAMPLES}"
        ) from None
    return list(devices), CHIPS[match[1]]


def _exists(chip: str, sizes: list[int]) -> bool:
    """v5e and v6e: rectangles to 16x16. v5p and TPU7x: three dimensions, of 1, 2 or whole cubes of
    4, to 16x16x24."""
    if chip in ("v5e", "v6e"):
        return (
            len(sizes) == 2
            and sizes == sorted(sizes)
            and all(n in (1, 2, 4, 8, 16) for n in sizes)
            and sizes[1] <= 2 * sizes[0]
        )
    possible = len(sizes) == 3 and all(n in (1, 2) or (n and n % 4 == 0) for n in sizes)
    return possible and all(n <= most for n, most in zip(sorted(sizes), (16, 16, 24), strict=True))


@contextlib.contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Keeps what libraries write to the standard error's file descriptor: a list that holds the
    text once the block is left."""
    said: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
