"""Samples/s of whole GRPO steps of the RL stage, beside tunix's learner on the same machine."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import Side, TunixSide, check_tunix, module_command, spread
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.prompts import encode_prompt
from dsmath_jax.data.tokenizers import Tokenizer, train_sentencepiece
from dsmath_jax.data.word_problems import Problem, generate
from dsmath_jax.stages import setup
from dsmath_jax.stages.command import check_stage


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds: in each, a run of ours of `config.measure.steps`
    steps after `config.measure.left_out` that compile, and then one of tunix's, each in a new
    process."""
    _check(config)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        problems = list(generate(config.data.num_examples, seed=config.data.seed))
        tokenizer = _write_tokenizer(problems, folder, config.tokenizer_vocab)
        longest = longest_prompt(problems, tokenizer, config)
        _write_data(problems, folder / "problems.jsonl")
        ours, theirs = [], []
        for number in range(1, config.measure.rounds + 1):
            ours.append(our_round(config, folder, number))
            said = f"ours {ours[-1]['samples_per_s']:.3g} samples/s"
            if config.measure.tunix:
                theirs.append(tunix_round(config, folder, tokenizer, longest))
                said += f", tunix {theirs[-1]['samples_per_s']:.3g} samples/s"
            print(f"round {number} of {config.measure.rounds}: {said}", file=sys.stderr, flush=True)
    numbers: dict[str, Any] = {"samples_per_step": config.rl.questions * config.rl.group}
    numbers["ours"] = summary(ours)
    if theirs:
        pairs = zip(ours, theirs, strict=True)
        ratios = [a["samples_per_s"] / b["samples_per_s"] for a, b in pairs]
        numbers["tunix"] = summary(theirs) | spread("ours_over_theirs", ratios)
    return numbers


def our_round(config: ConfigDict, folder: pathlib.Path, number: int) -> dict[str, Any]:
    """Numbers of one run of the RL stage, from its metrics."""
    c = config.copy_and_resolve_references()
    with c.unlocked():
        c.tokenizer = str(folder / "tokenizer")
        c.data.path = str(folder / "problems.jsonl")
        c.steps = config.measure.left_out + config.measure.steps
        c.checkpoint.every, c.log.every = c.steps, 1
        del c.bench, c.measure
    settings = {"config": c.to_dict(), "workdir": str(folder / f"run_{number}")}
    with Side("ours", module_command("dsmath_jax.benchmarks.rl_training"), settings) as side:
        rows = side.ask("run")
        peak = side.peak_memory()
    timed = rows[config.measure.left_out :]
    numbers = _numbers(config, [row["time/step"] for row in rows], peak)
    numbers["completion_length"] = statistics.mean(row["completion_length"] for row in timed)
    numbers["reward"] = statistics.mean(row["reward"] for row in timed)
    numbers["shares"] = phase_shares(timed)
    return numbers


def tunix_round(
    config: ConfigDict, folder: pathlib.Path, tokenizer: Tokenizer, prompt_length: int
) -> dict[str, Any]:
    """Numbers of one run of tunix's learner, with the same model, data, batch and loss."""
    settings = {
        "model": setup.open_model_config(config, tokenizer).to_hf(),
        "tokenizer": str(folder / "tokenizer" / "tokenizer.model"),
        "data": str(folder / "problems.jsonl"),
        "optimizer": config.optimizer.to_dict(),
        "steps": config.measure.left_out + config.measure.steps,
        "questions": config.rl.questions,
        "group": config.rl.group,
        "prompt_length": prompt_length,
        "max_new_tokens": config.rl.max_new_tokens,
        "temperature": config.rl.temperature,
        "kl_coef": config.rl.kl_coef,
        "clip": config.rl.clip_low,
    }
    with TunixSide(config.measure.tunix, "tunix_grpo.py", settings) as side:
        answer = side.ask("run")
        peak = side.peak_memory()
    numbers = _numbers(config, answer["seconds"], peak)
    for name in ("completion_length", "reward"):
        numbers[name] = statistics.mean(answer[name][config.measure.left_out :])
    return numbers


def phase_shares(rows: list[dict[str, float]]) -> dict[str, float]:
    """Share of the steps' seconds that each phase takes; "other" is what none of them does."""
    total = sum(row["time/step"] for row in rows)
    names = dict.fromkeys(k for row in rows for k in row if k.startswith("time/"))
    for whole in ("time/step", "time/run"):  # the latter: since the run began
        names.pop(whole, None)
    shares = {k.removeprefix("time/"): sum(r.get(k, 0.0) for r in rows) / total for k in names}
    return shares | {"other": 1 - sum(shares.values())}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the rounds' numbers, their median; of the speed, also the lowest and highest."""
    numbers: dict[str, Any] = spread("samples_per_s", [r["samples_per_s"] for r in rounds])
    for name, first in rounds[0].items():
        if isinstance(first, dict):
            numbers[name] = {k: statistics.median(r[name][k] for r in rounds) for k in first}
        elif name != "samples_per_s":
            known = [r[name] for r in rounds if r[name] is not None]
            numbers[name] = statistics.median(known) if known else None
    return numbers


def _numbers(config: ConfigDict, steps: list[float], peak: float | None) -> dict[str, Any]:
    """From the seconds of each step, those that are left out included."""
    seconds = statistics.median(steps[config.measure.left_out :])
    return {
        "samples_per_s": config.rl.questions * config.rl.group / seconds,
        "seconds_per_step": seconds,
        "first_step_s": steps[0],
        "peak_memory_gb": peak,
    }


def _write_tokenizer(problems: list[Problem], folder: pathlib.Path, size: int) -> Tokenizer:
    texts = (text for p in problems[:5000] for text in (p.question, p.solution))
    try:
        return train_sentencepiece(texts, folder / "tokenizer", vocab_size=size)
    except ValueError as e:
        raise InputError(f"config.tokenizer_vocab: {e}") from None


def _write_data(problems: list[Problem], path: pathlib.Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for p in problems:
            file.write(json.dumps({"question": p.question, "answer": p.solution}) + "\n")


def longest_prompt(problems: list[Problem], tokenizer: Tokenizer, config: ConfigDict) -> int:
    """Its tokens: tunix pads all prompts to it.

    Raises:
      InputError: it does not fit. Ours would leave such questions out, and tunix would not.
    """
    room = config.length - config.rl.max_new_tokens
    prompts = (encode_prompt(tokenizer, p.question, config.data.prompt) for p in problems)
    if (longest := max(map(len, prompts))) > room:
        raise InputError(
            f"the longest question has {longest} tokens, but config.length={config.length} leaves "
            f"{room} beside config.rl.max_new_tokens={config.rl.max_new_tokens}: raise it"
        )
    return longest


def _check(config: ConfigDict) -> None:
    check_stage(config)
    for name in ("rounds", "steps", "left_out"):
        if config.measure[name] < 1:
            raise InputError(f"config.measure.{name} must be at least 1")
    if config.rl.algorithm != "grpo" or config.rl.updates_per_step != 1:
        raise InputError("config.rl: the benchmark is of GRPO with one update a step")
    if config.data.prompt != "plain" or config.rl.clip_low != config.rl.clip_high:
        raise InputError("config: both sides know the prompt 'plain' and one clip alone")
    if config.measure.tunix:
        check_tunix(config.measure.tunix)
