"""What an iteration takes: the same as a plain sort of all rows would, however they are divided."""

import numpy as np
import pytest

from dsmath_jax.mining import collect as ranking
from dsmath_jax.mining import page_rows, row_parts
from dsmath_jax.mining.collect import collect

DATES = ("", "2024-03-01T00:00:00Z", "2024-03-01T00:00:01Z", "2024-03-02", "2023-12-31T23:59:59.5Z")
BUDGETS = {"en": 9000, "zh": 2500}


def make_rows(random, count):
    """Rows of few addresses and texts, so that many are equal."""
    rows = [
        {
            "url_hash": int(address) << 40,
            "url": f"https://a.example/{address}",
            "host": "a.example",
            "language": str(random.choice(["en", "en", "zh", "other"])),
            "score": float(np.float32(random.integers(0, 1000) / 1000)),
            "tokens": int(random.integers(1, 200)),
            "text_hash": int(random.integers(0, count)) << 33,
            "source": 0,
            "offset": offset,
            "length": 10,
            "date": str(random.choice(DATES)),
        }
        for offset, address in enumerate(random.integers(0, count, count))
    ]
    return sorted(rows, key=lambda row: (row["url_hash"], row["offset"]))


def taken_by_sorting(files, budgets, min_score):
    """(file, row) of what is taken, with dictionaries and sorts of all rows."""
    times = {date: n for n, date in enumerate(["", DATES[4], DATES[1], DATES[2], DATES[3]])}
    newest = {}
    for file, rows in enumerate(files):
        for n, row in enumerate(rows):
            before = newest.get(row["url_hash"])
            if before is None or times[row["date"]] > times[files[before[0]][before[1]]["date"]]:
                newest[row["url_hash"]] = file, n
    texts = {}
    for place in newest.values():
        row = files[place[0]][place[1]]
        kept = texts.setdefault(row["text_hash"], place)
        if row["url_hash"] < files[kept[0]][kept[1]]["url_hash"]:
            texts[row["text_hash"]] = place
    found = set()
    for language, budget in budgets.items():
        places = [
            (-row["score"], row["url_hash"], row["tokens"], place)
            for place in texts.values()
            for row in [files[place[0]][place[1]]]
            if row["language"] == language and row["score"] >= np.float32(min_score)
        ]
        for _, _, tokens, place in sorted(places):
            budget -= tokens
            if budget < 0:
                break
            found.add(place)
    return found, len(newest), len(texts)


@pytest.mark.parametrize("part", [10**9, 1000, 37])
@pytest.mark.parametrize("min_score", [0.0, 0.7])
def test_the_same_pages_however_many_parts(tmp_path, monkeypatch, part, min_score):
    monkeypatch.setattr(ranking, "PART", part)
    monkeypatch.setattr(row_parts, "BUFFER", 100)
    random = np.random.default_rng(part)
    files = [make_rows(random, count) for count in (900, 0, 1, 400)]
    paths = [tmp_path / f"{n}.parquet" for n in range(len(files))]
    for rows, path in zip(files, paths, strict=True):
        page_rows.write(rows, page_rows.ROWS, path)
    expected, addresses, texts = taken_by_sorting(files, BUDGETS, min_score)
    found = collect(paths, BUDGETS, tmp_path / "scratch", min_score)
    chosen = list(found.chosen)
    assert [len(which) for which in chosen] == [len(rows) for rows in files]
    assert {(f, n) for f, which in enumerate(chosen) for n in np.flatnonzero(which)} == expected
    assert expected and not (tmp_path / "scratch").exists()
    tokens = sum(files[f][n]["tokens"] for f, n in expected)
    assert found.counts == {
        "pages": 1301,
        "same address": 1301 - addresses,
        "same text": addresses - texts,
        "unique": texts,
        "taken": len(expected),
        "tokens": tokens,
    }
    assert sum(h[0].sum() for h in found.histograms.values()) == texts


def test_no_rows_at_all(tmp_path):
    page_rows.write([], page_rows.ROWS, tmp_path / "rows.parquet")
    found = collect([tmp_path / "rows.parquet"], BUDGETS, tmp_path / "scratch")
    assert [len(which) for which in found.chosen] == [0] and found.counts["taken"] == 0
    assert found.cuts["en"] == (0.0, 2**64 - 1)
