"""What a benchmark leaves: a table to read, and JSON that says where its numbers come from."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from typing import Any

from ml_collections import ConfigDict

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "grain", "numpy", "torch", "transformers")


def write(path: pathlib.Path, name: str, numbers: dict[str, Any], config: ConfigDict) -> None:
    """One JSON object: name, numbers, command, commit, versions, machine, config, time."""
    content = {
        "name": name,
        "numbers": numbers,
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "versions": versions(),
        "machine": machine(),
        "config": config.to_dict(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


def commit() -> str:
    """The commit of the code, with "+changes" where files differ from it; "" without git."""
    folder = pathlib.Path(__file__).parent
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes"]
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """Of Python and the packages that matter, those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Accelerators, processor, cores and memory (bytes), and how busy it was when measured."""
    import jax

    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "processes": jax.process_count(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_average": list(os.getloadavg()),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "LIBTPU_INIT_ARGS": os.environ.get("LIBTPU_INIT_ARGS", ""),
    }


def _cpu_name() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(numbers: dict[str, Any]) -> str:
    """Aligned lines "name value", a group's name above its members; large numbers with their
    separators, small ones with four digits."""
    width = max(len(name) for name in _names(numbers))
    lines = []

    def add(entries: dict[str, Any], indent: int) -> None:
        for name, value in entries.items():
            if isinstance(value, dict):
                lines.append(" " * indent + name)
                add(value, indent + 2)
            else:
                lines.append(f"{' ' * indent + name:<{width + 4}}{_readable(value):>18}")

    add(numbers, 0)
    return "\n".join(lines)


def _names(numbers: dict[str, Any]) -> list[str]:
    inner = [n for v in numbers.values() if isinstance(v, dict) for n in _names(v)]
    return [*numbers, *inner]


def _readable(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
