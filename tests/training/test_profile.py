"""--profile: a trace of the steps asked for, in the files that viewers open."""

import gzip
import json

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.training.profile import parse


@pytest.mark.parametrize(
    ("which", "steps"), [("20:5", (20, 5)), ("7", (7, 3)), ("next", (0, 3)), ("next:1", (0, 1))]
)
def test_which_steps(which, steps):
    assert parse(which) == steps


@pytest.mark.parametrize("which", ["0", "3:0", "five", "-1", "2:", "1:2:3"])
def test_anything_else_is_refused(which):
    with pytest.raises(InputError, match="--profile="):
        parse(which)


def test_trace_has_the_steps_and_their_lines_no_speed(launch, tmp_path):
    process = launch(
        "train.py",
        "--config=configs/sft_tiny.py:smoke",
        f"--workdir={tmp_path}",
        "--profile=2:1",
        check=True,
    )
    assert "trace of steps 2 to 2" in process.stderr
    (session,) = (tmp_path / "profile" / "plugins" / "profile").iterdir()
    assert list(session.glob("*.xplane.pb"))  # TensorBoard's
    with gzip.open(session / "perfetto_trace.json.gz") as file:
        events = json.load(file)["traceEvents"]
    steps = [e["args"]["step_num"] for e in events if e.get("name") == "train"]
    assert [int(s) for s in steps] == [2]
    rows = {
        r["step"]: r for r in map(json.loads, (tmp_path / "metrics.jsonl").open()) if "loss" in r
    }
    assert [step for step, row in rows.items() if "tokens_per_s" in row] == [1, 3]
    assert "time/step" not in rows[2] and "loss" in rows[2]
