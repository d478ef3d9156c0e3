"""What an iteration kept, nearly kept and dropped, as texts for its report."""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dsmath_jax.mining import page_rows, score
from dsmath_jax.mining.archives import read_page_at
from dsmath_jax.mining.iteration import corpus_files
from dsmath_jax.mining.normalize import mix
from dsmath_jax.mining.pages import Limits, Page
from dsmath_jax.mining.run import Run, needed

EACH, CHARACTERS = 10, 600  # texts of a kind, and what is shown of each
COLUMNS = ("url_hash", "url", "score", "language", "source", "offset", "length")


def samples(run: Run, number: int) -> None:
    """Texts of random pages of the corpus, of pages just above and just below the cut of each
    language, of random pages below it, and what was removed why."""
    needed(run.folder(number) / "above.npy", "collect", number)
    cuts = run.notes(number)["collect"]["cuts"] if run.config.classify else {}
    found = {"kept": _kept(run, number)} | _around_the_cut(run, number, cuts)
    found["removed"] = _removed(run, number)
    run.note(number, "samples", found)


def _kept(run: Run, number: int) -> list[dict[str, Any]]:
    best: list[tuple[int, int, int]] = []
    files = corpus_files(run, number)
    for n, file in enumerate(files):
        order = mix(page_rows.read(file, ["url_hash"])["url_hash"])
        rows = ((int(order[i]), n, int(i)) for i in np.argsort(order)[:EACH])
        best = heapq.nsmallest(EACH, [*best, *rows])
    texts = []
    for _, n, i in best:
        columns = ["url", "score", "language", "text"]
        (row,) = pq.read_table(files[n], columns=columns).slice(i, 1).to_pylist()
        texts.append(row | {"text": row["text"][:CHARACTERS]})
    return texts


def _around_the_cut(run: Run, number: int, cuts: dict[str, float]) -> dict[str, list[dict]]:
    kinds: dict[tuple[str, str], list[tuple]] = {}
    for file in run.rows(number) if cuts else ():
        rows = page_rows.read(file, COLUMNS)
        language = np.array(rows["language"], "U8")
        order = mix(rows["url_hash"])
        for name, cut in cuts.items():
            is_above = rows["score"] >= np.float32(cut)
            distance = np.abs(rows["score"] - np.float32(cut))
            for kind, here, key in (
                ("above the cut", is_above, distance),
                ("below the cut", ~is_above, distance),
                ("dropped", ~is_above, order),
            ):
                at = np.flatnonzero(here & (language == name))
                nearest = at[np.lexsort((order[at], key[at]))[:EACH]]
                pages = [
                    (key[i].item(), int(order[i]), *(_value(rows[c][i]) for c in COLUMNS[1:]))
                    for i in nearest
                ]
                kept = kinds.get((kind, name), [])
                kinds[kind, name] = heapq.nsmallest(EACH, [*kept, *pages])
    found: dict[str, list[dict]] = {}
    for (kind, _), pages in kinds.items():
        found.setdefault(kind, []).extend(_with_text(run, page) for page in pages)
    return found


def _value(x: Any) -> Any:
    return x.item() if isinstance(x, np.generic) else x


def _with_text(run: Run, page: tuple) -> dict[str, Any]:
    _, _, url, found, language, source, offset, length = page
    limits = Limits(run.config.max_page_bytes, rate=run.rate)
    read = read_page_at(run.shards[source].inputs[0], offset, length, limits)
    text = score.text_of(read) if isinstance(read, Page) else None
    return {
        "url": url,
        "score": found,
        "language": language,
        "text": " ".join((text or "").split())[:CHARACTERS],
    }


def _removed(run: Run, number: int) -> dict[str, Any]:
    """Removals by cause and benchmark, and the first of each cause."""
    causes: dict[str, int] = {}
    benchmarks: dict[str, int] = {}
    examples: dict[str, list[dict[str, Any]]] = {}
    for file in corpus_files(run, number):
        for row in pq.read_table(file.with_name("removed.parquet")).to_pylist():
            causes[row["cause"]] = causes.get(row["cause"], 0) + 1
            shown = examples.setdefault(row["cause"], [])
            if len(shown) < EACH:
                shown.append(row)
            if row["cause"] == "benchmark":
                name = row["of"].split(":", 1)[0]
                benchmarks[name] = benchmarks.get(name, 0) + 1
    return {"rows": causes, "benchmarks": benchmarks, "examples": examples}
