"""The loop's line of a step, with a stage and checkpoints made up for it."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.loop import run
from dsmath_jax.training.metrics import read_metrics
from dsmath_jax.training.state import TrainState


class Kept:
    """Checkpoints in memory."""

    step = None

    def latest_step(self):
        return self.step

    def save(self, step, state, data, *, force=False):
        self.step = step

    def close(self):
        pass


class Slow:
    """Batches that take a while."""

    seconds = 0.1

    def __next__(self):
        time.sleep(self.seconds)

    def get_state(self):
        return {}


class Device:
    """Computes one number after another, each in 0.2 s, while the host goes on."""

    def __init__(self):
        self.free = 0.0

    def __call__(self, value):
        self.free = end = max(self.free, time.monotonic()) + 0.2

        class Later(float):
            def is_ready(self):
                return time.monotonic() >= end

            def __float__(self):
                time.sleep(max(0.0, end - time.monotonic()))
                return float.__add__(self, 0.0)

        return Later(value)


def lines(
    workdir, *, loss=float, eval_every=0, data=None, waits=False, kept=None, every=9, **metrics
):
    config = get_defaults("sft")
    config.steps, config.log.tensorboard, config.eval.every = 4, False, eval_every
    config.checkpoint.every = every
    layout = NamedSharding(make_mesh(devices=jax.devices()[:1]), PartitionSpec())
    state = TrainState(jnp.int32(0), {"w": jax.device_put(jnp.ones(2), layout)}, None, 0)

    def step_fn(state, batch, step, phases):
        values = {"loss": loss(step), "grad_norm": 1.0, "bad_steps": 0} | metrics
        return state._replace(step=state.step + 1), values

    run(
        config,
        workdir,
        kept or Kept(),
        data or Slow(),
        step_fn,
        new_state=lambda: state,
        abstract=state,
        evaluate=lambda state, step: time.sleep(0.3) or {},
        learning_rate=lambda step: 0.1,
        waits=waits,
    )
    return read_metrics(workdir)


def test_waiting_for_data_counts_while_the_devices_have_nothing_to_do(tmp_path):
    idle = lines(tmp_path, loss=jnp.float32)[1:3]
    for row in idle:
        assert row["time/data"] > 0.09
        assert row["data_wait"] == pytest.approx(row["time/data"] / row["time/step"])
        assert row["data_wait"] > 0.5


def test_a_batch_that_comes_while_the_devices_work_costs_nothing(tmp_path):
    rows = lines(tmp_path, loss=Device())
    # Before the first step there is nothing to do: 0.1 s for its batch, then 0.2 s of work.
    assert rows[0]["data_wait"] == pytest.approx(1 / 3, abs=0.1)
    assert [row["data_wait"] for row in rows[1:]] == [0.0] * 3


@pytest.mark.parametrize("eval_every", [0, 1, 2])
def test_a_steps_time_is_its_own_also_after_an_evaluation(eval_every, tmp_path):
    fast = Slow()
    fast.seconds = 0.0
    rows = lines(tmp_path, loss=Device(), eval_every=eval_every, data=fast)
    assert len(rows) == 4
    for row in rows:
        assert row["time/step"] == pytest.approx(0.2, abs=0.08)


def test_a_save_is_in_the_line_of_the_step_that_it_held_up(tmp_path):
    class Saved(Kept):
        def save(self, step, state, data, **_):
            super().save(step, state, data)
            time.sleep(0.1)

    rows = lines(tmp_path, waits=True, kept=Saved(), every=2)
    assert [row.get("time/save", 0.0) > 0.09 for row in rows] == [False, False, True, False]
    assert rows[2]["time/step"] == pytest.approx(0.2, abs=0.08)  # 0.1 s of data besides


def test_a_step_that_waits_has_its_own_data_wait(tmp_path):
    def waited(step):
        time.sleep(0.1)
        return step

    for row in lines(tmp_path, loss=waited, waits=True):
        assert row["time/step"] == pytest.approx(0.2, abs=0.08)
        assert row["data_wait"] == pytest.approx(0.5, abs=0.2)


def test_a_step_has_rates_and_memory(tmp_path):
    row = lines(tmp_path, tokens=500, **{"flops/step": 8e9})[2]
    devices = jax.device_count()
    np.testing.assert_allclose(row["tokens_per_s"] * row["time/step"], 500)
    np.testing.assert_allclose(row["tokens_per_s_per_chip"] * devices, row["tokens_per_s"])
    np.testing.assert_allclose(row["tflops"] * row["time/step"] * devices, 0.008)
    assert row["memory/host"] > 0.05
    assert not any(name.startswith("flops/") for name in row)


def test_a_spike_gets_a_sentence(tmp_path, capsys):
    spike = {"spike/now": True, "spike/skipped": True, "spikes": 3}
    spike |= {"spike/loss_limit": 2.5, "spike/grad_norm_limit": 0.75}
    rows = lines(tmp_path, loss=lambda step: 9.0, **spike)
    assert (
        "step 2 is a spike, skipped: loss 9 (limit 2.5), gradient norm 1 (limit 0.75); 3 so far\n"
    ) in capsys.readouterr().err
    assert not any(name.startswith("spike/") for row in rows for name in row)
