"""Samples/s of whole GRPO steps of the RL stage, beside tunix's learner on the same machine."""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from dsmath_jax.benchmarks.side import Side, TunixSide, check_tunix, module_command, spread
from dsmath_jax.data.batches import question_batches
from dsmath_jax.data.errors import InputError
from dsmath_jax.data.prompts import encode_prompt
from dsmath_jax.data.sources import Example
from dsmath_jax.data.tokenizers import SentencePieceTokenizer, Tokenizer
from dsmath_jax.data.word_problems import generate
from dsmath_jax.stages import setup
from dsmath_jax.stages.command import check_stage


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds: in each, a run of ours of `config.measure.steps`
    steps after `config.measure.left_out` that compile, and then one of tunix's, each in a new
    process, from the same weights and with the same questions in the same order."""
    _check(config)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        longest = prepare(config, folder)
        ours, theirs = [], []
        for number in range(1, config.measure.rounds + 1):
            ours.append(our_round(config, folder, number))
            said = f"ours {ours[-1]['samples_per_s']:.3g} samples/s"
            if config.measure.tunix:
                theirs.append(tunix_round(config, folder, longest))
                said += f", tunix {theirs[-1]['samples_per_s']:.3g} samples/s"
            print(f"round {number} of {config.measure.rounds}: {said}", file=sys.stderr, flush=True)
    numbers: dict[str, Any] = {"samples_per_step": config.rl.questions * config.rl.group}
    numbers["ours"] = summary(ours)
    if theirs:
        pairs = zip(ours, theirs, strict=True)
        ratios = [a["samples_per_s"] / b["samples_per_s"] for a, b in pairs]
        numbers["tunix"] = summary(theirs) | spread("ours_over_theirs", ratios)
    return numbers


def prepare(config: ConfigDict, folder: pathlib.Path) -> int:
    """Writes what both sides read: tokenizer, problems (also as the steps draw them) and weights.

    Returns:
      The tokens of the longest prompt.
    """
    problems = generate(config.data.num_examples, seed=config.data.seed)
    examples = [{"question": p.question, "answer": p.solution} for p in problems]
    tokenizer = setup.open_tokenizer(config, folder, examples)
    if config.measure.tunix and not isinstance(tokenizer, SentencePieceTokenizer):
        raise InputError("config.measure.tunix: that side reads a tokenizer.model alone")
    longest = longest_prompt(examples, tokenizer, config)
    tokenizer.save(folder / "tokenizer")
    write_data(examples, folder / "problems.jsonl")
    write_data(drawn(examples, config), folder / "drawn.jsonl")
    write_weights(config, folder)
    return longest


def write_weights(config: ConfigDict, folder: pathlib.Path) -> None:
    """folder/weights, in Hugging Face's format: of `config.init.checkpoint`, else those that
    `config.init.stage` leaves, else random ones."""
    c = _on_files(config, folder)
    if c.init.checkpoint:
        with c.unlocked():
            c.init.stage = ConfigDict()
    if c.init.stage:
        c.init.stage.tokenizer = c.tokenizer
    files = {"workdir": str(folder / "init"), "weights": str(folder / "weights")}
    command = module_command("dsmath_jax.benchmarks.starting_policy")
    with Side("the policy's training", command, {"config": c.to_dict()} | files) as side:
        side.ask("write")


def our_round(config: ConfigDict, folder: pathlib.Path, number: int) -> dict[str, Any]:
    """Numbers of one run of the RL stage, from its metrics."""
    c = _on_files(config, folder)
    with c.unlocked():
        c.init.stage, c.model_changes = ConfigDict(), ConfigDict()
    c.init.checkpoint = str(folder / "weights")
    c.data.path = str(folder / "problems.jsonl")
    c.steps = config.measure.left_out + config.measure.steps
    c.checkpoint.every, c.log.every = c.steps, 1
    settings = {"config": c.to_dict(), "workdir": str(folder / f"run_{number}")}
    with Side("ours", module_command("dsmath_jax.benchmarks.rl_training"), settings) as side:
        rows = side.ask("run")
        peak = side.peak_memory()
    numbers = _numbers(config, [row["time/step"] for row in rows], peak)
    timed = rows[config.measure.left_out :]
    ended = [1 - row["truncated"] for row in timed]  # by a token that tunix does not count
    lengths = [row["completion_length"] - e for row, e in zip(timed, ended, strict=True)]
    numbers["completion_length"] = statistics.mean(lengths)
    numbers["reward"] = statistics.mean(row["reward"] for row in timed)
    numbers["ended"] = statistics.mean(ended)
    numbers["shares"] = phase_shares(timed)
    return numbers


def tunix_round(config: ConfigDict, folder: pathlib.Path, prompt_length: int) -> dict[str, Any]:
    """Numbers of one run of tunix's learner, with the same model, questions, batch and loss."""
    steps = config.measure.left_out + config.measure.steps
    settings = tunix_settings(config, folder, prompt_length) | {"steps": steps}
    with TunixSide(config.measure.tunix, "tunix_grpo.py", settings) as side:
        answer = side.ask("run")
        peak = side.peak_memory()
    numbers = _numbers(config, answer["seconds"], peak)
    for name in ("completion_length", "reward"):
        numbers[name] = statistics.mean(answer[name][config.measure.left_out :])
    return numbers


def tunix_settings(config: ConfigDict, folder: pathlib.Path, prompt_length: int) -> dict[str, Any]:
    """What tunix is told, but for the number of steps."""
    return {
        "weights": str(folder / "weights"),
        "tokenizer": str(folder / "tokenizer" / "tokenizer.model"),
        "data": str(folder / "drawn.jsonl"),
        "optimizer": config.optimizer.to_dict(),
        "questions": config.rl.questions,
        "group": config.rl.group,
        "prompt_length": prompt_length,
        "max_new_tokens": config.rl.max_new_tokens,
        "temperature": config.rl.temperature,
        "kl_coef": config.rl.kl_coef,
        "clip": config.rl.clip_low,
    }


def phase_shares(rows: list[dict[str, float]]) -> dict[str, float]:
    """Share of seconds that each phase takes, and "other" for what none of them does: in the faster
    half of the steps, so that those which compile do not count."""
    rows = sorted(rows, key=lambda row: row["time/step"])[: -(-len(rows) // 2)]
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
    timed = steps[config.measure.left_out :]
    seconds = statistics.median(timed)
    return {
        "samples_per_s": config.rl.questions * config.rl.group / seconds,
        "seconds_per_step": seconds,
        "mean_seconds_per_step": statistics.mean(timed),
        "first_step_s": steps[0],
        "peak_memory_gb": peak,
    }


def _on_files(config: ConfigDict, folder: pathlib.Path) -> ConfigDict:
    """The configuration of the RL stage alone, with the tokenizer that was written."""
    c = config.copy_and_resolve_references()
    with c.unlocked():
        del c.bench, c.measure
    c.tokenizer = str(folder / "tokenizer")
    return c


def write_data(examples: Iterable[Example], path: pathlib.Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for example in examples:
            file.write(json.dumps(example) + "\n")


def drawn(examples: list[Example], config: ConfigDict) -> Iterator[Example]:
    """The questions of all steps, in the order in which the RL stage draws them."""
    batches = question_batches(examples, batch_size=config.rl.questions, seed=config.seed)
    for _ in range(config.measure.left_out + config.measure.steps):
        yield from next(batches)
    batches.close()


def longest_prompt(examples: list[Example], tokenizer: Tokenizer, config: ConfigDict) -> int:
    """Its tokens: tunix pads all prompts to it.

    Raises:
      InputError: it does not fit. Ours would leave such questions out, and tunix would not.
    """
    room = config.length - config.rl.max_new_tokens
    prompts = (encode_prompt(tokenizer, e["question"], config.data.prompt) for e in examples)
    if (longest := max(map(len, prompts))) > room:
        raise InputError(
            f"the longest question has {longest} tokens, but config.length={config.length} leaves "
            f"{room} beside config.rl.max_new_tokens={config.rl.max_new_tokens}: raise it"
        )
    return longest


def _check(config: ConfigDict) -> None:
    for stage in filter(None, (config, config.init.stage)):
        check_stage(stage)
    for name in ("rounds", "steps", "left_out"):
        if config.measure[name] < 1:
            raise InputError(f"config.measure.{name} must be at least 1")
    if config.rl.algorithm != "grpo" or config.rl.updates_per_step != 1:
        raise InputError("config.rl: the benchmark is of GRPO with one update a step")
    if config.data.prompt != "plain" or config.rl.clip_low != config.rl.clip_high:
        raise InputError("config: both sides know the prompt 'plain' and one clip alone")
    if config.measure.tunix:
        check_tunix(config.measure.tunix)
