"""Annotation files: what is asked, what comes back, and what is refused."""

import csv
import dataclasses

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.mining.annotation import (
    COLUMNS,
    accepted,
    kept_decisions,
    make_row,
    page,
    read,
    write,
)
from dsmath_jax.mining.domains import Count, Group, Sample


def group(pattern, pages, collected):
    urls = [f"https://{pattern.strip('/*')}/{n:03d}" for n in range(collected, pages)]
    samples = tuple(Sample(n, url, 0, 0, 0) for n, url in enumerate(urls[:5]))
    return Group(1, pattern, "", Count(pages, collected, pages / 2), samples)


def rows(iteration=1):
    return [
        make_row(group("a.org/questions/*", 20, 12), iteration, ["Let  x\nbe", "prove" * 100], 0.5),
        make_row(group("b.org/", 90, 10), iteration, ['=HYPERLINK("x")', "<script>alert(1)"], 0.5),
        make_row(group("c.org/数学/*", 9, 3), iteration, ["设函数"], 0.5),
    ]


def test_a_file_comes_back_as_it_was_written_with_most_to_gain_first(tmp_path):
    path = tmp_path / "annotate_iter1.csv"
    write(rows(), path)
    back = read(path, 1)
    assert [row.pattern for row in back] == ["b.org/", "a.org/questions/*", "c.org/数学/*"]
    assert sorted(back, key=str) == sorted(rows(), key=str)
    first = back[1]
    assert (first.pages, first.collected, first.share, first.suggested) == (20, 12, 0.6, "yes")
    assert first.sample_texts == ("Let x be", ("prove" * 100)[:200])
    assert len(first.sample_urls) == 5 and first.sample_urls[0].endswith("/012")  # not collected


def test_what_a_person_decides_counts_and_the_suggestion_only_where_asked(tmp_path):
    path = tmp_path / "annotate_iter1.csv"
    write(rows(), path)
    assert accepted(read(path, 1), auto=False) == []
    assert accepted(read(path, 1), auto=True) == ["a.org/questions/*"]
    with path.open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    lines[0]["decision"], lines[1]["decision"] = " Yes ", "no"
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    for _ in range(2):
        assert accepted(read(path, 1), auto=False) == ["b.org/"]
        assert accepted(read(path, 1), auto=True) == ["b.org/"]
    again = kept_decisions(rows(), read(path, 1))
    assert {r.pattern: r.decision for r in again}["b.org/"] == "yes"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1,b.org/", "2,b.org/", "line 2: it is of iteration 2, and this is 1"),
        (",no,,,", ",no,maybe,,", "decision 'maybe' is none of yes, no and empty"),
        ("1,b.org/,90", "one,b.org/,90", "line 2: invalid literal"),
        ("pattern,", "path,", "column 'pattern' is missing"),
    ],
)
def test_what_cannot_be_understood_is_refused(old, new, said, tmp_path):
    path = tmp_path / "annotate_iter1.csv"
    write(rows(), path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read(path, 1)


def test_missing_files_and_two_minds_are_refused(tmp_path):
    with pytest.raises(InputError, match="there is no annotation file here"):
        read(tmp_path / "annotate_iter1.csv", 1)
    row = rows()[0]
    both = [dataclasses.replace(row, decision=d) for d in ("yes", "no")]
    with pytest.raises(InputError, match="decided as both"):
        accepted(both, auto=False)


def test_what_spreadsheets_do_to_a_file_is_understood(tmp_path):
    path = tmp_path / "annotate_iter1.csv"
    write(rows(), path)
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    lines[1] |= {"share": "0,6", "decision": "yes", "sample_texts": "cut off ["}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows([*lines, dict.fromkeys(COLUMNS, "")])
    back = read(path, 1)
    assert (len(back), back[1].share, back[1].sample_texts) == (3, 0.6, ())
    assert accepted(back, auto=False) == ["a.org/questions/*"]


def test_decisions_on_groups_that_are_not_asked_about_stay():
    decided = [dataclasses.replace(row, decision="no", note="mine") for row in rows()]
    kept = kept_decisions(rows()[:1], decided)
    assert [(row.pattern, row.decision, row.note) for row in kept] == [
        (row.pattern, "no", "mine") for row in rows()
    ]


def test_nothing_that_the_web_wrote_runs(tmp_path):
    pattern = "=cmd.org/x/*"
    bad = [*rows(), make_row(group(pattern, 10, 1), 1, [], 0.5)]
    bad[0] = dataclasses.replace(bad[0], sample_urls=("javascript:alert(1)",))
    path = tmp_path / "annotate_iter1.csv"
    write(bad, path)
    with path.open(encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not any(cell[:1] in ("=", "+", "-", "@") for cell in cells)
    assert pattern in {row.pattern for row in read(path, 1)}
    shown = page(bad)
    assert "<script>" not in shown and 'href="javascript' not in shown
    assert "&lt;script&gt;" in shown
