"""Connected components of a graph given as a list of edges."""

import numpy as np


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Labels each of `count` nodes with the smallest node it is connected to.

    Union-find without recursion or order: every round hooks the larger root of each edge under the
    smaller, then points each node at its root, until no edge joins two roots.

    Args:
      left, right: [edges] integers from 0 to count - 1, the ends of each edge.

    Returns:
      [count] int64 labels, the same for any order of the edges.
    """
    label = np.arange(count)
    while True:
        a, b = label[left], label[right]
        apart = a != b
        if not apart.any():
            return label
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(label, roots := label[label]):
            label = roots
