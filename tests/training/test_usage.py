"""Rates of a step, and memory, against numbers by hand."""

import multiprocessing
import time

import numpy as np
import pytest

from dsmath_jax.training.hardware import CHIPS
from dsmath_jax.training.usage import memory, speed


def test_rates_by_hand():
    values = {"tokens": 4000.0, "time/step": 2.0, "time/update": 0.5}
    values |= {"flops/step": 400e12, "flops/update": 300e12}
    rates = speed(values, 4, CHIPS["v5e"])
    assert rates == pytest.approx(
        {
            "tokens_per_s": 2000.0,
            "tokens_per_s_per_chip": 500.0,
            "tflops": 50.0,
            "mfu": 50 / 197,
            "tflops_update": 150.0,
            "mfu_update": 150 / 197,
        }
    )
    assert "mfu" not in speed(values, 4, None)


def _hold(megabytes, ready):
    block = np.ones(megabytes * 2**20, np.uint8)
    ready.set()
    time.sleep(60)
    block.sum()


def test_memory_counts_this_process_and_its_workers():
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    memory()  # starts JAX's backend, which takes memory
    before = memory()["memory/host"]
    assert before > 0.05  # JAX alone is more
    worker = context.Process(target=_hold, args=(200, ready), daemon=True)
    worker.start()
    try:
        assert ready.wait(60)
        assert 0.2 < memory()["memory/host"] - before < 1.5
    finally:
        worker.kill()
        worker.join()
    assert memory()["memory/host"] - before < 0.2
