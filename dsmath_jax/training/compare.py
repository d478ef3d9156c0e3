"""Runs side by side: their numbers in aligned columns, what differs in their configurations, and
their curves over each other."""

from __future__ import annotations

import argparse
import html
import json
import pathlib
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dsmath_jax.data.errors import InputError
from dsmath_jax.training.metrics import duration, read_metrics
from dsmath_jax.training.report import Line, draw, shown_names

AVERAGED = 10  # lines that "last" and "best" of a noisy number are means of
LONGEST, SHORTEST = 36, 14  # characters of a cell, and what it is cut to so that runs fit beside


class Run(NamedTuple):
    """A run's directory, read: its configuration by dotted name, and the lines of metrics.jsonl."""

    name: str
    config: dict[str, Any]
    rows: list[dict[str, float]]


def main(description: str) -> None:
    """The command line of launch/report.py."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory")
    parser.add_argument("--html", metavar="FILE", help="also write a page with curves")
    arguments = parser.parse_args()
    try:
        runs = read_runs(arguments.runs)
        text = table(runs, shutil.get_terminal_size().columns)
        print(text)
        if arguments.html:
            write_page(runs, pathlib.Path(arguments.html))
    except InputError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)


def read_runs(paths: Sequence[str]) -> list[Run]:
    """Reads each directory; runs are named by the last part of their paths if those all differ.

    Raises:
      InputError: one is not a run's directory, or a file in it cannot be read.
    """
    short = [pathlib.Path(p).absolute().name for p in paths]
    names = short if len(set(short)) == len(short) else list(paths)
    return [_read(pathlib.Path(p), name) for p, name in zip(paths, names, strict=True)]


def _read(path: pathlib.Path, name: str) -> Run:
    if not (path / "config.json").is_file():
        raise InputError(f"{path} is not a run's directory: it has no config.json")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        rows = read_metrics(path)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read: {e}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}/config.json is not a configuration")
    rows = [row for row in rows if isinstance(row, dict) and "step" in row]
    return Run(name, dict(_flat(config)), rows)


def _flat(config: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items = []
    for key, value in config.items():
        inner = isinstance(value, dict) and value
        items += _flat(value, f"{prefix}{key}.") if inner else [(prefix + key, value)]
    return items


def summary(run: Run) -> dict[str, str]:
    """What a run came to, by the table's row; what it does not know is left out."""
    rows = [row for row in run.rows if "loss" in row]
    if not rows:
        return {"steps": f"0 of {run.config.get('steps', '?')}"}
    last = rows[-1]
    cells = {"steps": f"{last['step']} of {run.config.get('steps', '?')}"}

    def column(name: str, lines: list[dict[str, float]] = rows) -> list[float]:
        return [row[name] for row in lines if row.get(name) is not None]

    def typical(name: str) -> float | None:
        """Median, without the first line of a start: that step compiles."""
        values = column(name)
        return statistics.median(values[1:] or values) if values else None

    def put(label: str, value: float | None, write: Callable[[float], str]) -> None:
        if value is not None:
            cells[label] = write(value)

    if tokens := column("tokens"):
        cells["tokens"] = count(statistics.mean(tokens) * last["step"])
    for name, best in (("loss", min), ("reward", max)):
        values = column(name)
        if values:
            means = [
                statistics.mean(values[max(0, i - AVERAGED) : i]) for i in range(1, len(values) + 1)
            ][min(AVERAGED, len(values)) - 1 :]
            cells[f"{name}, last {AVERAGED}"] = f"{means[-1]:.4g}"
            cells[f"{name}, best {AVERAGED}"] = f"{best(means):.4g}"
    evaluations = dict.fromkeys(k for row in run.rows for k in row if k.startswith("eval/"))
    for name in evaluations:
        known = [row for row in run.rows if row.get(name) is not None]
        if name.endswith(("_low", "_high")) or not known:
            continue
        less = any(part in name for part in ("loss", "perplexity"))
        best_row = (min if less else max)(known, key=lambda row: row[name])
        cells[name] = f"{known[-1][name]:.4g}"
        if best_row[name] != known[-1][name]:
            cells[name] += f" (best {best_row[name]:.4g} at {best_row['step']})"
    put("grad_norm, median", typical("grad_norm"), lambda v: f"{v:.4g}")
    put("update_ratio, median", typical("update_ratio"), lambda v: f"{v:.3g}")
    for name in ("skipped", "spikes"):
        put(name, last.get(name), lambda v: f"{v:.0f}")
    put("seconds a step", typical("time/step"), lambda v: f"{v:.3g}")
    put("tokens/s", typical("tokens_per_s"), count)
    put("tokens/s per chip", typical("tokens_per_s_per_chip"), count)
    put("TFLOP/s per chip", typical("tflops"), lambda v: f"{v:.3g}")
    put("MFU", typical("mfu"), lambda v: f"{v:.1%}")
    put("MFU, update alone", typical("mfu_update"), lambda v: f"{v:.1%}")
    put("waiting for data", typical("data_wait"), lambda v: f"{v:.1%}")
    for name in ("memory/host", "memory/device"):
        put(f"{name}, most", max(column(name), default=None), lambda v: f"{v:.3g} GB")
    put("wall time", max(column("time/run", run.rows), default=None), duration)
    return cells


def count(number: float) -> str:
    """ "1.23T", "12.3k" or "123"."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def differences(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Fields of the configuration in which the runs differ, with each run's value ("-": it has no
    such field)."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {
        f"config.{name}": [
            json.dumps(run.config[name], ensure_ascii=False) if name in run.config else "-"
            for run in runs
        ]
        for name in names
    }
    return {name: row for name, row in values.items() if len(set(row)) > 1}


def table(runs: Sequence[Run], width: int) -> str:
    """The runs in columns, as many beside each other as `width` characters hold, the rest below."""
    summaries = [summary(run) for run in runs]
    labels: list[str] = []
    for cells_of_run in summaries:
        at = 0
        for label in cells_of_run:
            if label in labels:
                at = labels.index(label) + 1
            else:
                labels.insert(at, label)
                at += 1
    lines = {label: [s.get(label, "-") for s in summaries] for label in labels}
    lines |= differences(runs)
    first = max(len(_clip(label)) for label in lines)
    longest = min(LONGEST, max(SHORTEST, (width - first) // len(runs) - 2))
    cells = {label: [_clip(cell, longest) for cell in row] for label, row in lines.items()}
    heads = [_clip(run.name, longest) for run in runs]
    widths = [
        max(len(head), *(len(row[i]) for row in cells.values())) for i, head in enumerate(heads)
    ]
    blocks: list[list[int]] = [[]]
    for i in range(len(runs)):
        used = first + sum(widths[j] + 2 for j in blocks[-1])
        if blocks[-1] and used + widths[i] + 2 > width:
            blocks.append([])
        blocks[-1].append(i)
    parts = []
    for block in blocks:
        rows = [("", heads), *cells.items()]
        parts += [
            (
                f"{_clip(label):<{first}}" + "".join(f"  {row[i]:>{widths[i]}}" for i in block)
            ).rstrip()
            for label, row in rows
        ] + [""]
    return "\n".join(parts[:-1])


def _clip(text: str, longest: int = LONGEST) -> str:
    """At most so many characters: of a path or a list, the start and the end say most."""
    if len(text) <= longest:
        return text
    half = (longest - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def write_page(runs: Sequence[Run], path: pathlib.Path) -> None:
    """The table and the runs' curves, as one HTML file.

    Raises:
      InputError: the file cannot be written.
    """
    names = shown_names([row for run in runs for row in run.rows])
    plots = {name: [Line(r.name, r.rows, name) for r in runs] for name in names}
    title = html.escape(", ".join(run.name for run in runs))
    page = [
        f"<!doctype html><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:15px system-ui;max-width:1100px;margin:2em auto;padding:0 1em}"
        "pre{background:#f5f5f5;padding:1em;overflow:auto}</style>",
        f"<h1>{title}</h1><pre>{html.escape(table(runs, 10_000))}</pre>",
        draw(plots),
    ]
    beside = path.with_name(path.name + ".partial")
    try:
        beside.write_text("\n".join(page), encoding="utf-8")
        beside.replace(path)
    except OSError as e:
        raise InputError(f"--html={path} cannot be written: {e.strerror}") from None
