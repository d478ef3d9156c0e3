"""report.json and report.html: what the iterations of a run found."""

from __future__ import annotations

import dataclasses
import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dsmath_jax.mining import projection
from dsmath_jax.mining.run import Run, write_json

Notes = dict[str, dict[str, Any]]  # of an iteration: what each stage found

STYLE = """body{font:15px/1.5 system-ui;max-width:75em;margin:2em auto;padding:0 1em}
td,th{border-top:1px solid #ddd;padding:.2em .8em;text-align:right}
td:first-child,th:first-child{text-align:left}
.bars{display:flex;align-items:end;height:90px;gap:1px}
.bars i{flex:1;background:#58a}.bars i.cut{background:#7b4}
pre{background:#f6f6f6;padding:.8em;white-space:pre-wrap;overflow:auto}
.note{background:#fe9;padding:.5em .8em}"""
TIMED = ("score", "collect", "extract", "deduplicate", "decontaminate", "domains")


def write_report(run: Run, last: int = 0, ended: str = "") -> pathlib.Path:
    """Writes report.json and report.html of all iterations that there are; returns the page.

    Args:
      last: iteration that is shown, if not all are.
      ended: why there are no more.
    """
    numbers = [number for number in iterations(run) if not last or number <= last]
    found = {number: run.notes(number) for number in numbers}
    for notes in found.values():
        if projected := _projected(notes):
            notes["projected"] = projected
    self_test = run.workdir / "self_test.json"
    has_benchmarks = run.config.benchmarks and self_test.exists()
    tested = json.loads(self_test.read_text()) if has_benchmarks else {}
    write_json(
        run.workdir / "report.json",
        {
            "ended": ended,
            "self_test": tested,
            "iterations": [{"iteration": n} | notes for n, notes in found.items()],
        },
    )
    parts = [
        f"<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>"
        f"<title>{_text(run.workdir.name)}</title><style>{STYLE}</style>",
        f"<h1>Mining: {_text(run.workdir.name)}</h1>",
        _overview(found),
        f"<p>Ended: {_text(ended)}</p>" if ended else "",
    ]
    if any(notes.get("annotate", {}).get("mode") == "auto" for notes in found.values()):
        parts.append(
            "<p class=note>No person annotated: where nobody decided, suggestions were taken "
            "(annotate=auto).</p>"
        )
    if tested:
        parts.append(
            f"<p>Benchmarks: all of {tested['texts']:,} texts were found by the index, alone and "
            f"inside a page; of {tested['clean_pages']:,} pages made of their words in random "
            f"order it would remove {tested['removed']:,} ({tested['false_removals']:.1%}).</p>"
        )
    for number, notes in reversed(found.items()):
        parts += [f"<h2>Iteration {number}</h2>", *_iteration(run, notes)]
    path = run.workdir / "report.html"
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join(parts), encoding="utf-8")
    partial.replace(path)
    return path


def iterations(run: Run) -> list[int]:
    """Numbers of those of which a stage has been run."""
    folders = [
        re.fullmatch(r"iter(\d+)", path.parent.name) for path in run.workdir.glob("iter*/report")
    ]
    return sorted(int(found.group(1)) for found in folders if found)


def _overview(iterations: Mapping[int, Notes]) -> str:
    rows = []
    for number, n in iterations.items():
        train, corpus = n.get("train", {}), n.get("decontaminate", {})
        rows.append(
            [
                number,
                train.get("positives", {}).get("pages", ""),
                train.get("held_out", {}).get("all", {}).get("auc", ""),
                n.get("collect", {}).get("counts", {}).get("unique", ""),
                corpus.get("pages", ""),
                corpus.get("tokens", ""),
                corpus.get("overlap", ""),
                n.get("grow", {}).get("added", ""),
            ]
        )
    head = ["iteration", "positives", "held-out AUC", "pages, each once", "in the corpus", "tokens"]
    return _table([*head, "taken before", "added to the next seed"], rows)


def _iteration(run: Run, n: Notes) -> list[str]:
    parts = []
    if "held_out" in n.get("train", {}):
        parts += _classifier(n["train"])
    if "collect" in n:
        parts += _scores(n["collect"])
    if "score" in n and "decontaminate" in n:
        parts += _pages(n)
    if "domains" in n:
        parts += _domains(run, n["domains"])
    if "annotate" in n:
        a = n["annotate"]
        how = "suggestions were taken where nobody decided" if a["mode"] == "auto" else ""
        parts.append(
            f"<h3>Annotation</h3><p>{a['asked']:,} groups of pages, {a['decided']:,} decided by a "
            f"person, {len(a['accepted']):,} accepted. {how}</p>"
        )
        if a["accepted"]:
            parts.append(f"<pre>{_text(chr(10).join(a['accepted'][:200]))}</pre>")
    parts += _costs(n)
    if "samples" in n:
        parts += _samples(n["samples"])
    return parts


def _classifier(train: Mapping[str, Any]) -> list[str]:
    held_out = train["held_out"]
    parts = ["<h3>Seed and classifier</h3>"]
    rows = []
    for kind in ("positives", "negatives"):
        for what in ("languages", "sources"):
            rows += [[f"{kind}, {name}", count] for name, count in train[kind][what].items()]
    parts.append(_table(["drawn", "pages"], rows))
    parts.append("<p>On hosts that it never saw:</p>")
    rows = [[name, *values.values()] for name, values in held_out.items()]
    return [*parts, _table(["language", *held_out["all"]], rows)]


def _scores(collect: Mapping[str, Any]) -> list[str]:
    parts = ["<h3>Pages by score, and the cut</h3>"]
    for language, (pages, tokens) in collect["histograms"].items():
        if sum(pages):
            cut = collect["cuts"].get(language)
            above = f", taken from {cut:.4f} up" if cut is not None else ", none taken"
            parts.append(f"<p>{language}: {sum(pages):,} pages, {sum(tokens):,} tokens{above}</p>")
            parts.append(_bars(pages, cut))
    if "measured" in collect:
        parts.append("<p>The cut against config.labels:</p>")
        rows = [[name, *values.values()] for name, values in collect["measured"].items()]
        parts.append(_table(["language", *collect["measured"]["all"]], rows))
    return parts


def _pages(n: Notes) -> list[str]:
    score, corpus, counts = n["score"], n["decontaminate"], n["collect"]["counts"]
    rows = [["read and scored", score["pages"]]]
    rows += [[f"not scored: {k}", v] for k, v in score.get("skipped", {}).items()]
    rows += [[f"rejected: {k}", v] for k, v in score.get("rejected", {}).items()]
    rows += [[f"removed: {k}", counts[k]] for k in ("same address", "same text")]
    rows += [["above the cut", counts["taken"]]]
    rows += [[f"no content: {k}", v] for k, v in n["extract"].get("rejected", {}).items()]
    rows += [["removed: near-duplicates", corpus.get("near-duplicates", 0)]]
    rows += [["removed: hold a benchmark's text", corpus.get("benchmark", 0)]]
    rows += [["in the corpus", corpus.get("pages", 0)]]
    parts = ["<h3>From pages to the corpus</h3>", _table(["", "pages"], rows)]
    rows = [[f"language {k}", v["pages"], v["tokens"]] for k, v in corpus["languages"].items()]
    rows += [[f"source {k}", v, ""] for k, v in corpus["sources"].items()]
    parts.append(_table(["corpus", "pages", "tokens"], rows))
    if "overlap" in corpus:
        parts.append(
            f"<p>{corpus['overlap']:.1%} of them had been taken in the iteration before, which "
            f"took {corpus['taken_before']:,}.</p>"
        )
    return parts


def _domains(run: Run, found: Mapping[str, Any]) -> list[str]:
    parts = [
        f"<h3>Domains</h3><p>{found['with_pages']:,} of {found['domains']:,} domains have pages in "
        f"the corpus; of {found['mathematical']:,} more than {run.config.domain_share:.0%} was "
        "collected. Of these, with most to gain:</p>"
    ]
    rows = [
        [d["host"], d["pages"], d["collected"], d["collected"] / d["pages"]]
        for d in found["most_to_gain"]
    ]
    parts.append(_table(["domain", "pages", "collected", "share"], rows))
    for change in ("gained", "lost"):
        if found[change]:
            parts.append(f"<p>Domains with pages {change} since the iteration before:</p>")
            parts.append(_table(["domain", "pages before", "pages now"], found[change]))
    return parts


def _projected(n: Notes) -> dict[str, Any]:
    """What larger archives would cost at the speed of the stages: core-hours and bytes."""
    stages = {name: projection.measured(n.get(name, {})) for name in TIMED}
    if not any(stages.values()):
        return {}
    counts = n.get("collect", {}).get("counts", {})
    taken = counts.get("taken", 0) / max(1, counts.get("pages", 1))
    found = {"taken": taken}
    for what, pages in projection.SIZES.items():
        costs = projection.projected(stages, pages, taken)
        found[what] = {name: dataclasses.asdict(cost) for name, cost in costs.items()}
    return found


def _costs(n: Notes) -> list[str]:
    if "projected" not in n:
        return []
    rows = []
    for name in TIMED:
        if (stage := projection.measured(n.get(name, {}))) is not None:
            rows.append([name, stage.pages, stage.seconds, stage.pages / stage.seconds])
    parts = ["<h3>Speed and cost</h3>"]
    parts.append(_table(["stage", "pages", "seconds of one process", "pages/s"], rows))
    rows = []
    for what in projection.SIZES:
        for name, cost in n["projected"][what].items():
            sizes = [round(cost[kind] / 1e9) for kind in ("read", "written")]
            rows.append([f"{what}, {name}", cost["pages"], round(cost["core_hours"]), *sizes])
    parts.append(
        f"<p>At this speed, with {n['projected']['taken']:.1%} of pages above the cut:</p>"
    )
    head = ["projected", "pages", "core-hours", "GB read", "GB written"]
    return [*parts, _table(head, rows)]


def _samples(found: Mapping[str, Any]) -> list[str]:
    parts = []
    for kind in ("kept", "above the cut", "below the cut", "dropped"):
        if found.get(kind):
            parts.append(f"<details><summary>Samples: {kind}</summary>")
            parts += [
                f"<pre>{_text(page['url'])}  ({page['score']:.4f}, {page['language']})\n\n"
                f"{_text(page['text'])}</pre>"
                for page in found[kind]
            ]
            parts.append("</details>")
    removed = found["removed"]
    if removed["benchmarks"]:
        parts.append("<h3>Benchmarks found in pages</h3>")
        parts.append(_table(["benchmark", "texts"], list(removed["benchmarks"].items())))
    for cause, rows in removed["examples"].items():
        parts.append(f"<details><summary>Removed: {cause}</summary>")
        table = [[row["url"], row["of"], row["ngram"], row["similarity"]] for row in rows]
        parts.append(_table(["page", "of", "n-gram", "similarity"], table) + "</details>")
    return parts


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["<table><tr>" + "".join(f"<th>{_text(h)}" for h in head) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td>{_cell(x)}" for x in row) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _cell(x: Any) -> str:
    if x is None:
        return ""
    if isinstance(x, float):
        return f"{x:.3f}" if abs(x) < 100 else f"{x:,.0f}"
    return f"{x:,}" if isinstance(x, int) else _text(x)


def _text(x: Any) -> str:
    return html.escape(str(x))


def _bars(pages: Sequence[int], cut: float | None) -> str:
    """A histogram; bars at or above the cut in another colour."""
    highest = max(pages)
    bars = []
    for i, n in enumerate(pages):
        kind = " class=cut" if cut is not None and (i + 1) / len(pages) > cut else ""
        height = 100 * (n / highest) ** 0.5
        score = f"{i / len(pages):.2f}"
        bars.append(f'<i{kind} style="height:{height:.0f}%" title="{score}: {n:,} pages"></i>')
    return "<div class=bars>" + "".join(bars) + "</div>"
