"""Domains with a share collected, and groups of their pages that share or do not."""

import zlib

import pytest

from dsmath_jax.mining.domains import (
    SAMPLES,
    Page,
    Patterns,
    Sample,
    add_groups,
    count_groups,
    pattern_of,
    to_ask,
)


@pytest.mark.parametrize(
    ("url", "depth", "pattern"),
    [
        ("https://www.A.org/questions/123/title", 1, "a.org/questions/*"),
        ("https://a.org/questions/123/title", 2, "a.org/questions/#/*"),
        ("https://a.org/questions/123/title", 3, "a.org/questions/#/"),
        ("https://a.org/page.html", 1, "a.org/"),
        ("http://a.org", 2, "a.org/"),
        ("https://a.org/x/page", 0, "a.org/*"),
        ("mailto:someone", 1, ""),
    ],
)
def test_a_pattern_says_what_is_in_its_group(url, depth, pattern):
    assert pattern_of(url, depth) == pattern
    if pattern:
        assert url in Patterns([pattern])
        assert url not in Patterns(["a.org/other/*", "b.org/*", pattern + "x"])


def page(path, collected):
    order = zlib.crc32(path.encode())
    return Page(
        collected, 0.75 if collected else 0.25, Sample(order, f"https://a.org/{path}", 0, 0, 0)
    )


def test_groups_are_divided_where_their_parts_differ():
    pages = [page(f"~ann/algebra/{n}.html", n < 5) for n in range(10)]
    pages += [page(f"~ann/photos/{n}.html", False) for n in range(10)]
    pages += [page(f"news/{n % 2}/{n}.html", False) for n in range(10)]
    pages += [page("about.html", False)]
    groups = {g.pattern: g.count for g in to_ask(count_groups(pages))}
    assert set(groups) == {
        "a.org/",
        "a.org/~ann/algebra/*",
        "a.org/~ann/photos/*",
        "a.org/news/*",
    }
    assert groups["a.org/~ann/algebra/*"][:2] == (10, 5)
    assert sum(c.pages for c in groups.values()) == len(pages)
    for each in pages:
        url = each.sample.url
        assert sum(url in Patterns([pattern]) for pattern in groups) == 1


def test_a_group_whose_parts_are_alike_stays_whole():
    pages = [page(f"q/{n}/{m}", m < 3) for n in range(10, 14) for m in range(6)]
    assert [g.pattern for g in to_ask(count_groups(pages))] == ["a.org/q/*"]


def test_groups_of_shards_add_up_to_those_of_all_pages():
    pages = [page(f"q/{n % 7}/{n}", n % 3 == 0) for n in range(3000)]
    whole = count_groups(pages)
    assert add_groups([count_groups(pages[1::2]), count_groups(pages[::2])]) == whole
    first = next(g for g in whole if g.pattern == "a.org/q/*" and g.depth == 1)
    assert first.count == (3000, 1000, 1000 * 0.75 + 2000 * 0.25)
    left = sorted(p.sample for p in pages if not p.collected)
    assert list(first.samples) == left[:SAMPLES]
