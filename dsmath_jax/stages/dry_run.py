"""Compiles every program of a stage with the TPU's own compiler, on a machine without one, and says
whether it fits, how long a step takes at best, and which transfers nobody asked for.

Nothing is read but the configuration and, where they exist, the tokenizer and the checkpoint's
shape: neither they nor data are needed.
"""

from __future__ import annotations

import json
import pathlib
import sys
import types
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.compilation.programs import Report, analyse
from dsmath_jax.compilation.search import largest_that_fits
from dsmath_jax.compilation.summary import summary
from dsmath_jax.compilation.table import as_json, table
from dsmath_jax.compilation.topologies import open_topology
from dsmath_jax.data.tokenizers import load_tokenizer
from dsmath_jax.stages import setup
from dsmath_jax.stages.dry_run_programs import (
    Programs,
    rl_programs,
    rl_update,
    supervised_programs,
    supervised_update,
)
from dsmath_jax.training.hardware import Chip


def dry_run(
    config: ConfigDict, topology: str, out: pathlib.Path | None = None, largest: bool = True
) -> bool:
    """Prints the table for one stage on a slice such as "v5p:4x4x4".

    Args:
      out: write the table's numbers to this JSON file as well.
      largest: look for the largest micro-batch that fits, by compiling the update again.

    Returns:
      Whether everything fits.

    Raises:
      InputError: the slice, the mesh or the configuration is not possible.
    """
    devices, chip = open_topology(topology)
    mesh = setup.mesh_of(config, devices)
    config = _without_missing_checkpoint(config)
    model_config = setup.open_model_config(config, _tokenizer(config))
    if config.tokenizer and model_config.vocab_size == config.tokenizer_vocab:
        print(f"{config.tokenizer} is not here: {model_config.vocab_size} tokens are assumed")
    stage = rl_programs if config.stage == "rl" else supervised_programs
    reports = _compile_all(stage(config, mesh, model_config), chip)
    search = _largest(config, mesh, model_config, reports, chip) if largest else None
    shape = ", ".join(f"{a}={n}" for a, n in mesh.shape.items() if n > 1)
    title = (
        f"{config.stage}, {config.model} ({model_config.num_params / 1e9:.2f}B parameters), on "
        f"{topology}: {len(devices)} x {chip.name}, mesh {shape or 'of one device'}"
    )
    seconds = sum(r.runs * r.times.predicted for r in reports)
    work = sum(r.runs * r.model_flops for r in reports)
    lines = summary(config, reports, seconds, work, chip, mesh.shape, search)
    print(table(title, reports, chip, len(devices)), *lines, sep="\n", flush=True)
    if out is not None:
        record = {
            "topology": topology,
            "devices": len(devices),
            "chip": chip.name,
            "mesh": dict(mesh.shape),
            "stage": config.stage,
            "model": config.model,
            "parameters": model_config.num_params,
            "step_seconds": seconds,
            "mfu": work / (seconds * len(devices) * chip.flops) if seconds else 0.0,
            "fits": all(r.fits for r in reports),
            "largest_rows": search,
            "programs": as_json(reports, chip, len(devices)),
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n")
    return all(r.fits for r in reports)


def _without_missing_checkpoint(config: ConfigDict) -> ConfigDict:
    config = config.copy_and_resolve_references()
    given = config.init.checkpoint
    with config.unlocked():
        config.init.stage = ConfigDict()
    if given and not pathlib.Path(given).is_dir():
        print(f"{given} is not here: the shape is that of config.model={config.model}", flush=True)
        config.init.checkpoint = ""
    return config


def _tokenizer(config: ConfigDict) -> Any:
    """The configured one where it is here, else something of the size that would be trained."""
    if config.tokenizer and pathlib.Path(config.tokenizer).exists():
        return load_tokenizer(config.tokenizer)
    return types.SimpleNamespace(vocab_size=config.tokenizer_vocab)


def _compile_all(programs: Programs, chip: Chip) -> list[Report]:
    reports: list[Report] = []
    try:
        program = next(programs)
        while True:
            report, compiled = analyse(program, chip)
            reports.append(report)
            said = f"compiled {program.name} in {report.compile_seconds:.1f} s"
            print(said if compiled else f"{program.name} does not fit", file=sys.stderr, flush=True)
            program = programs.send(compiled)
    except StopIteration:
        return reports


# ---- The largest batch --------------------------------------------------------------------------
def _rows_per_chip(config: ConfigDict, mesh) -> int:
    ways = config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"]
    if config.stage == "rl":  # whose parts have a row at least
        return max(1, config.rl.questions * config.rl.group // ways)
    return config.batch_size // ways


def _largest(config, mesh, model_config, reports, chip) -> int | None:
    """Rows of a micro-batch on each chip, the most that fit in an update."""
    first = next((r for r in reports if r.name == "update"), None)
    start = _rows_per_chip(config, mesh)
    if first is None or start < 1:
        return None

    def needs(rows: int) -> float:
        if rows == start:
            return first.peak
        changed = config.copy_and_resolve_references()
        rows *= config.micro_batches * mesh.shape["data"] * mesh.shape["fsdp"]
        if config.stage == "rl":
            changed.rl.questions, changed.rl.group = rows, 1
            program = rl_update(changed, mesh, model_config)
        else:
            changed.batch_size = rows
            program = supervised_update(changed, mesh, model_config)
        report = analyse(program, chip)[0]
        return max(report.peak, report.limit + 1) if report.error else report.peak

    return largest_that_fits(needs, first.limit, start)
