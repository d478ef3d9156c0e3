"""report.html: a run's curves, configuration and samples on one page without other files."""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
import pathlib
from typing import NamedTuple

from dsmath_jax.training.metrics import read_metrics

HIDDEN = ("step", "bad_steps", "tokens", "tokens_per_s", "time/run")
EVENTS = ("skipped", "spikes", "checker_errors")  # shown where there were any
FIRST = (
    *("eval/", "loss", "reward", "kl", "entropy", "skipped", "spikes", "grad_norm"),
    *("update_ratio", "learning_rate", "mfu", "tflops", "tokens_per_s", "data_wait"),
)
GROUPS = {  # numbers that share a plot
    "time/": "seconds",
    "memory/": "memory (GB)",
    "share/": "share of the step's tokens",
    "tokens/": "tokens so far",
}


def write_report(workdir: pathlib.Path) -> pathlib.Path:
    """Writes `workdir/report.html` from config.json, starts.jsonl, metrics.jsonl and samples/."""
    rows = read_metrics(workdir)
    config = workdir / "config.json"
    name = html.escape(workdir.name)
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{name}</title>",
        "<style>body{font:15px system-ui;max-width:1100px;margin:2em auto;padding:0 1em}"
        "pre{background:#f5f5f5;padding:1em;overflow:auto;white-space:pre-wrap}"
        ".right{border-left:4px solid #2a2}.wrong{border-left:4px solid #c33}</style>",
        f"<h1>{name}</h1>",
        _summary(rows),
        _plots(rows),
        _samples(workdir / "samples"),
    ]
    if config.exists():
        parts.append(f"<h2>Configuration</h2><pre>{html.escape(config.read_text())}</pre>")
    parts.append(_starts(workdir / "starts.jsonl"))
    path = workdir / "report.html"
    beside = path.with_suffix(".partial")
    beside.write_text("\n".join(parts), encoding="utf-8")
    beside.replace(path)
    return path


def _starts(path: pathlib.Path) -> str:
    """When and where the run was started, by what; versions and machine of the last start."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    starts = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # cut short by a kill
            starts.append(json.loads(line))
    if not starts:
        return ""
    said = [
        f"{s['time']}  {s['machine']['devices']}  {s['machine']['processes']} processes  "
        f"commit {s['commit'] or 'unknown'}\n  {s['command']}"
        for s in starts
    ]
    last = {k: starts[-1][k] for k in ("versions", "machine")}
    text = "\n".join([*said, json.dumps(last, indent=2)])
    return f"<h2>Starts</h2><pre>{html.escape(text)}</pre>"


def _summary(rows: list[dict[str, float]]) -> str:
    evaluations = [r for r in rows if any(k.startswith("eval/") for k in r)]
    if not evaluations:
        return ""
    names = [
        k for k in evaluations[-1] if k.startswith("eval/") and not k.endswith(("_low", "_high"))
    ]
    cells = "".join(f"<th>{html.escape(n)}" for n in names)
    lines = [f"<h2>Evaluation</h2><table cellpadding=6><tr><th>step{cells}"]
    for row in evaluations:
        lines.append(f"<tr><td>{row['step']}" + "".join(f"<td>{_interval(row, n)}" for n in names))
    return "".join(lines) + "</table>"


def _interval(row: dict[str, float], name: str) -> str:
    if name not in row:
        return ""
    if f"{name}_low" not in row:
        return f"{row[name]:.4g}"
    return f"{row[name]:.1%} ({row[f'{name}_low']:.1%} to {row[f'{name}_high']:.1%})"


def _plots(rows: list[dict[str, float]]) -> str:
    names = shown_names(rows)
    plots: dict[str, list[Line]] = {}
    for name in names:
        group = next((g for g in GROUPS if name.startswith(g)), "")
        label = name.removeprefix(group)
        plots.setdefault(GROUPS.get(group, name), []).append(Line(label, rows, name))
    return draw(plots)


class Line(NamedTuple):
    """One curve: a label, a run's rows, and which number of them."""

    label: str
    rows: list[dict[str, float]]
    name: str


def shown_names(rows: list[dict[str, float]]) -> list[str]:
    """The numbers worth a plot, what matters first."""
    found = {k for row in rows for k in row if k not in HIDDEN}
    found -= {k for k in EVENTS if not any(row.get(k) for row in rows)}
    return sorted((n for n in found if not n.endswith(("_low", "_high"))), key=_rank)


def draw(plots: dict[str, list[Line]]) -> str:
    """HTML of a picture with a plot for each title."""
    if not plots:
        return ""
    from matplotlib.figure import Figure

    columns = 3
    height = -(-len(plots) // columns)
    figure = Figure(figsize=(12, 2.6 * height))
    margin = 0.3 / (2.6 * height)  # inches; a layout engine would draw everything thrice
    figure.subplots_adjust(0.055, margin, 0.99, 1 - margin, wspace=0.2, hspace=0.3)
    for i, (title, lines) in enumerate(plots.items()):
        axes = figure.add_subplot(height, columns, i + 1)
        for label, rows, name in lines:
            points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
            if name.startswith("time/") and len(points) > 5:
                points = points[1:]  # the first step compiles
            steps, values = [step for step, _ in points], [value for _, value in points]
            marker = "o" if len(steps) < 20 else None
            if not points:
                continue
            (curve,) = axes.plot(
                steps, values, marker=marker, markersize=3, linewidth=1, label=label
            )
            known = [r for r in rows if r.get(name + "_low") is not None]
            if known:
                low, high = ([r[name + end] for r in known] for end in ("_low", "_high"))
                axes.fill_between(
                    [r["step"] for r in known], low, high, alpha=0.2, color=curve.get_color()
                )
        if len(lines) > 1:
            axes.legend(fontsize=6)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=80)
    data = base64.b64encode(image.getvalue()).decode()
    return f'<h2>Curves</h2><img style="width:100%" src="data:image/png;base64,{data}">'


def _rank(name: str) -> tuple[int, str]:
    places = [i for i, start in enumerate(FIRST) if name.startswith(start)]
    return (places[0] if places else len(FIRST) + name.startswith("time/"), name)


def _samples(folder: pathlib.Path, show: int = 12) -> str:
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        return ""
    lines = [f"<h2>Samples</h2><p>from {html.escape(files[-1].name)}"]
    for text in files[-1].read_text(encoding="utf-8").splitlines()[:show]:
        try:
            sample = json.loads(text)
        except json.JSONDecodeError:  # cut short by a kill
            continue
        kind = "right" if sample.get("reward", 0) > 0 else "wrong"
        body = f"{sample['question']}\n→ {sample['completion']}\n[reward {sample['reward']}, "
        body += f"{sample['ended']}; answer {sample['answer']}]"
        lines.append(f"<pre class={kind}>{html.escape(body)}</pre>")
    return "".join(lines)
