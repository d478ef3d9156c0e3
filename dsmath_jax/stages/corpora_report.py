"""What a comparison of corpora came to: losses by tokens as tables, curves, JSON and one page."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from dsmath_jax.training.compare import count
from dsmath_jax.training.metrics import read_metrics

Curve = list[tuple[int, float]]  # (tokens trained on, loss)
PREFIX = "eval/loss_"


def write(
    workdir: pathlib.Path,
    config: ConfigDict,
    corpora: Mapping[str, Mapping[str, str]],
    sizes: Mapping[str, Mapping[str, int]],
) -> None:
    """Writes WORKDIR/comparison.json, .md, .png and .html from the runs WORKDIR/NAME, and prints
    the last losses; the first process does.

    Args:
      config: that of any of the runs.
      corpora: {name: {"path", ...}}.
      sizes: {name: {"tokens", "documents"}}.
    """
    if jax.process_index() != 0:
        return
    step_tokens = config.batch_size * config.length
    trained = config.steps * step_tokens
    losses = read_losses(workdir, list(corpora), list(config.data.heldout), step_tokens)
    result = {
        "tokens": trained,
        "steps": config.steps,
        "seed": config.seed,
        "corpora": {
            name: {
                "path": corpora[name]["path"],
                **sizes[name],
                "epochs": trained / sizes[name]["tokens"],
            }
            for name in corpora
        },
        "losses": losses,
        "needed": {name: needed(curves) for name, curves in losses.items()},
    }
    picture = plot(losses)
    _replace(workdir / "comparison.json", (json.dumps(result, indent=2) + "\n").encode())
    _replace(workdir / "comparison.md", tables(result).encode())
    _replace(workdir / "comparison.png", picture)
    _replace(workdir / "comparison.html", _page(workdir, result, picture).encode())
    print(summary_table(result), flush=True)


def read_losses(
    workdir: pathlib.Path, names: Sequence[str], sets: Sequence[str], step_tokens: int
) -> dict[str, dict[str, Curve]]:
    """{set: {corpus: [(tokens, loss), ...]}} of the runs that have begun."""
    rows = {name: read_metrics(workdir / name) for name in names}
    return {
        of: {
            name: [
                (int(row["step"]) * step_tokens, row[PREFIX + of])
                for row in rows[name]
                if row.get(PREFIX + of) is not None
            ]
            for name in names
            if any(PREFIX + of in row for row in rows[name])
        }
        for of in sets
    }


def needed(curves: Mapping[str, Curve]) -> dict[str, float | None]:
    """{other corpus: tokens of the first corpus, by linear interpolation, until its loss is as low
    as the other's last}; None where it never is. Without those whose loss did not fall."""
    if not curves:
        return {}
    first, *others = curves
    fell = [name for name in others if curves[name][-1][1] < curves[name][0][1]]
    return {name: _reaches(curves[first], curves[name][-1][1]) for name in fell}


def _reaches(curve: Curve, loss: float) -> float | None:
    for (tokens, before), (later, after) in itertools.pairwise(curve):
        if after <= loss:
            if before <= loss:
                return float(tokens)
            return tokens + (later - tokens) * (before - loss) / (before - after)
    return None


# ---- Tables --------------------------------------------------------------------------------------
def _cells(curves: Mapping[str, Curve]) -> list[list[str]]:
    """A row for each number of tokens, the least loss of it in bold."""
    by_tokens = {name: dict(curve) for name, curve in curves.items()}
    rows = []
    for tokens in sorted({t for curve in curves.values() for t, _ in curve}):
        found = [by_tokens[name].get(tokens) for name in curves]
        least = min(loss for loss in found if loss is not None)
        rows.append(
            [count(tokens)]
            + ["" if x is None else f"**{x:.3f}**" if x == least else f"{x:.3f}" for x in found]
        )
    return rows


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def _sizes(result: dict[str, Any]) -> list[list[str]]:
    return [
        [name, count(of["documents"]), count(of["tokens"]), f"{of['epochs']:.2f}"]
        for name, of in result["corpora"].items()
    ]


SIZES_HEAD = ("corpus", "documents", "tokens", "epochs trained")


def tables(result: dict[str, Any]) -> str:
    """Markdown: the corpora, then for each set the loss by tokens trained on."""
    parts = [_markdown(SIZES_HEAD, _sizes(result))]
    for name, curves in result["losses"].items():
        if curves:
            parts.append(f"Loss on {name}, in nats a token:")
            parts.append(_markdown(["tokens", *curves], _cells(curves)))
            parts += _sentences(result, name)
    return "\n\n".join(parts) + "\n"


def _sentences(result: dict[str, Any], of: str) -> list[str]:
    """ "mined is where random ends after 1.2M tokens, 40% of them." """
    first = next(iter(result["losses"][of]))
    said = []
    for other, tokens in result["needed"][of].items():
        if tokens is None:
            said.append(f"{first} does not reach the last loss of {other}.")
        else:
            share = f"{tokens / result['tokens']:.0%} of them"
            said.append(f"{first} is where {other} ends after {count(tokens)} tokens, {share}.")
    return said


def summary_table(result: dict[str, Any]) -> str:
    """The last losses, in aligned columns."""
    names = list(result["corpora"])
    rows = [["loss after", *names]]
    for of, curves in result["losses"].items():
        last = max((curve[-1][0] for curve in curves.values()), default=0)
        found = (dict(curves.get(name, ())).get(last) for name in names)
        rows.append([f"{of} {count(last)}", *("-" if x is None else f"{x:.3f}" for x in found)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows
    )


# ---- Pictures and the page -----------------------------------------------------------------------
def plot(losses: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """A PNG with the curves of all corpora for each set; the loss before training, far above, is
    left out."""
    from matplotlib.figure import Figure

    shown = {name: curves for name, curves in losses.items() if curves}
    columns = min(3, max(1, len(shown)))
    height = max(1, -(-len(shown) // columns))
    figure = Figure(figsize=(4.2 * columns, 3.2 * height), layout="constrained")
    for i, (name, curves) in enumerate(shown.items()):
        axes = figure.add_subplot(height, columns, i + 1)
        for corpus, curve in curves.items():
            points = [(tokens, loss) for tokens, loss in curve if tokens]
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=corpus)
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_formatter(lambda tokens, _: count(tokens))
        axes.set_xlabel("tokens trained on", fontsize=8)
        axes.set_ylabel("loss (nats a token)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=80, metadata={"Software": None})
    return image.getvalue()


def _page(workdir: pathlib.Path, result: dict[str, Any], picture: bytes) -> str:
    title = html.escape(workdir.name)
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:15px system-ui;max-width:1100px;margin:2em auto;padding:0 1em}"
        "td,th{border-top:1px solid #ddd;padding:.2em .8em;text-align:right}</style>",
        f"<h1>{title}</h1><p>One model on each corpus, {count(result['tokens'])} tokens, "
        f"{result['steps']} steps, seed {result['seed']}.",
        _html(SIZES_HEAD, _sizes(result)),
        "<p>Runs: "
        + ", ".join(f'<a href="{n}/report.html">{html.escape(n)}</a>' for n in result["corpora"]),
        f'<p><img style="max-width:100%" src="data:image/png;base64,'
        f'{base64.b64encode(picture).decode()}">',
    ]
    for name, curves in result["losses"].items():
        if curves:
            parts.append(f"<h2>{html.escape(name)}</h2>")
            parts.append(_html(["tokens", *curves], _cells(curves)))
            parts += [f"<p>{html.escape(said)}" for said in _sentences(result, name)]
    return "\n".join(parts) + "\n"


def _html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        marked = (
            f"<{kind}><b>{html.escape(c.strip('*'))}</b>"
            if c.startswith("**")
            else f"<{kind}>{html.escape(c)}"
            for c in cells
        )
        return "<tr>" + "".join(marked)

    return "\n".join(["<table>", line(head, "th"), *(line(row, "td") for row in rows), "</table>"])


def _replace(path: pathlib.Path, data: bytes) -> None:
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(data)
    beside.replace(path)
