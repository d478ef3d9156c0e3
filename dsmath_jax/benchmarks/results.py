"""What a benchmark leaves: a table to read, and JSON that says where its numbers come from."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.training.provenance import provenance


def write(path: pathlib.Path, name: str, numbers: dict[str, Any], config: ConfigDict) -> None:
    """One JSON object: name, numbers, time, command, commit, versions, machine, config."""
    content = {"name": name, "numbers": numbers} | provenance() | {"config": config.to_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_text(json.dumps(content, indent=2) + "\n")
    beside.replace(path)


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
