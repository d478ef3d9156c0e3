"""How far the log-probabilities of generation are from training's, by precision."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from dsmath_jax.data.batches import encode_questions
from dsmath_jax.data.examples import load_examples
from dsmath_jax.models.transformer import Transformer
from dsmath_jax.rollout import Sampler, Samples
from dsmath_jax.stages import setup
from dsmath_jax.training.update import sequence_logprobs

PRECISIONS = {  # of the model, and of keys and values while generating
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "bfloat16, int8 keys": ("bfloat16", "int8"),
}


def run(config: ConfigDict) -> dict[str, Any]:
    """For each precision, of the tokens that a sampler drew on `config.rl.questions` questions x
    `config.rl.group` samples: |generation - training| in the same precision, and against training
    in float32."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        examples = load_examples(config.data, "heldout", workdir)
        tokenizer = setup.open_tokenizer(config, workdir, examples)
        questions = encode_questions(
            examples,
            tokenizer,
            prompt=config.data.prompt,
            max_tokens=config.length - config.rl.max_new_tokens,
            max_rejected_share=config.data.max_rejected_share,
            rejected=workdir / "too_long.jsonl",
        )[: config.rl.questions]
        model_config = setup.open_model_config(config, tokenizer)
        params = setup.initial_params(config, model_config, setup.open_mesh(config))
    prompts = [q["ids"] for q in questions]
    numbers: dict[str, Any] = {}
    for name, (dtype, kv_dtype) in PRECISIONS.items():
        weights = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype), params)
        model = Transformer(model_config, params=weights, dtype=dtype)
        samples = Sampler(model, tokenizer, max_rows=config.rl.max_rows, kv_dtype=kv_dtype)(
            prompts,
            samples_per_prompt=config.rl.group,
            max_new_tokens=config.rl.max_new_tokens,
            temperature=config.rl.temperature,
            seed=config.seed,
        )
        exact = Transformer(model_config, params=params)
        drawn = np.arange(samples.tokens.shape[2]) < samples.lengths[..., None]
        own, full = (
            (samples.logprobs - trained(m, prompts, samples, config.rl.temperature))[drawn]
            for m in (model, exact)
        )
        numbers[name] = {
            "tokens": int(drawn.sum()),
            "from_training": spread(own),
            "from_float32_training": spread(full),
        }
    return numbers


def trained(
    model: Transformer, prompts: list[list[int]], samples: Samples, temperature: float
) -> np.ndarray:
    """[questions, group, tokens]: the samples' log-probabilities as the update computes them."""
    _, group, longest = samples.tokens.shape
    width = max(map(len, prompts)) + longest
    graph, state = nnx.split(model)
    params = nnx.to_pure_dict(state)
    score = jax.jit(lambda params, rows: sequence_logprobs(graph, params, rows, temperature))
    out = np.zeros(samples.tokens.shape, np.float32)
    for q, prompt in enumerate(prompts):
        tokens = np.zeros((group, width), np.int32)
        ends = len(prompt) + samples.lengths[q]
        tokens[:, : len(prompt)] = prompt
        tokens[:, len(prompt) : len(prompt) + longest] = samples.tokens[q]
        segments = (np.arange(width) < ends[:, None]).astype(np.int32)
        rows = {"tokens": jnp.asarray(tokens * segments), "segment_ids": jnp.asarray(segments)}
        out[q] = np.asarray(score(params, rows))[:, len(prompt) : len(prompt) + longest]
    return out


def spread(differences: np.ndarray) -> dict[str, float]:
    """Of log-probability differences: absolute ones, and the ratio of probabilities they mean."""
    size = np.abs(differences.astype(np.float64))
    return {
        "mean": float(size.mean()),
        "median": float(np.median(size)),
        "99_percent_below": float(np.quantile(size, 0.99)),
        "largest": float(size.max()),
        "mean_ratio": float(np.exp(differences.astype(np.float64)).mean()),
        "ratios_beyond_20_percent": float((size > np.log(1.2)).mean()),
    }
