"""A guarded call: results in order, and the reason for each that has none."""

import functools
import operator
import os
import time

import pytest

from dsmath_jax.mining.guard import guarded
from dsmath_jax.mining.pages import Page, Rejected
from tests.mining.guarded_functions import behave, process_id


def page(url, body=b""):
    return Page(url, body, "html", "", "a.warc.gz", 7, 9)


def test_each_failure_is_named_and_the_rest_goes_on():
    urls = ["a", "hang", "b", "die", "leave", "eat", "raise", "c"]
    start = time.monotonic()
    results = list(guarded(behave, map(page, urls), seconds=1.0, memory=1 << 29))
    assert time.monotonic() - start < 15
    reasons = {r.url: r.reason for r in results if isinstance(r, Rejected)}
    assert reasons == {
        "hang": "timeout",
        "die": "crash",
        "leave": "crash",
        "eat": "memory",
        "raise": "error: ZeroDivisionError",
    }
    assert [r if isinstance(r, str) else r.url for r in results] == [
        *["A", "hang", "B", "die", "leave", "eat", "raise", "C"]
    ]
    assert results[1] == Rejected("a.warc.gz", 7, "hang", "timeout")


def test_pages_and_results_larger_than_a_pipe():
    pages = [page("big", bytes([i]) * 300_000) for i in range(5)]
    results = list(guarded(behave, pages))
    assert [(len(r), r[0]) for r in results] == [(15_000_000, i) for i in range(5)]


def test_one_child_serves_many_items_and_ends_with_the_reader():
    calls = guarded(process_id, (page(str(i)) for i in range(100)))
    child = next(calls)
    assert child != os.getpid()
    assert {next(calls) for _ in range(50)} == {child}
    calls.close()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_partial_of_any_importable_function():
    add = functools.partial(operator.attrgetter("url"))
    assert list(guarded(add, [page("x")])) == ["x"]
