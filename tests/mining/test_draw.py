"""Drawing pages for training: the same draw whatever the order, without holding all of them."""

import random
import weakref

from dsmath_jax.mining.training_set import draw


class Row(dict):
    """A dictionary that can be watched."""


def test_a_draw_depends_on_no_order_and_holds_few_rows():
    alive = weakref.WeakSet()
    most = 0

    def rows(hashes):
        nonlocal most
        for url_hash in hashes:
            row = Row(url_hash=url_hash)
            alive.add(row)
            most = max(most, len(list(alive)))
            yield row

    Row.__hash__ = object.__hash__
    hashes = list(range(7, 20_000, 3))
    first = [row["url_hash"] for row in draw(rows(hashes), 100, 5, [7, 10])]
    random.Random(0).shuffle(hashes)
    again = [row["url_hash"] for row in draw(rows(hashes + hashes[:50]), 100, 5, [7, 10])]
    assert first == again == sorted(set(first)) and len(first) == 100
    assert most < 1500
    assert first != [row["url_hash"] for row in draw(rows(hashes), 100, 6)]
    assert [row["url_hash"] for row in draw(rows([9, 4]), 100, 5)] == [4, 9]
