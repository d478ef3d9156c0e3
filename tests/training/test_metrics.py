"""Metrics files, the status line, intervals and the report."""

import json

import jax
import pytest

from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.loop import proportion
from dsmath_jax.training.metrics import Metrics, StatusLine, duration, read_metrics
from dsmath_jax.training.provenance import provenance
from dsmath_jax.training.report import write_report


@pytest.fixture
def config():
    config = get_defaults("sft")
    config.log.tensorboard = False
    return config


def write(workdir, steps, config, first=0):
    metrics = Metrics(workdir, config, first)
    for step in steps:
        metrics.write(step, {"loss": 1.0 / step})
    metrics.close()


@pytest.mark.parametrize(("resumed_at", "kept"), [(3, [1, 2, 3]), (0, [])])
def test_lines_that_will_be_written_again_are_dropped(resumed_at, kept, tmp_path, config):
    write(tmp_path, range(1, 6), config)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # cut short by a kill
    write(tmp_path, [resumed_at + 1], config, first=resumed_at)
    assert [row["step"] for row in read_metrics(tmp_path)] == [*kept, resumed_at + 1]


def test_tensorboard_gets_the_numbers(tmp_path, config):
    config.log.tensorboard = True
    write(tmp_path, [1, 2], config)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()


def test_status_line_without_a_terminal(capsys):
    status = StatusLine("sft", 100, every=0.0)
    status.update(25, {"loss": 2.5, "time/update": 0.5})
    line = capsys.readouterr().err
    assert line.startswith("sft 25/100 (25%) loss 2.5 [update 0.50 s] | ")
    assert line.endswith("to go\n") and "\033" not in line


def test_status_line_does_not_take_the_first_step_for_the_pace(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("dsmath_jax.training.metrics.time.monotonic", lambda: now[0])
    status = StatusLine("sft", 102, every=0.0)
    for step, seconds in ((1, 100.0), (2, 102.0)):  # the first compiles
        now[0] = seconds
        status.update(step, {})
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("1m40s done, ? to go")
    assert second.endswith("1m42s done, 3m20s to go")


def test_status_line_keeps_what_matters_within_its_width(capsys):
    values = dict.fromkeys(("loss", "reward", "kl", "grad_norm", "learning_rate"), -0.000123456)
    values |= {"tokens_per_s": 1234567.0, "mfu": 0.5123, "data_wait": 0.02, "skipped": 3.0}
    values |= {"memory/host": 123.4, "memory/device": 81.2, "time/step": 30.0, "time/reshard": 0.01}
    status = StatusLine("rl", 100_000, every=0.0)
    status.update(12_345, values | {f"time/{k}": 12.3 for k in ("generate", "update")})
    line = capsys.readouterr().err.rstrip("\n")
    assert "skipped 3 | 1.23M tokens/s MFU 51.2% [step 30.00" in line
    assert "generate 12.30" in line
    assert "reshard" not in line  # under 1% of the step
    status.update(12_346, values | {f"time/{k}": 12.3 for k in ("generate", "logprob", "update")})
    assert len(line) <= 160 and len(capsys.readouterr().err.rstrip("\n")) <= 160


def test_seconds_of_a_run_add_up_over_its_starts(tmp_path, config, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("dsmath_jax.training.metrics.time.monotonic", lambda: now[0])
    for first in (0, 1):
        metrics = Metrics(tmp_path, config, first)
        now[0] += 7.0
        metrics.write(first + 1, {"loss": 1.0})
        now[0] += 100.0  # lost with a kill
    assert [row["time/run"] for row in read_metrics(tmp_path)] == [7.0, 14.0]


def test_status_line_is_not_printed_more_often_than_asked(capsys):
    status = StatusLine("sft", 100, every=1000.0)
    for step in range(1, 100):
        status.update(step, {})
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (185, "3m05s"), (3720, "1h02m")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_wilson_interval_of_a_known_case():
    # 15 of 20: 0.531 to 0.888 (Newcombe 1998 gives the method; worked by hand)
    interval = proportion(15, 20, "x")
    assert interval["x"] == 0.75
    assert interval["x_low"] == pytest.approx(0.5313, abs=1e-3)
    assert interval["x_high"] == pytest.approx(0.8881, abs=1e-3)


def test_report_says_what_started_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["launch/train.py", "--config=configs/<x>.py"])
    (tmp_path / "starts.jsonl").write_text(json.dumps(provenance()) + '\n{"cut')
    page = write_report(tmp_path).read_text()
    assert "python launch/train.py" in page and "--config=configs/&lt;x&gt;.py" in page
    assert jax.__version__ in page


def test_report_shows_curves_and_escapes_what_a_model_wrote(tmp_path, config):
    write(tmp_path, range(1, 6), config)
    (tmp_path / "samples").mkdir()
    sample = {"question": "1<2?", "answer": "1", "reward": 0.0, "ended": "stop"}
    sample["completion"] = "<script>alert(1)</script>"
    (tmp_path / "samples" / "step_1.jsonl").write_text(json.dumps(sample) + "\n")
    page = write_report(tmp_path).read_text()
    assert "data:image/png;base64," in page
    assert "<script>" not in page and "&lt;script&gt;" in page
