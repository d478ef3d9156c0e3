"""Tokens/s and memory of the Sampler, beside tunix's and transformers' on the same machine."""

from __future__ import annotations

import contextlib
import statistics
import sys
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.benchmarks.decode_bound import decode_bytes
from dsmath_jax.benchmarks.side import Side, TunixSide, module_command, spread
from dsmath_jax.benchmarks.torch_generation import TorchGeneration
from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig, preset

Answers = list[dict[str, Any]]


def run(config: ConfigDict) -> dict[str, Any]:
    """Numbers of `config.measure.rounds` rounds: in each, ours and then each peer generates once.
    With `config.measure.batches`, ours alone at so many samples that decode together."""
    _check(config)
    model_config = preset(config.model, **config.model_changes)
    settings = call_settings(config, model_config)
    command = module_command("dsmath_jax.benchmarks.sampler_generation")
    with contextlib.ExitStack() as sides:
        peers: dict[str, Side] = {}
        if config.measure.tunix:
            tunix = TunixSide(config.measure.tunix, "tunix_generation.py", settings)
            peers["tunix"] = sides.enter_context(tunix)
        if config.measure.torch:
            peers["transformers"] = sides.enter_context(TorchGeneration(settings))
        ours = sides.enter_context(Side("ours", command, settings | {"config": config.to_dict()}))
        if not config.measure.batches:
            request = {"questions": config.rl.questions, "rows": config.rl.max_rows}
            return compare(config, model_config, ours, request, peers)
        numbers = {}
        for rows in config.measure.batches:
            request = {"questions": rows // config.rl.group, "rows": rows}
            numbers[f"{rows} rows"] = compare(config, model_config, ours, request, peers)
        return numbers


def call_settings(config: ConfigDict, model_config: ModelConfig) -> dict[str, Any]:
    """What all sides are told: the shape of the model, and of each call prompts (random ids that
    neither pad nor end), samples for each, and what ends one."""
    ending, vocabulary = config.measure.ending_ids, model_config.vocab_size
    questions = max([config.rl.questions, *(b // config.rl.group for b in config.measure.batches)])
    shape = (questions, config.length - config.rl.max_new_tokens)
    prompts = np.random.default_rng(config.seed).integers(2, vocabulary - ending, shape)
    prompts[:, 0] = 1  # the beginning of a text
    return {
        "model": model_config.to_hf(),
        "prompts": prompts.tolist(),
        "group": config.rl.group,
        "max_new_tokens": config.rl.max_new_tokens,
        "temperature": config.rl.temperature,
        # One that the vocabulary does not have is never drawn.
        "ending_ids": [*range(vocabulary - ending, vocabulary)] or [vocabulary],
    }


def compare(
    config: ConfigDict,
    model_config: ModelConfig,
    ours: Side,
    request: dict[str, int],
    peers: dict[str, Side],
) -> dict[str, Any]:
    """Numbers of all sides. A first call of each, which compiles, is apart; so are further ones
    that the configuration wants left out."""
    whole = request | {"max_new_tokens": config.rl.max_new_tokens}
    sides = {"ours": ours, **peers}
    first = {name: side.ask(whole | {"seed": 0})["seconds"] for name, side in sides.items()}
    answers: dict[str, Answers] = {name: [] for name in sides}
    for n in range(config.measure.left_out):
        for side in sides.values():
            side.ask(whole | {"seed": 1000 + n})
    for number in range(1, config.measure.rounds + 1):
        for name, side in sides.items():
            answers[name].append(side.ask(whole | {"seed": number}))
        said = ", ".join(f"{name} {_speeds(a)[-1]:,.0f} tokens/s" for name, a in answers.items())
        print(f"round {number} of {config.measure.rounds}: {said}", file=sys.stderr, flush=True)
    numbers = {name: side_numbers(answers[name], first[name], sides[name]) for name in sides}
    for name in peers:
        numbers[name] |= against(answers["ours"], answers[name])
        ours_peak, peak = numbers["ours"]["peak_memory_gb"], numbers[name]["peak_memory_gb"]
        numbers[name]["our_memory_over_theirs"] = ours_peak and peak and ours_peak / peak
    numbers["ours"] |= phases(config, model_config, ours, request, answers["ours"])
    return numbers


def side_numbers(answers: Answers, first: float, side: Side) -> dict[str, Any]:
    """Speed by the rounds, and memory up to now."""
    numbers: dict[str, Any] = spread("tokens_per_s", _speeds(answers))
    numbers["tokens"] = statistics.median(a["tokens"] for a in answers)
    numbers["seconds"] = statistics.median(a["seconds"] for a in answers)
    numbers["first_call_s"] = first
    numbers["peak_memory_gb"] = side.peak_memory()
    if answers[-1].get("device_peak"):
        numbers["device_peak_memory_gb"] = answers[-1]["device_peak"] / 1e9
    return numbers


def against(ours: Answers, theirs: Answers) -> dict[str, float]:
    """Our tokens/s over theirs, round by round."""
    ratios = [x / y for x, y in zip(_speeds(ours), _speeds(theirs), strict=True)]
    return spread("ours_over_theirs", ratios)


def phases(
    config: ConfigDict,
    model_config: ModelConfig,
    ours: Side,
    request: dict[str, int],
    answers: Answers,
) -> dict[str, Any]:
    """Prefill and decoding apart: calls for one token of each sample read all prompts and decode
    one step; what whole calls take longer is the decoding of all further tokens."""
    one = request | {"max_new_tokens": 1, "seed": 0}
    ours.ask(one)
    one_token = statistics.median(ours.ask(one)["seconds"] for _ in range(config.measure.rounds))
    samples = request["questions"] * config.rl.group
    prompt_length = config.length - config.rl.max_new_tokens
    seconds = statistics.median(a["seconds"] for a in answers) - one_token
    further = statistics.median(a["tokens"] for a in answers) - samples
    numbers: dict[str, Any] = {
        "prefill": {
            "seconds": one_token,
            "tokens_per_s": request["questions"] * prompt_length / one_token,
        },
        "decode": {"seconds": seconds, "tokens_per_s": further / seconds},
    }
    steps = config.rl.max_new_tokens - 1
    if config.measure.ending_ids or samples > request["rows"]:
        return numbers  # steps differ in how many rows they decode
    numbers["decode"]["seconds_per_step"] = seconds / steps
    numbers["decode"]["bytes_per_step"] = needed = decode_bytes(
        model_config,
        config.dtype,
        prompts=request["questions"],
        rows=samples,
        prompt_length=prompt_length,
        max_new_tokens=config.rl.max_new_tokens,
        devices=answers[0]["devices"],
        tensor=config.rl.tensor,
    )
    if bandwidth := answers[0]["bandwidth"]:
        numbers["decode"]["bandwidth"] = bandwidth
        numbers["decode"]["share_of_bound"] = needed / bandwidth / (seconds / steps)
    return numbers


def _speeds(answers: Answers) -> list[float]:
    return [a["tokens"] / a["seconds"] for a in answers]


def _check(config: ConfigDict) -> None:
    if config.measure.rounds < 1:
        raise InputError("config.measure.rounds must be at least 1")
    if config.rl.max_new_tokens < 2:
        raise InputError("config.rl.max_new_tokens must be at least 2: a first and further ones")
    if config.length < config.rl.max_new_tokens + 2:
        raise InputError(
            f"config.length={config.length} leaves no prompt of two tokens before "
            f"config.rl.max_new_tokens={config.rl.max_new_tokens}"
        )
    for rows in config.measure.batches:
        if rows % config.rl.group:
            raise InputError(
                f"config.measure.batches: {rows} is not a multiple of config.rl.group="
                f"{config.rl.group}"
            )
    if config.measure.batches and (config.measure.tunix or config.measure.torch):
        raise InputError("config.measure.batches is for ours alone: leave it empty beside others")
