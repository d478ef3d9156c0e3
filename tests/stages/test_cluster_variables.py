"""What the variables that say who is who may be."""

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.stages.hosts import check_variables, no_cluster


def test_what_a_cluster_may_say_is_not_asked_for():
    check_variables(None, None, None)
    check_variables("10.0.0.1:1234", None, None)  # Slurm knows the rest
    check_variables("10.0.0.1:1234", 2, 1)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (("10.0.0.1", 2, 0), "JAX_COORDINATOR_ADDRESS=10.0.0.1: it must be HOST:PORT"),
        (("10.0.0.1:1234", 2, 2), "JAX_PROCESS_ID=2: with JAX_NUM_PROCESSES=2 it is 0 to 1"),
    ],
)
def test_the_wrong_one_is_named(variables, message):
    with pytest.raises(InputError, match=message):
        check_variables(*variables)


def test_without_a_cluster_the_missing_variable_is_named():
    error = ValueError("The process id of the current process must be defined.")
    said = no_cluster(error, "10.0.0.1:1234", 2, None)
    assert said.startswith("JAX_PROCESS_ID: JAX cannot tell") and "distributed=False" not in said
    assert "--config.distributed=False" in no_cluster(error, None, None, None)
