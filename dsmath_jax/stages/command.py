"""The command line of launch/train.py: reads the configuration, runs its stages, reports errors."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from dsmath_jax import command_line
from dsmath_jax.data.errors import InputError
from dsmath_jax.losses.aggregation import AGGREGATIONS
from dsmath_jax.stages import hosts
from dsmath_jax.stages.defaults import ALGORITHMS, OLD_LOGPROBS, STAGES
from dsmath_jax.training import profile, xla_flags
from dsmath_jax.training.errors import TrainingError


def main(description: str, run: Callable[[ConfigDict], None] | None = None) -> None:
    """Parses flags, starts `run` (by default training) with the configuration, and ends the process
    with its status."""
    for number in (signal.SIGINT, signal.SIGTERM):  # until a training loop handles them
        signal.signal(number, _leave)
    command_line.main(description, functools.partial(_guarded, run or _train))


def _guarded(run: Callable[[ConfigDict], None], config: ConfigDict) -> None:
    try:
        _start(run, config)
    except InputError:
        raise
    except TrainingError as e:
        command_line.end(1, e)
    except Exception as e:
        if message := hosts.lost_host(e):
            command_line.end(1, message)
        if isinstance(e, OSError):
            command_line.end(1, e)
        if not hosts.joined():
            raise
        traceback.print_exc()
        os._exit(1)  # at its end JAX would wait for the other hosts


def _leave(number: int, frame: Any) -> None:
    print("stopped outside of a training step: nothing to save", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _start(run: Callable[[ConfigDict], None], config: ConfigDict) -> None:
    if config.xla_flags and (unknown := xla_flags.apply()):
        print(f"XLA flags that are not known here: {', '.join(unknown)}", file=sys.stderr)
    if "dry_run" in flags.FLAGS and flags.FLAGS.dry_run:  # launch/bench.py has no such flag
        _dry_run(config, flags.FLAGS.dry_run)
    if "tokenise" in flags.FLAGS and flags.FLAGS.tokenise:
        _tokenise(config)
        return
    if config.distributed:
        if not hosts.is_worker():
            os._exit(hosts.supervise())
        hosts.join(config.host_timeout)
    run(config)


def run_directory(config: ConfigDict) -> pathlib.Path:
    """--workdir, by default of the configuration's name."""
    for name, path in (("workdir", flags.FLAGS.workdir), ("config.data.cache", config.data.cache)):
        if re.match(r"[a-z][a-z0-9+.-]*://", path):
            raise InputError(f"--{name}={path}: it must be a directory; mount what is behind it")
    return pathlib.Path(flags.FLAGS.workdir or f"runs/{command_line.config_name()}")


def _train(config: ConfigDict) -> None:
    from dsmath_jax.stages import host_checks

    workdir = run_directory(config)
    if flags.FLAGS.profile:
        config.log.profile = flags.FLAGS.profile
    host_checks.require_same(config.to_dict())
    host_checks.require_shared(workdir, config.host_timeout)
    finished = run_stages(config, workdir)
    print(f"{'done' if finished else 'stopped'}: {workdir}/report.html", file=sys.stderr)


def _tokenise(config: ConfigDict) -> None:
    from dsmath_jax.stages import pretrain, sft

    check_stage(config)
    open_data = {"pretrain": pretrain.open_data, "sft": sft.open_data}.get(config.stage)
    if open_data is None:
        raise InputError("--tokenise is for pretraining and fine-tuning: RL's questions are few")
    for rows in open_data(config, run_directory(config))[1].sources:
        tokens = f"{rows.total:,} tokens in {len(rows.documents):,} documents"
        print(f"{rows.name}: {tokens}, {rows.per_epoch:,} rows of {config.length} an epoch")


def _dry_run(config: ConfigDict, topology: str) -> None:
    """Ends the process: 0 when everything fits, else 1."""
    from dsmath_jax.stages.dry_run import dry_run

    check_stage(config)
    workdir = flags.FLAGS.workdir
    out = pathlib.Path(workdir, "dry_run.json") if workdir else None
    fits = dry_run(config, topology, out, flags.FLAGS.largest_batch)
    sys.stdout.flush()
    os._exit(0 if fits else 1)


def check_stage(config: ConfigDict) -> None:
    if config.stage not in STAGES:
        raise InputError(f"config.stage={config.stage!r}: choose one of {', '.join(STAGES)}")
    check_numbers(config)


def check_numbers(config: ConfigDict) -> None:
    """Refuses numbers that no run can use.

    Raises:
      InputError: names the field.
    """
    fields = command_line.field_values(config)
    profile.parse(config.log.profile)
    at_least_one = ["steps", "batch_size", "length", "micro_batches", "max_bad_steps"]
    at_least_one += ["host_timeout"]
    at_least_one += ["spikes.window", "spikes.max_in_a_row"]
    at_least_one += ["eval.batch_size", "checkpoint.every", "checkpoint.keep"]
    at_least_one += ["log.every", "log.samples_every", "data.num_examples"]
    if config.spikes.sigmas <= 0:
        raise InputError(f"config.spikes.sigmas={config.spikes.sigmas}: must be above 0")
    if config.stage == "rl":
        if config.spikes.skip:
            raise InputError("config.spikes.skip=True: not for RL, whose loss is around 0")
        at_least_one += ["rl.questions", "rl.group", "rl.max_new_tokens", "rl.max_rows"]
        at_least_one += ["rl.updates_per_step"]
        _check_rl(config.rl)
    for name in at_least_one:
        if fields[name] < 1:
            raise InputError(f"config.{name}={fields[name]}: must be at least 1")


def _check_rl(rl: ConfigDict) -> None:
    choices = {
        "aggregation": AGGREGATIONS,
        "algorithm": ALGORITHMS,
        "old_logprobs": OLD_LOGPROBS,
    }
    for name, known in choices.items():
        if rl[name] not in known:
            raise InputError(f"config.rl.{name}={rl[name]!r}: choose one of {', '.join(known)}")
    if rl.temperature <= 0:
        raise InputError(f"config.rl.temperature={rl.temperature}: must be above 0")
    for name in ("kl_coef", "importance_cap", "dynamic_sampling"):
        if rl[name] < 0:
            raise InputError(f"config.rl.{name}={rl[name]}: must be 0 or more")
    if rl.importance_cap and rl.old_logprobs != "recompute":
        raise InputError(
            f"config.rl.importance_cap={rl.importance_cap} weighs the trainer's log-probabilities "
            "against the sampler's: set config.rl.old_logprobs=recompute"
        )
    if rl.algorithm == "grpo" and rl.group == 1:
        raise InputError(
            "config.rl.group=1: GRPO compares the samples of a question, and one alone always has "
            "the advantage 0; take at least 2, or config.rl.algorithm=ppo"
        )
    if rl.algorithm == "ppo" and rl.dynamic_sampling:
        raise InputError(
            f"config.rl.dynamic_sampling={rl.dynamic_sampling}: PPO compares no samples of a group"
        )
    if rl.ahead and rl.tensor > 1:
        raise InputError(
            f"config.rl.ahead needs config.rl.tensor=1, not {rl.tensor}: devices that add up their "
            "parts of a token while others update could wait for each other for ever"
        )


def run_stages(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Runs the stage of `config`, after that of `config.init.stage` if there is one.

    Returns:
      Whether it ran to its end (False: a signal stopped it; what it did is saved).
    """
    from dsmath_jax.stages import pretrain, rl, sft

    check_stage(config)
    if config.init.stage:
        before = workdir / "init"
        if not run_stages(config.init.stage, before):
            return False
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.init.stage = ConfigDict()
        config.init.checkpoint = str(before)
    stage = {"pretrain": pretrain.train, "sft": sft.train, "rl": rl.train}[config.stage]
    return stage(config, workdir).finished
