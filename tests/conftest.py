"""Fixtures that every test may use."""

import os
import pathlib

import pytest

REPO = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real data: $DSMATH_DATA, or shared/data beside the repository."""
    path = pathlib.Path(os.environ.get("DSMATH_DATA", REPO.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data: no folder {path} (set DSMATH_DATA)")
    return path
