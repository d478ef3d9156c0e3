"""Fixtures of the benchmarks' tests."""

import os

import pytest


@pytest.fixture(scope="session")
def tunix_python() -> str:
    """$DSMATH_TUNIX_PYTHON, the Python of an environment that holds google-tunix."""
    if not (path := os.environ.get("DSMATH_TUNIX_PYTHON")):
        pytest.skip("tunix: set DSMATH_TUNIX_PYTHON to the Python of an environment that has it")
    return path
