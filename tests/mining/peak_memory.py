"""How much memory a part of a test takes at most, whatever ran before it in the same process."""

import pathlib
import re
import sys
from collections.abc import Callable

import pytest


def watch_memory() -> Callable[[], float]:
    """Gives a function that says by how many MiB memory has grown since, at its peak."""
    if not sys.platform.startswith("linux"):
        pytest.skip("peak memory is read from /proc")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _status("VmRSS")
    return lambda: _status("VmHWM") - before


def _status(name: str) -> float:
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"{name}:\s+(\d+) kB", text).group(1)) / 1024
