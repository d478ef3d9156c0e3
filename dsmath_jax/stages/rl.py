"""Reinforcement learning with outcome supervision (DeepSeekMath 4.1): GRPO (Algorithm 1), or PPO.

The reward is a rule's verdict on the final answer (the paper scores with a reward model). Not
stated in the paper, chosen here: clip 0.2, temperature 1, std with ddof 0 and epsilon 1e-6.
"""

from __future__ import annotations

import json
import pathlib
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dsmath_jax.data.batches import encode_questions, question_batches
from dsmath_jax.data.examples import load_examples
from dsmath_jax.losses import group_advantages
from dsmath_jax.models.flops import rl_flops
from dsmath_jax.models.value_model import value_params
from dsmath_jax.rewards import Verdict, grade_solution
from dsmath_jax.rollout import Sampler, Samples
from dsmath_jax.rollout.local import local_arrays
from dsmath_jax.stages import setup
from dsmath_jax.stages.rl_programs import make_programs
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.loop import Result, proportion, run
from dsmath_jax.training.metrics import reported_disk_errors
from dsmath_jax.training.optimizer import make_schedule
from dsmath_jax.training.state import abstract_state, init_state, policy_of

LENGTH_BUCKET = 32  # lengths of training batches are rounded up to this, to compile few shapes


def train(config: ConfigDict, workdir: pathlib.Path) -> Result:
    """Samples groups of answers, rewards them, and moves the policy towards the better ones."""
    rl = config.rl
    setup.refuse_text_field(config)
    with_critic = rl.algorithm == "ppo"
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
    questions = question_batches(rows, batch_size=rl.questions, seed=config.seed)
    # ---- Mesh, model, optimizer -----------------------------------------------------------------
    mesh = setup.open_mesh(config)
    generation_mesh = setup.open_generation_mesh(config, mesh)
    setup.check_parts(rl.questions * rl.group, config, mesh, "config.rl.questions x group")
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
        return init_state(params, optimizer, mesh, model_config, with_reference=True)

    # ---- Compiled steps -------------------------------------------------------------------------
    sampler = Sampler(
        model,
        tokenizer,
        max_rows=rl.max_rows,
        mesh=generation_mesh,
        kv_dtype=rl.kv_dtype or None,
    )
    programs = make_programs(config, model, optimizer, mesh)

    def generation_weights(state):
        weights = programs.generation_weights(policy_of(state.params))
        return local_arrays(weights, model_config, generation_mesh)

    # ---- One exploration step -------------------------------------------------------------------
    def step_fn(state, batch, step, phases):
        with phases("sync"):
            weights = jax.block_until_ready(generation_weights(state))
        with phases("generate"):
            samples = sampler(
                [q["ids"] for q in batch],
                samples_per_prompt=rl.group,
                max_new_tokens=rl.max_new_tokens,
                temperature=rl.temperature,
                seed=config.seed,
                step=step,
                example_ids=_draw_ids(batch, len(examples)),
                params=weights,
            )
            del weights
        with phases("reward"):
            texts = _texts(samples, tokenizer)
            rewards, errors = _rewards(texts, [q["answer"] for q in batch])
            advantages = group_advantages(
                jnp.asarray(rewards), ddof=rl.advantage_ddof, eps=rl.advantage_eps
            )
            prompts = [q["ids"] for q in batch]
            rows = _rows(prompts, samples, np.asarray(advantages), tokenizer.pad_id, config.length)
            rows = setup.put_batch(rows, mesh)
            if step % config.log.samples_every == 0:
                _write_samples(workdir, f"step_{step:06d}", batch, texts, rewards, samples)
        with phases("logprob"):
            rows["ref_logp"] = jax.block_until_ready(programs.logprobs(state.reference, rows))
        if with_critic:
            with phases("value"):
                flat = setup.put_batch({"rewards": rewards.reshape(-1)}, mesh)["rewards"]
                rows = programs.estimate(state.params["critic"], rows, flat)
                jax.block_until_ready(rows)
        with phases("train"):
            next_step = jnp.array(state.step + 1)
            first = None
            for _ in range(rl.updates_per_step):
                state, metrics = programs.update(state, rows)
                first = metrics if first is None else first
            state = state._replace(step=next_step)
            jax.block_until_ready(state.params)
        # With several updates the gap to the sampler means something at the first alone.
        metrics |= {k: first[k] for k in ("logprob_gap", "logprob_gap_max")}
        flat = rewards.max(axis=1) == rewards.min(axis=1)
        metrics |= {
            "reward": rewards.mean(),
            "reward_std": rewards.std(),
            "groups_all_equal": flat.mean(),
            "truncated": 1.0 - samples.stopped.mean(),
            "completion_length": samples.lengths.mean(),
            "checker_errors": errors,
            "tokens": int(samples.lengths.sum()),
        }
        lengths = np.array([len(p) for p in prompts])
        flops = rl_flops(
            model_config,
            lengths,
            samples.lengths,
            updates=rl.updates_per_step,
            critic=with_critic,
        )
        metrics |= {f"flops/{phase}": flops[phase] for phase in ("train", "step")}
        return state, metrics

    # ---- Held-out accuracy ----------------------------------------------------------------------
    def evaluate(state, step):
        results: dict[str, Any] = {}
        weights = generation_weights(state)
        for name, temperature in (("sampled", rl.temperature), ("greedy", 0.0)):
            if not heldout or (name == "greedy" and not rl.greedy_eval):
                continue
            samples = sampler(
                [q["ids"] for q in heldout],
                max_new_tokens=rl.max_new_tokens,
                temperature=temperature,
                seed=config.seed + 1,
                params=weights,
            )
            texts = _texts(samples, tokenizer)
            rewards, _ = _rewards(texts, [q["answer"] for q in heldout])
            results |= proportion(int(rewards.sum()), len(heldout), f"eval/accuracy_{name}")
            _write_samples(workdir, f"eval_{step:06d}_{name}", heldout, texts, rewards, samples)
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
            abstract=abstract_state(
                model_config, optimizer, mesh, with_reference=True, with_critic=with_critic
            ),
            evaluate=evaluate,
            waits=True,
            learning_rate=lambda step: make_schedule(
                config.optimizer, config.steps * rl.updates_per_step
            )(step * rl.updates_per_step),
        )


def _draw_ids(batch: list[dict[str, Any]], num_examples: int) -> list[int]:
    """Each question's index; one that comes twice in a batch gets other draws the second time."""
    seen: Counter[int] = Counter()
    ids = []
    for question in batch:
        ids.append(question["index"] + num_examples * seen[question["index"]])
        seen[question["index"]] += 1
    return ids


def _texts(samples: Samples, tokenizer) -> list[list[str]]:
    questions, group = samples.lengths.shape
    return [[tokenizer.decode(samples.ids(q, g)) for g in range(group)] for q in range(questions)]


def _rewards(texts: list[list[str]], golds: list[str]) -> tuple[np.ndarray, int]:
    """[questions, group] float32, 1 for a right answer; and how often the checker itself failed."""
    verdicts = [
        [grade_solution(t, gold) for t in row] for row, gold in zip(texts, golds, strict=True)
    ]
    rewards = np.array([[v is Verdict.RIGHT for v in row] for row in verdicts], np.float32)
    return rewards, sum(v is Verdict.CHECKER_ERROR for row in verdicts for v in row)


def _rows(
    prompts: list[list[int]],
    samples: Samples,
    advantages: np.ndarray,
    pad_id: int,
    max_length: int,
) -> dict[str, np.ndarray]:
    """A training row for each sample: prompt and completion, with the sampler's log-probs."""
    questions, group = samples.lengths.shape
    longest = max(len(p) for p in prompts) + int(samples.lengths.max())
    length = min(-(-longest // LENGTH_BUCKET) * LENGTH_BUCKET, max_length)
    shape = (questions * group, length)
    rows = {
        "tokens": np.full(shape, pad_id, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "loss_mask": np.zeros(shape, np.float32),
        "old_logp": np.zeros(shape, np.float32),
        "advantages": advantages.reshape(-1).astype(np.float32),
    }
    for q, prompt in enumerate(prompts):
        for g in range(group):
            row, start = q * group + g, len(prompt)
            end = start + int(samples.lengths[q, g])
            rows["tokens"][row, :end] = prompt + samples.ids(q, g)
            rows["segment_ids"][row, :end] = 1
            rows["loss_mask"][row, start:end] = 1.0
            rows["old_logp"][row, start:end] = samples.logprobs[q, g, : end - start]
    return rows


def _write_samples(workdir, name, examples, texts, rewards, samples, limit: int = 64) -> None:
    if jax.process_index() != 0:
        return
    path = workdir / "samples" / f"{name}.jsonl"
    lines = []
    for q, example in enumerate(examples):
        for g, text in enumerate(texts[q]):
            record = {
                "question": example["question"],
                "answer": example["answer"],
                "completion": text,
                "reward": float(rewards[q, g]),
                "ended": samples.reason(q, g),
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    with reported_disk_errors(f"samples/{name}.jsonl"):
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".partial").write_text("".join(lines[:limit]), encoding="utf-8")
        path.with_suffix(".partial").replace(path)
