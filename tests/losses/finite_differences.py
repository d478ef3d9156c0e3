"""Central differences of a float64 numpy function: what a gradient is compared with."""

from collections.abc import Callable

import numpy as np


def numerical_gradient(f: Callable[[np.ndarray], float], x, step: float = 1e-5) -> np.ndarray:
    """df/dx of a scalar function, one element at a time."""
    x = np.array(x, np.float64)
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        value = x[at]
        x[at] = value + step
        above = f(x)
        x[at] = value - step
        below = f(x)
        x[at] = value
        gradient[at] = (above - below) / (2 * step)
    return gradient
