"""What the variables that say who is who may be."""

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.stages.hosts import check_variables


def test_all_or_none():
    check_variables(None, None, None)
    check_variables("10.0.0.1:1234", 2, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (("10.0.0.1:1234", 2, None), "JAX_PROCESS_ID is not set"),
        ((None, 2, 0), "JAX_COORDINATOR_ADDRESS is not set"),
        (("10.0.0.1", 2, 0), "JAX_COORDINATOR_ADDRESS=10.0.0.1: it must be HOST:PORT"),
        (("10.0.0.1:1234", 2, 2), "JAX_PROCESS_ID=2: with JAX_NUM_PROCESSES=2 it is 0 to 1"),
    ],
)
def test_the_wrong_one_is_named(variables, message):
    with pytest.raises(InputError, match=message):
        check_variables(*variables)
