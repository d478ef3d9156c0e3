"""What an iteration found, as JSON and as one page."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow.parquet as pq

from dsmath_jax.mining.loop import Mine, write_json

SAMPLES, CHARACTERS = 20, 600  # shown of a kind, and of how many characters


def write_reports(run: Mine, reports: Sequence[dict[str, Any]]) -> pathlib.Path:
    """Writes report.json and report.html of all iterations; returns the page."""
    write_json(run.workdir / "report.json", {"self_test": run.self_test, "iterations": reports})
    parts = [
        "<!doctype html><meta charset=utf-8><title>Mining</title>",
        "<style>body{font:15px/1.5 system-ui;max-width:75em;margin:2em auto;padding:0 1em}"
        "td,th{border-top:1px solid #ddd;padding:.3em .8em;text-align:right}"
        "td:first-child,th:first-child{text-align:left}.bars{display:flex;align-items:end;"
        "height:90px;gap:1px}.bars i{flex:1;background:#58a}.bars i.cut{background:#7b4}"
        "pre{background:#f6f6f6;padding:.8em;white-space:pre-wrap;overflow:auto}</style>",
        f"<h1>{html.escape(run.workdir.name)}</h1>",
        _overview(reports),
    ]
    for report in reports:
        parts += _iteration(run, report)
    path = run.workdir / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(parts), encoding="utf-8")
    partial.replace(path)
    return path


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(h)}" for h in head) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{_cell(x)}" for x in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.3f}"
    return f"{x:,}" if isinstance(x, int) else html.escape(str(x))


def _overview(reports: Sequence[dict[str, Any]]) -> str:
    rows = []
    for r in reports:
        rows.append(
            [
                r["iteration"],
                r["seed"]["positives"]["pages"],
                r["held_out"]["all"]["auc"],
                r["collected"]["unique"],
                r["corpus"].get("pages", 0),
                r["corpus"].get("tokens", 0),
                r["overlap"],
                r.get("added", ""),
                r.get("ended", ""),
            ]
        )
    head = ["iteration", "positives", "held-out AUC", "pages, each once", "in the corpus", "tokens"]
    return table([*head, "taken before", "added to the seed", "ended"], rows)


def _iteration(run: Mine, report: dict[str, Any]) -> list[str]:
    number = report["iteration"]
    parts = [f"<h2>Iteration {number}</h2>", "<h3>Classifier on hosts it never saw</h3>"]
    held_out = report["held_out"]
    head = ["language", *held_out["all"]]
    parts.append(table(head, [[name, *values.values()] for name, values in held_out.items()]))
    parts.append("<h3>Pages by score, and what was taken</h3>")
    for language, (pages, _) in report["histograms"].items():
        if sum(pages):
            parts.append(f"<p>{language}</p>" + _bars(pages, report["cuts"].get(language)))
    parts.append("<h3>From pages to the corpus</h3>")
    rows = [["read", report["score"]["pages"]]]
    rows += [[f"rejected: {k}", n] for k, n in report["score"].get("rejected", {}).items()]
    rows += [[name, n] for name, n in report["collected"].items() if name != "pages"]
    rows += [[f"no content: {k}", n] for k, n in report["extraction"].get("rejected", {}).items()]
    rows += [["near-duplicates", report["corpus"].get("near-duplicates", 0)]]
    rows += [["holds a benchmark's text", report["corpus"].get("benchmark", 0)]]
    rows += [["in the corpus", report["corpus"].get("pages", 0)]]
    parts.append(table(["", "pages"], rows))
    if report.get("domains"):
        parts.append(f"<h3>Domains with more than {run.config.domain_share:.0%} collected</h3>")
        by_gain = sorted(report["domains"].items(), key=lambda d: -d[1].gain)[:50]
        rows = [[name, c.pages, c.collected, c.share] for name, c in by_gain]
        parts.append(table(["domain", "pages", "collected", "share"], rows))
    parts.append("<h3>Samples of the corpus</h3>")
    for text in _samples(run.workdir / f"iter{number}" / "corpus"):
        parts.append(f"<pre>{html.escape(text)}</pre>")
    return parts


def _bars(pages: Sequence[int], least: float | None) -> str:
    """A histogram in 64 bars; those at or above the cut in another colour."""
    highest = max(pages)
    bars = []
    for i, n in enumerate(pages):
        taken = least is not None and (i + 1) / len(pages) > least
        height = 100 * (n / highest) ** 0.5
        kind = " class=cut" if taken else ""
        bars.append(f'<i{kind} style="height:{height:.0f}%" title="{i / 64:.2f}: {n:,} pages"></i>')
    return "<div class=bars>" + "".join(bars) + "</div>"


def _samples(folder: pathlib.Path) -> list[str]:
    """Evenly over the files of an iteration's corpus."""
    files = sorted(folder.glob("*/clean.parquet"))
    texts = []
    for file in files[:: max(1, len(files) // SAMPLES)]:
        rows = pq.ParquetFile(file)
        first = next(rows.iter_batches(SAMPLES, columns=["url", "score", "text"]), None)
        for row in (first.to_pylist() if first is not None else [])[
            : max(1, SAMPLES // len(files))
        ]:
            texts.append(f"{row['url']}  ({row['score']:.3f})\n\n{row['text'][:CHARACTERS]}")
    return texts[:SAMPLES]
