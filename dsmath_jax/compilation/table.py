"""The dry run's table, as text and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from dsmath_jax.compilation.collectives import KINDS as COLLECTIVES
from dsmath_jax.compilation.design import Unasked
from dsmath_jax.compilation.programs import Report
from dsmath_jax.training.hardware import Chip

GIB = 2**30
NAMED = 8  # unasked collectives printed for each program; the JSON has all
ORDER = (
    *("weights", "generation weights", "optimizer", "reference", "critic", "critic's optimizer"),
    *("batch", "samples", "KV cache", "gradients", "activations", "temporary", "results"),
    *("other arguments", "code and padding"),
)


def table(title: str, reports: list[Report], chip: Chip, devices: int) -> str:
    """The programs side by side, each figure per chip (JAX device) and for one run."""
    rows: list[tuple[str, list[str]]] = []

    def row(name, values):
        cells = [v if isinstance(v, str) else "" if v is None else number(v) for v in values]
        rows.append((name, cells))

    def section(name):
        rows.append((name, []))

    kinds = {kind for r in reports for kind in (*r.memory, *r.beside)}
    known = [kind for kind in ORDER if kind in kinds] + sorted(kinds - set(ORDER))
    section("HBM, GiB")
    for kind in known:
        cells = []
        for r in reports:
            own, other = r.memory.get(kind), r.beside.get(kind)
            text = number(((own or 0) + (other or 0)) / GIB)
            cells.append("" if own is None and other is None else f"{text}*" if other else text)
        rows.append((f"  {kind}", cells))
    row("  together", [r.peak / GIB for r in reports])
    row("  of", [r.limit / GIB for r in reports])
    row("  fits", ["yes" if r.fits else "NO" for r in reports])
    ran = [None if r.error else r for r in reports]
    section("work, one run")
    row("  TFLOP (executed)", [r and r.flops / 1e12 for r in ran])
    row("  HBM read and written, GB", [r and r.hbm / 1e9 for r in ran])
    section("interconnect, GB sent")
    for kind in COLLECTIVES:
        if any(r and kind in r.sent for r in ran):
            row(f"  {kind}", [r and r.sent.get(kind, 0.0) / 1e9 for r in ran])
    section("seconds, one run")
    row("  compute", [r and r.times.compute for r in ran])
    row("  memory", [r and r.times.memory for r in ran])
    row("  interconnect", [r and r.times.interconnect for r in ran])
    row("  predicted (the longest)", [r and r.times.predicted for r in ran])
    row("  MFU", [r and f"{mfu(r, chip, devices):.1%}" for r in ran])
    row("runs a step", [r.runs for r in reports])
    row("compiled in, s", [r.compile_seconds for r in reports])
    width = max(len(name) for name, _ in rows) + 2
    columns = [
        max(len(r.name), *(len(cells[n]) for _, cells in rows if cells)) + 2
        for n, r in enumerate(reports)
    ]
    lines = [title, ""]
    head = "".join(f"{r.name:>{w}}" for r, w in zip(reports, columns, strict=True))
    lines.append(" " * width + head)
    for name, cells in rows:
        lines.append(
            f"{name:<{width}}" + "".join(f"{c:>{w}}" for c, w in zip(cells, columns, strict=False))
        )
    if any(r.beside for r in reports):
        lines.append("* stays in memory while the program runs, without being its argument")
    return "\n".join(line.rstrip() for line in lines)


def number(x: float) -> str:
    """Three digits that say something: 1234, 12.3, 0.00123."""
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def mfu(report: Report, chip: Chip, devices: int) -> float:
    seconds = report.times.predicted
    return report.model_flops / (seconds * devices * chip.flops) if seconds else 0.0


def unasked_lines(reports: list[Report]) -> list[str]:
    """What the design does not explain, by program."""
    lines = []
    for r in reports:
        for u in r.unasked[:NAMED]:
            lines.append(f"  {r.name}: {describe(u)}")
        if len(r.unasked) > NAMED:
            rest = sum(u.collective.sent for u in r.unasked[NAMED:]) / 1e9
            lines.append(f"  {r.name}: {len(r.unasked) - NAMED} more, {number(rest)} GB")
        lines += [f"  {r.name}: {w}" for w in r.warnings]
    return lines


def describe(u: Unasked) -> str:
    c = u.collective
    arrays = ", ".join(map(str, c.arrays[:3])) + (", ..." if len(c.arrays) > 3 else "")
    whose = ", ".join(list(dict.fromkeys(c.data))[:3])
    return (
        f"{u.reason}: {c.kind} of {arrays} ({whose}), {c.times:g} times, "
        f"{number(c.sent / 1e9)} GB, {c.where}"
    )


def as_json(reports: list[Report], chip: Chip, devices: int) -> list[dict[str, Any]]:
    result = []
    for r in reports:
        record = dataclasses.asdict(r)
        record["unasked"] = [
            {"text": describe(u), "bytes": u.collective.sent} for u in r.unasked
        ]  # fmt: skip
        record |= {"peak": r.peak, "fits": r.fits, "mfu": mfu(r, chip, devices)}
        record["predicted_seconds"] = r.times.predicted
        record["bound"] = r.times.bound
        result.append(record)
    return result
