"""Stopping: signals set an event; the answer to it is of this call, or of the one before."""

import os
import signal

import jax
import pytest

from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.training.stopping import Agreement, stop_signals


@pytest.mark.parametrize("behind", [False, True])
def test_answers_computed_on_the_devices_come_in_order(behind):
    agreed = Agreement(make_mesh(devices=jax.devices()[:1]), behind=behind)
    agreed.alone = False  # as with several processes
    told = [False, True, False, True, True]
    expected = [False, *told[:-1]] if behind else told
    assert [agreed(stop) for stop in told] == expected
    assert agreed.now(True) and not agreed.now(False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_a_second_interrupt_ends(number):
    before = signal.getsignal(number)
    with stop_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            stop.wait(5)
    assert signal.getsignal(number) is before
