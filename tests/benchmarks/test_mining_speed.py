"""The benchmark of mining: what it counts, and what it says about wrong input."""

import os
import runpy

import pytest

pytest.importorskip("selectolax", reason="needs the extra mining")

from dsmath_jax.benchmarks import mining
from dsmath_jax.data.errors import InputError
from tests.conftest import REPO

CHANGES = {
    "generated.pages": 120,
    "classifier.dim": 4,
    "classifier.buckets": 5000,
    "classifier.min_count": 1,
    "measure.rounds": 2,
    "measure.formulas": 3,
}


def small_config(**changes):
    config = runpy.run_path(str(REPO / "configs" / "bench" / "mining.py"))["get_config"]()
    config.update_from_flattened_dict(CHANGES | changes)
    return config


def check(numbers):
    for name in ("score", "score_wet", "extract"):
        side = numbers[name]
        assert 0 < side["pages_per_s_lowest"] <= side["pages_per_s"] <= side["pages_per_s_highest"]
        # No page takes less than 20 microseconds: else a round found its work done already.
        assert side["pages_per_s_highest"] < 50_000 and 0 < side["pages_per_cpu_s"] < 50_000
        assert 0.05 < side["peak_memory_gb"] < 2
    files = numbers["input"]
    assert 100 < files["pages"]["pages"] == files["wet"]["pages"] > files["formulas"]["pages"] > 0
    assert files["pages"]["bytes"] > 2 * files["pages"]["bytes_stored"]
    # Of a page that is scored a row is left, of one that is extracted its text.
    assert 20 < numbers["score"]["bytes_written_per_page"] < 300
    assert numbers["extract"]["bytes_written_per_page"] > 300


def test_stages_on_generated_pages():
    numbers = mining.run(small_config())
    check(numbers)
    assert "datatrove" not in numbers


def test_beside_datatrove():
    if not (python := os.environ.get("DSMATH_DATATROVE_PYTHON")):
        pytest.skip("datatrove: set DSMATH_DATATROVE_PYTHON to the Python of an environment of it")
    numbers = mining.run(small_config(**{"measure.datatrove": python}))
    check(numbers)
    theirs = numbers["datatrove"]
    assert theirs["bytes_written_per_page"] > 0
    low, middle, high = (theirs[f"ours_over_theirs{end}"] for end in ("_lowest", "", "_highest"))
    assert 0 < low <= middle <= high


@pytest.mark.parametrize(
    "change, said",
    [
        ({"measure.rounds": 0}, "config.measure.rounds"),
        ({"measure.core": 4096}, "config.measure.core=4096"),
        ({"measure.formulas": 10**6}, "config.measure.formulas=1000000"),
        ({"measure.datatrove": "/no/python"}, "docs/mining_speed.md"),
    ],
)
def test_wrong_input_is_named(change, said):
    with pytest.raises(InputError, match=said):
        mining.run(small_config(**change))
