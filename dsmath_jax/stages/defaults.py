"""Every field of a configuration, with its meaning and a value that works on a laptop.

A file in configs/ starts from `get_defaults(stage)` and changes what it needs; `--config.a.b=value`
changes it once more. A field that is not here is refused.
"""

from __future__ import annotations

from ml_collections import ConfigDict

STAGES = ("pretrain", "sft", "rl")
ALGORITHMS = ("grpo", "ppo")  # of config.rl.algorithm
OLD_LOGPROBS = ("rollout", "recompute")  # of config.rl.old_logprobs


def get_defaults(stage: str) -> ConfigDict:
    """The configuration of a stage: "pretrain", "sft" or "rl"."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r} is unknown; choose one of {', '.join(STAGES)}")
    c = ConfigDict()
    c.stage = stage
    c.seed = 0
    c.distributed = False  # several hosts: the same command on each (docs/clusters.md)
    c.host_timeout = 100  # seconds without a sign of life of a host until the run ends on all
    c.xla_flags = True  # the compiler settings of training/xla_flags.py
    c.steps = 100  # optimizer steps (for RL: exploration steps)
    c.batch_size = 16  # rows of `length` tokens (for RL see rl.questions)
    c.length = 256  # tokens of a row; for RL, of the longest prompt with its completion
    c.micro_batches = 1  # parts of a batch done one after another to save memory (RL: see below)

    # ---- Model ----
    c.model = "tiny"  # a preset of dsmath_jax.models, or a path of a Hugging Face config.json
    c.model_changes = ConfigDict()  # fields of ModelConfig to replace: {"num_layers": 2}
    c.init = ConfigDict()
    c.init.checkpoint = ""  # Hugging Face directory, converted checkpoint, or a run's directory
    c.init.stage = ConfigDict()  # or: the configuration of a stage to run first, in WORKDIR/init
    c.dtype = "bfloat16"  # of computation; master weights and moments are float32
    c.remat = "none"  # "none", "dots", "attention", "full", "offload": models/transformer.py
    c.unroll = 1  # layers in a turn of the loop over them; all of them is faster on one GPU
    c.attention = "auto"  # by device; else "splash" (TPU), "flash", "cudnn" (GPU) or "chunked"
    c.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1})  # -1: what is left

    # ---- Tokenizer ----
    c.tokenizer = ""  # tokenizer.json, its directory, or a .model; by default the checkpoint's, ...
    c.tokenizer_vocab = 512  # ... else one of this size is trained on the data

    # ---- Data ----
    c.data = ConfigDict()
    c.data.path = ""  # JSONL, text, TFDS (docs/data.md); without one, the project's word problems
    c.data.heldout_path = ""  # the same for evaluation
    c.data.mixture = ConfigDict()  # instead: {name: {"path", "weight", maybe "heldout_path", ...}}
    c.data.heldout = ConfigDict()  # more to evaluate on: {name: {"path", maybe "text_field", ...}}
    c.data.cache = ""  # directory of token caches; by default token_cache beside WORKDIR
    c.data.workers = 0  # processes that make batches; 0: threads, which one host rarely outruns
    c.data.question_field = "question"
    c.data.solution_field = "answer"
    c.data.answer_field = ""  # by default taken from the end of the solution
    c.data.text_field = ""  # pretraining on plain text: the field that holds it
    c.data.prompt = "plain"  # of dsmath_jax.data.prompts.PROMPTS
    c.data.max_rejected_share = 0.01  # of lines that may be bad
    c.data.num_examples = 50_000  # word problems
    c.data.num_heldout = 512
    c.data.chain_share = 0.0  # share of word problems solved in one line
    c.data.seed = 0  # of the word problems

    # ---- Optimizer ----
    c.optimizer = ConfigDict()
    c.optimizer.learning_rate = 1e-3
    c.optimizer.schedule = "multi_step"  # "multi_step", "constant" or "cosine"
    c.optimizer.warmup_steps = 10
    c.optimizer.b1 = 0.9
    c.optimizer.b2 = 0.95
    c.optimizer.eps = 1e-8
    c.optimizer.weight_decay = 0.1
    c.optimizer.clip_norm = 1.0
    c.optimizer.moments = "float32"  # or "bfloat16": half the memory, slightly noisier
    c.max_bad_steps = 10  # steps in a row with a loss that is not finite before the run stops
    c.spikes = ConfigDict()  # steps whose loss or gradient norm is far above the recent ones
    c.spikes.skip = False  # whether they change nothing (not for RL, whose loss is around 0)
    c.spikes.sigmas = 6.0  # how far: in standard deviations
    c.spikes.window = 128  # how many steps are recent; spikes are judged from half as many on
    c.spikes.max_in_a_row = 5  # skipped: then the level has changed, and the next one is taken

    # ---- Checkpoints, evaluation, logs ----
    c.checkpoint = ConfigDict({"every": 100, "keep": 2})
    c.eval = ConfigDict({"every": 0, "batch_size": 16})  # every: 0 for the end alone
    c.log = ConfigDict({"every": 1, "tensorboard": True, "wandb": False, "samples_every": 10})
    c.log.profile = ""  # steps to trace, STEP[:COUNT] or next[:COUNT]; --profile sets it

    if stage == "rl":
        c.micro_batches = 32  # parts of a step whose samples are all as long as can be: few for
        # speed, many for memory and little padding, for other steps take as few as they need
        c.rl = ConfigDict()
        c.rl.algorithm = "grpo"  # or "ppo": with a critic as large as the policy
        c.rl.questions = 16  # a step
        c.rl.group = 16  # samples a question (the paper: 64)
        c.rl.max_new_tokens = 64  # of a sample (the paper: 1024)
        c.rl.temperature = 1.0
        c.rl.kl_coef = 0.04  # 0: there is no reference at all
        c.rl.clip_low = 0.2
        c.rl.clip_high = 0.2
        c.rl.advantage_ddof = 0
        c.rl.advantage_eps = 1e-6
        c.rl.aggregation = "sequence_mean"
        c.rl.updates_per_step = 1  # mu of Algorithm 1
        c.rl.old_logprobs = "rollout"  # the sampler's; "recompute": by the trainer's own forward
        c.rl.importance_cap = 0.0  # of pi_old / pi_rollout of a token ("recompute"); 0: no weights
        c.rl.dynamic_sampling = 0  # more batches at most, for groups with unequal rewards (DAPO)
        c.rl.ahead = False  # generate for the next step during the update, by weights before it
        # (not on several hosts of v5e or v6e)
        c.rl.max_rows = 512  # samples decoded together
        c.rl.kv_dtype = ""  # of keys and values when generating, by default the model's; or "int8"
        c.rl.tensor = 1  # devices of a host that share one copy of the weights to generate
        c.rl.gae_decay = 0.95  # lambda (PPO)
        c.rl.critic_rate = 10.0  # the critic's learning rate, in times of the policy's (PPO)
        c.rl.greedy_eval = True
        c.optimizer.weight_decay = 0.0
    return c


def with_argument(c: ConfigDict, argument: str) -> ConfigDict:
    """What comes after the file's name in --config=FILE:ARGUMENT: nothing, or "smoke" for the same
    configuration with a tiny random model, generated data and 3 steps.

    Raises:
      ValueError: it is something else.
    """
    if argument not in ("", "smoke"):
        raise ValueError(f"the argument {argument!r} is unknown; the only one is ':smoke'")
    return _shrink(c) if argument else c


def _shrink(c: ConfigDict) -> ConfigDict:
    if c.init.stage:
        _shrink(c.init.stage)
    c.model, c.model_changes = "tiny", ConfigDict({"num_layers": 2})
    c.init.checkpoint = c.tokenizer = ""
    c.distributed = False
    c.mesh = {"data": 1, "fsdp": -1, "tensor": 1, "sequence": 1}
    c.steps, c.length, c.batch_size = 3, 192, 16
    c.micro_batches = min(c.micro_batches, 4 if c.stage == "rl" else 2)
    c.data.path = c.data.heldout_path = c.data.text_field = ""
    c.data.mixture, c.data.heldout = ConfigDict(), ConfigDict()
    c.data.num_examples, c.data.num_heldout = 400, 16
    c.optimizer.warmup_steps = 1
    c.eval.batch_size, c.log.every = 16, 1
    c.checkpoint.every = 2
    if c.stage == "rl":
        c.rl.questions, c.rl.group, c.rl.max_new_tokens = 8, 4, 24
        c.optimizer.eps = 1e-6  # few samples are right: else rounding errors become full steps
    return c
