"""The lines below a dry run's table: prediction, unexplained transfers, advice."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ml_collections import ConfigDict

from dsmath_jax.compilation.programs import Report
from dsmath_jax.compilation.table import unasked_lines
from dsmath_jax.training.hardware import Chip

GENERATION = ("reshard", "prefill", "decode", "greedy decode")
STATE = (
    *("weights", "optimizer", "gradients", "reference"),
    *("critic", "critic's optimizer", "generation weights"),
)


def summary(
    config: ConfigDict,
    reports: list[Report],
    seconds: float,
    work: float,
    chip: Chip,
    mesh: Mapping[str, int],
    largest: int | None,
) -> list[str]:
    """Predicted step, largest batch, transfers that nobody asked for, and what to change where
    something does not fit.

    Args:
      seconds, work: of one step: the predicted time, and the model's FLOPs on all devices.
      mesh: size of each axis.
      largest: rows of the largest micro-batch on a chip; None when it was not looked for.
    """
    lines = [""]
    if all(not r.error for r in reports) and seconds:
        share = work / (seconds * math.prod(mesh.values()) * chip.flops)
        lines.append(
            f"predicted step: {seconds:.4g} s at least, MFU {share:.1%} at most (peak FLOP/s, "
            "memory and links at their makers' figures, overlapping perfectly)"
        )
    if largest is not None:
        lines.append(_largest_line(config, largest))
    named = unasked_lines(reports)
    if named:
        lines.append("transfers that the design does not explain:")
    elif not any(r.error for r in reports):
        lines.append("every transfer is one that the design explains")
    lines += named
    too_large = sorted((r for r in reports if not r.fits), key=lambda r: r.peak, reverse=True)
    if too_large:
        lines.append(_advice(config, too_large[0], mesh, largest))
    if len(too_large) > 1:
        lines.append(f"nor do {', '.join(r.name for r in too_large[1:])}")
    return lines


def _largest_line(config: ConfigDict, largest: int) -> str:
    if not largest:
        return "largest micro-batch of an update: not one row a chip fits"
    return f"largest micro-batch of an update: {largest} rows of {config.length} tokens a chip"


def _advice(
    config: ConfigDict, report: Report, mesh: Mapping[str, int], largest: int | None
) -> str:
    """Which kind of memory is the largest, and what makes it smaller."""
    everything = dict(report.memory)
    for kind, size in report.beside.items():
        everything[kind] = everything.get(kind, 0.0) + size
    state = sum(size for kind, size in everything.items() if kind in STATE)
    if largest == 0 and state > report.limit / 2:
        everything = {"weights, gradients and moments": state}
    kind = max(everything, key=lambda k: everything[k])
    size = everything[kind] / 2**30
    if report.name.removeprefix("eval ") in GENERATION:
        change = (
            f"lower config.rl.max_rows (now {config.rl.max_rows}) or config.rl.max_new_tokens "
            f"(now {config.rl.max_new_tokens})"
        )
        if kind in ("generation weights", "results"):
            change = f"raise config.rl.tensor (now {config.rl.tensor})"
    elif report.name == "held-out loss":
        change = f"lower config.eval.batch_size (now {config.eval.batch_size})"
    elif kind in ("temporary", "activations", "batch"):
        changes = [f"raise config.micro_batches (now {config.micro_batches})"]
        if config.remat != "full":
            changes.append(f'set config.remat to "full" (now "{config.remat}")')
        changes.append("take more chips, or split rows with config.mesh.sequence")
        change = ", or ".join(changes)
    else:
        change = "split it over more chips: a larger slice"
        if mesh["data"] > 1:
            now = f"(now {mesh['fsdp']}) in place of config.mesh.data (now {mesh['data']})"
            change += f", or config.mesh.fsdp {now}"
    over = (report.peak - report.limit) / 2**30
    return (
        f"{report.name} does not fit: {over:.2f} GiB too much. The largest part is {kind}, "
        f"{size:.2f} GiB: {change}"
    )
