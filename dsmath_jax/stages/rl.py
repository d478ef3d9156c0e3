"""Reinforcement learning with outcome supervision (DeepSeekMath 4.1): GRPO (Algorithm 1), or PPO.

The reward is a rule's verdict on the final answer (the paper scores with a reward model). Not
stated in the paper, chosen here: clip 0.2, temperature 1, std with ddof 0 and epsilon 1e-6.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.batches import encode_questions, question_batches
from dsmath_jax.data.examples import load_examples
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.losses import group_advantages
from dsmath_jax.models.flops import generation_flops, rl_flops
from dsmath_jax.models.value_model import value_params
from dsmath_jax.rollout import Sampler
from dsmath_jax.rollout.local import local_arrays
from dsmath_jax.stages import setup
from dsmath_jax.stages.rl_exploration import (
    Explorer,
    Groups,
    Lookahead,
    abstract_ahead,
    from_ahead,
    joined,
    no_samples,
    to_ahead,
)
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.stages.rl_rewards import checker_errors
from dsmath_jax.stages.rl_rows import pack, row_shapes
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.loop import Phases, Result, proportion, run
from dsmath_jax.training.metrics import reported_disk_errors
from dsmath_jax.training.optimizer import make_schedule
from dsmath_jax.training.state import abstract_state, init_state, policy_of


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Samples groups of answers, rewards them, and moves the policy towards the better ones."""
    rl = config.rl
    setup.refuse_text_field(config)
    with_critic, with_reference = rl.algorithm == "ppo", rl.kl_coef != 0
    # ---- Data: questions ------------------------------------------------------------------------
    examples = load_examples(config.data, "train", workdir)
    heldout = load_examples(config.data, "heldout", workdir)
    tokenizer = setup.open_tokenizer(config, workdir, examples)

    def encoded(examples, split):
        return encode_questions(
            examples,
            tokenizer,
            prompt=config.data.prompt,
            max_tokens=config.length - rl.max_new_tokens,
            max_rejected_share=config.data.max_rejected_share,
            rejected=workdir / f"too_long_{split}.jsonl",
        )

    rows, heldout = encoded(examples, "train"), encoded(heldout, "heldout")
    questions = Lookahead(question_batches(rows, batch_size=rl.questions, seed=config.seed))
    # ---- Mesh, model, optimizer -----------------------------------------------------------------
    mesh = setup.open_mesh(config)
    generation_mesh = setup.open_generation_mesh(config, mesh)
    model_config = setup.open_model_config(config, tokenizer)
    model = setup.open_model(config, model_config)
    optimizer = setup.open_rl_optimizer(config)
    checkpoints = Checkpoints(workdir, config, model_config)
    checkpoints.check()
    setup.write_run_files(config, model_config, tokenizer, workdir)

    def new_state():
        params = setup.initial_params(config, model_config, mesh)
        if with_critic:
            params = {"policy": params, "critic": value_params(params)}
        state = init_state(params, optimizer, mesh, model_config, with_reference=with_reference)
        return state._replace(ahead=no_samples(config, mesh)) if rl.ahead else state

    abstract = abstract_state(
        model_config, optimizer, mesh, with_reference=with_reference, with_critic=with_critic
    )
    if rl.ahead:
        abstract = abstract._replace(ahead=abstract_ahead(config, mesh))

    # ---- Compiled steps -------------------------------------------------------------------------
    sampler = Sampler(
        model,
        tokenizer,
        max_rows=rl.max_rows,
        mesh=generation_mesh,
        kv_dtype=rl.kv_dtype or None,
    )
    explorer = Explorer(config, sampler, tokenizer, len(examples))
    programs = make_programs(config, model, optimizer, mesh)
    shapes = row_shapes(config, mesh, model_config.head_dim)

    def generation_weights(state):
        weights = programs.generation_weights(policy_of(state.params))
        return local_arrays(weights, model_config, generation_mesh)

    # ---- One exploration step -------------------------------------------------------------------
    def step_fn(state, batch, step, phases):
        with phases("reshard"):
            weights = jax.block_until_ready(generation_weights(state))
        groups = from_ahead(state.ahead, batch) if rl.ahead else None
        if groups is None:
            groups = explorer.begin(weights, step - 1, batch, step)(phases)
        for _ in range(rl.dynamic_sampling):
            if (~groups.all_equal).sum() >= rl.questions:
                break
            more = explorer.begin(weights, step - 1, next(questions), step, groups.questions)
            groups = joined([groups, more(phases)])
        trained = groups.best(rl.questions)
        begun = None
        if rl.ahead and step < config.steps:
            begun = explorer.begin(weights, step - 1, questions.peek(), step + 1)
        del weights
        with phases("reward"):
            advantages = group_advantages(
                jnp.asarray(trained.rewards), ddof=rl.advantage_ddof, eps=rl.advantage_eps
            )
            rows, used, padding = pack(
                [q["ids"] for q in trained.questions],
                trained.samples,
                np.asarray(advantages),
                shapes,
                pad_id=tokenizer.pad_id,
                rewards=trained.rewards if with_critic else None,
            )
            rows = setup.put_batch(rows, mesh)
            if step % config.log.samples_every == 0:
                _write_samples(workdir, f"step_{step:06d}", groups, tokenizer)
        with phases("logprob"):
            if with_reference:
                rows["ref_logp"] = programs.logprobs(state.reference, rows, used)
            if rl.old_logprobs == "recompute":
                rows["old_logp"] = programs.logprobs(policy_of(state.params), rows, used)
            jax.block_until_ready(rows)
        if with_critic:
            with phases("value"):
                rows = programs.estimate(state.params["critic"], rows, used)
                jax.block_until_ready(rows)
        with phases("update"):
            next_step = jnp.array(state.step + 1)
            state, first = state._replace(ahead=None), None
            for _ in range(rl.updates_per_step):
                state, metrics = programs.update(state, rows, used)
                first = metrics if first is None else first
            state = state._replace(step=next_step)
            jax.block_until_ready(state.params)
        if rl.ahead:
            found = no_samples(config, mesh) if begun is None else to_ahead(begun(phases), mesh)
            state = state._replace(ahead=found)
        # With several updates the gap to the sampler means something at the first alone.
        metrics |= {k: first[k] for k in ("logprob_gap", "logprob_gap_max")}
        metrics |= _measures(groups) | {"padding": padding}
        age = step - 1 - trained.weights_step
        metrics["staleness"] = rl.updates_per_step * age.mean()
        flops = rl_flops(
            model_config,
            *_lengths(trained),
            updates=rl.updates_per_step,
            critic=with_critic,
            forwards=with_reference + (rl.old_logprobs == "recompute"),
            shared=shapes.shared,
        )
        flops["step"] += generation_flops(model_config, *_lengths(groups)) - flops["generate"]
        metrics |= {f"flops/{phase}": flops[phase] for phase in ("update", "step")}
        return state, metrics

    # ---- Held-out accuracy ----------------------------------------------------------------------
    def evaluate(state, step):
        results: dict[str, Any] = {}
        weights = generation_weights(state)
        for name, temperature in (("sampled", rl.temperature), ("greedy", 0.0)):
            if not heldout or (name == "greedy" and not rl.greedy_eval):
                continue
            groups = explorer.heldout(weights, heldout, temperature, Phases())
            right = int(groups.rewards.sum())
            results |= proportion(right, len(heldout), f"eval/accuracy_{name}")
            _write_samples(workdir, f"eval_{step:06d}_{name}", groups, tokenizer)
        return results

    # ---- Train ----------------------------------------------------------------------------------
    with jax.set_mesh(mesh):
        return run(
            config,
            workdir,
            checkpoints,
            questions,
            step_fn,
            new_state=new_state,
            abstract=abstract,
            evaluate=evaluate,
            waits=True,
            learning_rate=lambda step: make_schedule(
                config.optimizer, config.steps * rl.updates_per_step
            )(step * rl.updates_per_step),
        )


def _lengths(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each prompt [questions] and completion [questions, group]."""
    return np.array([len(q["ids"]) for q in groups.questions]), groups.samples.lengths


def _measures(groups: Groups) -> dict[str, float]:
    """Metrics of all that was generated for a step."""
    rewards, samples = groups.rewards, groups.samples
    return {
        "reward": rewards.mean(),
        "reward_std": rewards.std(),
        "groups_generated": len(rewards),
        "groups_all_equal": groups.all_equal.mean(),
        "truncated": 1.0 - samples.stopped.mean(),
        "completion_length": samples.lengths.mean(),
        "checker_errors": checker_errors(groups.verdicts),
        "tokens": int(samples.lengths.sum()),
    }


def _write_samples(
    workdir: pathlib.Path, name: str, groups: Groups, tokenizer: Tokenizer, limit: int = 64
) -> None:
    """The first `limit` samples, as samples/NAME.jsonl."""
    if jax.process_index() != 0:
        return
    path = workdir / "samples" / f"{name}.jsonl"
    lines = []
    for q, g in list(np.ndindex(groups.verdicts.shape))[:limit]:
        record = {
            "question": groups.questions[q]["question"],
            "answer": groups.questions[q]["answer"],
            "completion": tokenizer.decode(groups.samples.ids(q, g)),
            "reward": float(groups.rewards[q, g]),
            "ended": groups.samples.reason(q, g),
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with reported_disk_errors(f"samples/{name}.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".partial").write_text("".join(lines), encoding="utf-8")
        path.with_suffix(".partial").replace(path)
