"""Metrics files, the status line, intervals and the report."""

import json

import pytest

from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.loop import proportion
from dsmath_jax.training.metrics import Metrics, StatusLine, duration, read_metrics
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
    status.update(25, {"loss": 2.5, "time/train": 0.5})
    line = capsys.readouterr().err
    assert line.startswith("sft 25/100 (25%) loss 2.5 [train 0.50s] | ")
    assert line.endswith("to go\n") and "\033" not in line


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


def test_report_shows_curves_and_escapes_what_a_model_wrote(tmp_path, config):
    write(tmp_path, range(1, 6), config)
    (tmp_path / "samples").mkdir()
    sample = {"question": "1<2?", "answer": "1", "reward": 0.0, "ended": "stop"}
    sample["completion"] = "<script>alert(1)</script>"
    (tmp_path / "samples" / "step_1.jsonl").write_text(json.dumps(sample) + "\n")
    page = write_report(tmp_path).read_text()
    assert "data:image/png;base64," in page
    assert "<script>" not in page and "&lt;script&gt;" in page
