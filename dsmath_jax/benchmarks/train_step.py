"""Tokens/s, MFU, seconds by phase and memory of the update step that supervised training runs."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.benchmarks.torch_step import TorchStep
from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig, preset
from dsmath_jax.models.flops import causal_pairs, train_flops
from dsmath_jax.stages import setup
from dsmath_jax.stages.supervised import make_programs
from dsmath_jax.training.hardware import chip_of
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.spikes import SpikeRule
from dsmath_jax.training.state import init_state
from dsmath_jax.training.update import apply_gradient


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds of `config.measure.steps` steps on random tokens,
    one segment a row; with `config.measure.torch`, each round is followed by one of torch's."""
    if config.measure.steps < 1 or config.measure.rounds < 1:
        raise InputError("config.measure.steps and config.measure.rounds must be at least 1")
    model_config = preset(config.model, **config.model_changes)
    ours = TrainStep(config, model_config)
    if not config.measure.torch:
        times = [_round(ours, n, config) for n in range(config.measure.rounds)]
        return ours.numbers(times) | {"seconds": ours.phases(statistics.median(times))}
    times, their_times = [], []
    with TorchStep(config, model_config) as theirs:
        for n in range(config.measure.rounds):
            times.append(_round(ours, n, config))
            their_times.append(theirs.steps(config.measure.steps))
    tokens = config.batch_size * config.length
    ratios = sorted(their / our for our, their in zip(times, their_times, strict=True))
    return ours.numbers(times) | {
        "seconds": ours.phases(statistics.median(times)),
        "torch": {
            "tokens_per_s": tokens / statistics.median(their_times),
            "ours_over_torch": statistics.median(ratios),
            "ours_over_torch_lowest": ratios[0],
            "ours_over_torch_highest": ratios[-1],
        },
    }


def _round(ours: TrainStep, number: int, config: ConfigDict) -> float:
    seconds = ours.steps(config.measure.steps)
    said = f"round {number + 1} of {config.measure.rounds}: {seconds:.3g} s a step"
    print(said, file=sys.stderr, flush=True)
    return seconds


class TrainStep:
    """The compiled update of `config`, its state and a batch, as `stages.supervised` makes them."""

    def __init__(self, config: ConfigDict, model_config: ModelConfig):
        self.config, self.model_config = config, model_config
        self.mesh = setup.open_mesh(config)
        setup.check_parts(config.batch_size, config, self.mesh, "config.batch_size")
        self.optimizer = make_optimizer(config.optimizer, config.steps)
        model = setup.open_model(config, model_config)
        self.programs = make_programs(config, model, self.optimizer)
        shape = (config.batch_size, config.length)
        self.rows = {
            "tokens": np.random.default_rng(config.seed).integers(
                2, model_config.vocab_size, shape, np.int32
            ),
            "positions": np.broadcast_to(np.arange(config.length, dtype=np.int32), shape),
            "segment_ids": np.ones(shape, np.int32),
            "loss_mask": np.ones(shape, np.float32),
        }
        self.seconds: dict[str, float] = {}
        with jax.set_mesh(self.mesh):
            params = setup.initial_params(config, model_config, self.mesh)
            self.state = init_state(params, self.optimizer, self.mesh, model_config)
            batch = setup.put_batch(self.rows, self.mesh)
            start = time.perf_counter()
            lowered = self.programs.update.lower(self.state, batch)
            self.seconds["trace"] = time.perf_counter() - start
            start = time.perf_counter()
            self.update = lowered.compile()
            self.seconds["compile"] = time.perf_counter() - start
        print(f"compiled in {self.seconds['compile']:.3g} s", file=sys.stderr, flush=True)
        self.steps(1)

    def steps(self, count: int) -> float:
        """Seconds a step over `count` of them in a row, batches from the host included."""
        with jax.set_mesh(self.mesh):
            start = time.perf_counter()
            for _ in range(count):
                batch = setup.put_batch(self.rows, self.mesh)
                self.state, _ = self.update(self.state, batch)
            jax.block_until_ready(self.state)
            return (time.perf_counter() - start) / count

    def numbers(self, times: list[float]) -> dict[str, Any]:
        """Speed from seconds a step, and memory."""
        step = statistics.median(times)
        c, mc = self.config, self.model_config
        tokens = c.batch_size * c.length
        flops = train_flops(mc, tokens, causal_pairs([c.length] * c.batch_size))
        devices = self.mesh.devices.flatten()
        peak, source = peak_flops(devices[0], jnp.dtype(c.dtype))
        return {
            "parameters": sum(x.size for x in jax.tree.leaves(self.state.params)),
            "tokens_per_step": tokens,
            "tokens_per_s": tokens / step,
            "tokens_per_s_lowest": tokens / max(times),
            "tokens_per_s_highest": tokens / min(times),
            "mfu": flops / step / (peak * len(devices)),
            "flops_per_step": flops,
            "peak_flops_per_device": peak,
            "peak_from": source,
            "memory": self.memory(devices[0]),
        }

    def memory(self, device: jax.Device) -> dict[str, int | None]:
        """Bytes: of the compiled step on one device, of the device at its peak, of this process."""
        compiled = self.update.memory_analysis()
        return {
            "state_and_batch": compiled.argument_size_in_bytes,
            "temporary": compiled.temp_size_in_bytes,
            "device_peak": (device.memory_stats() or {}).get("peak_bytes_in_use"),
            "host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def phases(self, step: float) -> dict[str, float]:
        """Seconds: tracing and compiling once; of a step, and of its parts compiled alone and run
        one by one (their sum is not the step's, which overlaps and fuses them)."""
        programs, rounds = self.programs, self.config.measure.rounds
        seconds = self.seconds | {"step": step}
        with jax.set_mesh(self.mesh):
            batch = setup.put_batch(self.rows, self.mesh)
            seconds["feed"] = timed(setup.put_batch, rounds, self.rows, self.mesh)
            params = self.state.params
            seconds["forward"] = timed(programs.heldout_sums, rounds, params, batch)
            both = timed(programs.gradient, rounds, params, batch)
            seconds["backward"] = both - seconds["forward"]
            gradient = programs.gradient(params, batch)
            del params  # the optimizer reuses their memory
            seconds["optimizer"] = timed(self._apply(gradient), rounds)
        return seconds

    def _apply(self, gradient) -> Callable[[], Any]:
        rule = SpikeRule.of(self.config)

        def apply(state, gradient):
            return apply_gradient(self.optimizer, state, *gradient, rule)

        program = jax.jit(apply, donate_argnums=0)

        def call():
            self.state, metrics = program(self.state, gradient)
            return self.state, metrics

        return call


def timed(call: Callable[..., Any], rounds: int, *args: Any) -> float:
    """Median seconds of call(*args) with its result ready, after one that compiles."""
    jax.block_until_ready(call(*args))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call(*args))
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_flops(device: jax.Device, dtype: Any) -> tuple[float, str]:
    """(FLOP/s, where they come from): the maker's for a known chip, else of a matrix product that
    is measured here."""
    if chip := chip_of(device):
        return chip.flops, f"{chip.name}, its maker's bfloat16 figure"
    size = 2048
    x = jax.device_put(jnp.ones((size, size), dtype), device)
    multiply = jax.jit(jnp.matmul)
    return 2 * size**3 / timed(multiply, 5, x, x), f"{size}^3 {dtype} product, measured"
