"""The same GRPO steps by tunix's learner. A script for the Python of an environment that holds
google-tunix: it imports nothing of this project.

Reads a line of settings, says that it is ready, and answers each line: {"tokens": [rows]} with the
policy's logits, [rows, tokens, vocabulary]; "run", once, when it has trained, with what each step
took and brought: {"seconds": [...], "completion_length": [...], "reward": [...]}.
"""

import functools
import itertools
import json
import os
import re
import sys
import time


class Pieces:
    """A sentencepiece model; ids that it does not have and control pieces give no text."""

    def __init__(self, path):
        import sentencepiece

        self.model = sentencepiece.SentencePieceProcessor(model_file=path)

    def encode(self, text, **_):
        return self.model.encode(str(text))

    def decode(self, ids, **_):
        known = [int(i) for i in ids if i < self.model.get_piece_size()]
        return self.model.decode([i for i in known if not self.model.is_control(i)])

    def bos_id(self):
        return self.model.bos_id()

    def eos_id(self):
        return self.model.eos_id()

    def pad_id(self):
        return self.model.pad_id()


class Questions:
    """Batches of the file's questions, in turn; `asked` has the time of each request for one."""

    def __init__(self, settings):
        with open(settings["data"], encoding="utf-8") as file:
            self.examples = [json.loads(line) for line in file]
        self.questions, self.steps = settings["questions"], settings["steps"]
        self.asked = []

    def __iter__(self):
        import numpy as np

        for step in range(self.steps):
            self.asked.append(time.perf_counter())
            first = step * self.questions
            numbers = [(first + i) % len(self.examples) for i in range(self.questions)]
            batch = [self.examples[i] for i in numbers]
            prompts, answers = zip(*((e["question"], e["answer"]) for e in batch), strict=True)
            yield {"prompts": np.array(prompts), "answer": np.array(answers)}
        self.asked.append(time.perf_counter())


def right(prompts, completions, answer, **_):
    """1 where the last number after "####" is the answer's."""

    def final(text):
        found = re.findall(r"####\s*(-?[\d,.]+)", text)
        return found[-1].replace(",", "").rstrip(".") if found else None

    pairs = zip(completions, answer, strict=True)
    return [float(final(text) == final(gold)) for text, gold in pairs]


def make_learner(settings):
    import jax
    import optax
    from tunix.models.llama3 import model, params
    from tunix.rl import rl_cluster
    from tunix.rl.grpo import grpo_learner
    from tunix.rl.rollout import base_rollout

    with open(os.path.join(settings["weights"], "config.json"), encoding="utf-8") as file:
        shape = json.load(file)
    o = settings["optimizer"]
    # Attention of 0.1.7 does not read config.rope_theta and turns by 1,000,000.
    model.apply_rope = functools.partial(model.apply_rope, rope_theta=shape["rope_theta"])
    config = model.ModelConfig(
        num_layers=shape["num_hidden_layers"],
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        num_heads=shape["num_attention_heads"],
        num_kv_heads=shape["num_key_value_heads"],
        head_dim=shape["head_dim"],
        rope_theta=int(shape["rope_theta"]),
        norm_eps=shape["rms_norm_eps"],
        weight_tying=shape["tie_word_embeddings"],
    )
    auto = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=auto, devices=jax.devices()[:1])
    optimizer = optax.chain(
        optax.clip_by_global_norm(o["clip_norm"]),
        optax.adamw(
            o["learning_rate"],
            b1=o["b1"],
            b2=o["b2"],
            eps=o["eps"],
            weight_decay=o["weight_decay"],
        ),
    )
    roles = rl_cluster.Role
    cluster_config = rl_cluster.ClusterConfig(
        role_to_mesh={r: mesh for r in (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT)},
        training_config=rl_cluster.RLTrainingConfig(
            actor_optimizer=optimizer,
            eval_every_n_steps=settings["steps"] + 1,
            max_steps=settings["steps"] + 1,  # the questions end before
            mini_batch_size=settings["questions"],
            train_micro_batch_size=settings["questions"],
        ),
        rollout_config=base_rollout.RolloutConfig(
            max_tokens_to_generate=settings["max_new_tokens"],
            max_prompt_length=settings["prompt_length"],
            kv_cache_size=settings["prompt_length"] + settings["max_new_tokens"],
            temperature=settings["temperature"],
            top_p=1.0,
        ),
    )

    def load():
        return params.create_model_from_safe_tensors(settings["weights"], config, mesh)

    with mesh:
        cluster = rl_cluster.RLCluster(
            actor=load(),
            reference=load(),
            tokenizer=Pieces(settings["tokenizer"]),
            cluster_config=cluster_config,
        )
    algorithm = grpo_learner.GRPOConfig(
        num_generations=settings["group"],
        num_iterations=1,
        beta=settings["kl_coef"],
        epsilon=settings["clip"],
        kl_loss_mode="low_var_kl",
        loss_agg_mode="sequence-mean-token-mean",
    )
    return cluster, grpo_learner.GRPOLearner(cluster, algorithm, right)


def logits(model, tokens):
    import jax.numpy as jnp

    tokens = jnp.array(tokens)
    rows, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    before = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))
    return model(tokens, positions, None, before)[0].tolist()


def train(cluster, learner, settings):
    seen = {"completion_length": [], "reward": []}

    def keep(buffer):
        for name, key in (
            ("completions/mean_length", "completion_length"),
            ("rewards/score/mean", "reward"),
        ):
            if name in buffer.metrics:  # the last ones are of what comes after the steps
                values, _ = buffer.metrics[name]
                seen[key].append(float(sum(values) / len(values)))

    cluster.with_external_metrics_logger(keep)
    questions = Questions(settings)
    learner.train(questions)
    seconds = [b - a for a, b in itertools.pairwise(questions.asked)]
    return {"seconds": seconds} | seen


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    settings = json.loads(sys.stdin.readline())
    cluster, learner = make_learner(settings)
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request == "run":
            answer = train(cluster, learner, settings)
        else:
            answer = logits(cluster.actor_trainer.model, request["tokens"])
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
