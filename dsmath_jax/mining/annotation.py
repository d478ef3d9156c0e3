"""What a person annotates: URL-path groups of mathematical domains, as a CSV file and as a page to
read it in (DeepSeekMath 2.1: "manually annotate the URLs associated with mathematical content")."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import pathlib
from collections.abc import Sequence

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.domains import Group

COLUMNS = (
    "iteration",
    "pattern",
    "pages",
    "collected",
    "share",
    "mean_score",
    "sample_urls",
    "sample_texts",
    "suggested",
    "decision",
    "annotator",
    "note",
)
DECISIONS = ("yes", "no", "")
LONGEST_URL = 2000
TEXTS, CHARACTERS = 3, 200  # shown of a group's samples, and of how many characters a text


@dataclasses.dataclass(frozen=True)
class Row:
    """One group. decision: "yes", its pages are mathematical; "no"; "", not reviewed."""

    iteration: int
    pattern: str
    pages: int
    collected: int
    share: float
    mean_score: float
    sample_urls: tuple[str, ...]
    sample_texts: tuple[str, ...]
    suggested: str
    decision: str = ""
    annotator: str = ""
    note: str = ""

    @property
    def gain(self) -> int:
        return self.pages - self.collected


def make_row(group: Group, iteration: int, texts: Sequence[str], threshold: float) -> Row:
    """A group's row; it is suggested where at least `threshold` of it was collected.

    Args:
      texts: of its samples, the first ones.
    """
    count = group.count
    return Row(
        iteration,
        group.pattern,
        count.pages,
        count.collected,
        round(count.share, 4),
        round(count.scores / count.pages, 4),
        tuple(sample.url[:LONGEST_URL] for sample in group.samples),
        tuple(" ".join(text.split())[:CHARACTERS] for text in texts[:TEXTS]),
        "yes" if count.share >= threshold else "no",
    )


def by_gain(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row.gain, row.pattern))


def write(rows: Sequence[Row], path: pathlib.Path) -> None:
    """The CSV file, rows with most pages to gain first, and the page of the same name, .html."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in by_gain(rows):
        values = dataclasses.asdict(row)
        for name in ("sample_urls", "sample_texts"):
            values[name] = json.dumps(values[name], ensure_ascii=False)
        writer.writerow([_plain(values[name]) for name in COLUMNS])
    for target, content in ((path, text.getvalue()), (path.with_suffix(".html"), page(rows))):
        partial = target.with_name(target.name + ".partial")
        partial.write_text(content, encoding="utf-8")
        partial.replace(target)


def read(path: pathlib.Path, iteration: int) -> list[Row]:
    """The rows of an annotated file.

    Raises:
      InputError: there is none, it is of another iteration, or a line cannot be understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # as spreadsheets save it, too
    except FileNotFoundError:
        raise InputError(f"{path}: there is no annotation file here") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save it as CSV in UTF-8") from None
    head = text.split("\n", 1)[0]
    separator = ";" if head.count(";") > head.count(",") else ","  # as some spreadsheets write it
    lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
    if missing:
        raise InputError(f"{path}: column {missing[0]!r} is missing")
    try:
        return [
            _row(values, f"{path}, line {lines.line_num}", iteration)
            for values in lines
            if any(isinstance(x, str) and x.strip() for x in values.values())
        ]
    except csv.Error as e:
        raise InputError(f"{path}, line {lines.line_num}: {e}") from None


def _row(values: dict[str, str], where: str, iteration: int) -> Row:
    """Counts and samples are for people, and may have been changed by a spreadsheet: they are read
    as far as they can be."""
    try:
        row = Row(
            int(values["iteration"]),
            _unquoted(values["pattern"]),
            int(_number(values["pages"])),
            int(_number(values["collected"])),
            _number(values["share"]),
            _number(values["mean_score"]),
            _texts(values["sample_urls"]),
            _texts(values["sample_texts"]),
            values["suggested"] or "",
            (values["decision"] or "").strip().lower(),
            (values["annotator"] or "").strip(),
            values["note"] or "",
        )
    except (ValueError, TypeError, AttributeError) as e:
        raise InputError(f"{where}: {e}") from None
    if row.iteration != iteration:
        raise InputError(
            f"{where}: it is of iteration {row.iteration}, and this is {iteration}; annotate "
            f"annotate_iter{iteration}.csv"
        )
    if row.decision not in DECISIONS:
        raise InputError(f"{where}: decision {row.decision!r} is none of yes, no and empty")
    return row


def _number(value: str | None) -> float:
    try:
        return float((value or "0").replace(",", "."))
    except ValueError:
        return 0.0


def _texts(value: str | None) -> tuple[str, ...]:
    try:
        found = json.loads(value or "[]")
    except ValueError:
        return ()
    return tuple(map(str, found)) if isinstance(found, list) else ()


def accepted(rows: Sequence[Row], auto: bool) -> list[str]:
    """Patterns whose decision is yes, in order; with `auto` an empty decision is the suggestion.

    Raises:
      InputError: one pattern has two decisions.
    """
    decided: dict[str, str] = {}
    for row in rows:
        decision = row.decision or (row.suggested if auto else "")
        if decided.setdefault(row.pattern, decision) != decision:
            raise InputError(f"pattern {row.pattern!r} is decided as both yes and no")
    return sorted(pattern for pattern, decision in decided.items() if decision == "yes")


def kept_decisions(new: Sequence[Row], annotated: Sequence[Row]) -> list[Row]:
    """New rows with the decisions, annotators and notes that the old ones of their patterns had,
    and decided old ones that are not asked about any more."""
    old = {row.pattern: row for row in annotated}
    kept = []
    for row in new:
        if (found := old.pop(row.pattern, None)) is not None:
            row = dataclasses.replace(
                row, decision=found.decision, annotator=found.annotator, note=found.note
            )
        kept.append(row)
    return kept + [row for row in old.values() if row.decision]


def _plain(value: object) -> object:
    """A cell that no spreadsheet takes for a formula: what the web wrote must not run there."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "'"):
        return "'" + value
    return value


def _unquoted(value: str) -> str:
    return value[1:] if value[:1] == "'" else value


def page(rows: Sequence[Row]) -> str:
    """The rows as HTML, everything that the web wrote escaped, links without a referrer."""
    iteration = rows[0].iteration if rows else 0
    parts = [
        "<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>",
        f"<title>Annotation, iteration {iteration}</title>",
        "<style>body{font:15px/1.5 system-ui;max-width:75em;margin:2em auto;padding:0 1em}"
        "td,th{border-top:1px solid #ddd;padding:.4em .7em;vertical-align:top;text-align:left}"
        "td.n{text-align:right}p{margin:.2em 0;color:#444}.yes{color:#170}</style>",
        f"<h1>Annotation, iteration {iteration}</h1>",
        f"<p>{len(rows)} groups of pages, those with most pages to gain first. Decide in the CSV "
        "file beside this page: yes where a group's pages are mathematical, else no.</p>",
        "<table><tr><th>group<th>pages<th>collected<th>to gain<th>mean score<th>suggested"
        "<th>pages that are not collected</tr>",
    ]
    for row in by_gain(rows):
        links = " ".join(_link(url) for url in row.sample_urls)
        texts = "".join(f"<p>{html.escape(text)}</p>" for text in row.sample_texts)
        parts.append(
            f"<tr><td>{html.escape(row.pattern)}<td class=n>{row.pages:,}<td class=n>"
            f"{row.collected:,} ({row.share:.0%})<td class=n>{row.gain:,}<td class=n>"
            f"{row.mean_score:.2f}<td class={row.suggested}>{html.escape(row.suggested)}"
            f"<td>{links}{texts}</tr>"
        )
    return "\n".join([*parts, "</table>"]) + "\n"


def _link(url: str) -> str:
    shown = html.escape(url, quote=True)
    if not url.startswith(("http://", "https://")):
        return shown
    return f'<a href="{shown}" rel="noreferrer noopener">{shown}</a>'
