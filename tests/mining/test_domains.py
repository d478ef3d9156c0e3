"""Domains with a share collected, and groups of their pages that share or do not."""

import pytest

from dsmath_jax.mining.domains import (
    Count,
    Patterns,
    add,
    count,
    mathematical,
    path_groups,
    pattern_of,
)


def test_counts_of_shards_add_up_in_any_order():
    a = count(["x.org", "y.org", "x.org"], [True, False, False], [0.9, 0.1, 0.3])
    b = count(["y.org"], [True], [0.7])
    assert add([a, b]) == add([b, a])
    assert add([a, b])["x.org"] == Count(2, 1, pytest.approx(1.2))
    assert add([a, b])["y.org"].share == 0.5


def test_domains_above_the_share_by_pages_to_gain():
    domains = {
        "ten.org": Count(100, 10, 0.0),  # exactly the share: not more
        "eleven.org": Count(100, 11, 0.0),
        "small.org": Count(5, 5, 0.0),
        "large.org": Count(1000, 200, 0.0),
    }
    assert mathematical(domains) == ["large.org", "eleven.org"]


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
    return f"https://a.org/{path}", collected, 0.9 if collected else 0.2


def test_groups_are_divided_where_their_parts_differ():
    pages = [page(f"~ann/algebra/{n}.html", n < 5) for n in range(10)]
    pages += [page(f"~ann/photos/{n}.html", False) for n in range(10)]
    pages += [page(f"news/{n % 2}/{n}.html", False) for n in range(10)]
    pages += [page("about.html", False)]
    groups = {g.pattern: g.count for g in path_groups(pages)}
    assert set(groups) == {
        "a.org/",
        "a.org/~ann/algebra/*",
        "a.org/~ann/photos/*",
        "a.org/news/*",
    }
    assert groups["a.org/~ann/algebra/*"][:2] == (10, 5)
    assert sum(c.pages for c in groups.values()) == len(pages)
    for url, _, _ in pages:
        assert sum(url in Patterns([pattern]) for pattern in groups) == 1


def test_a_group_whose_parts_are_alike_stays_whole():
    pages = [page(f"q/{n}/{m}", m < 3) for n in range(10, 14) for m in range(6)]
    assert [g.pattern for g in path_groups(pages)] == ["a.org/q/*"]
