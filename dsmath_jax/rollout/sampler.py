"""Sampling from a model: prompts are read once per question, samples take turns in fixed slots."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dsmath_jax.models.transformer import Transformer
from dsmath_jax.rollout import decode as programs
from dsmath_jax.rollout.decode import SHARDS, Options, make_cache, sharding, shards_of
from dsmath_jax.rollout.slots import BLOCK, Prompt, Shard, Sizes, make_plan, rounded, works

INTERVAL = 16  # tokens decoded before the host looks


@dataclasses.dataclass(frozen=True)
class Samples:
    """What was generated for each of `questions` prompts, `group` samples each.

    tokens: [questions, group, max_new] int32; beyond a sample's length, the pad id.
    lengths: [questions, group] int32, the ending token included.
    logprobs: [questions, group, max_new] float32 of each token under the full vocabulary at the
      sampling temperature (at 1 when greedy); 0 beyond the length.
    stopped: [questions, group] bool: True ended with a token of `eos_ids`, False ran out of length.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    logprobs: np.ndarray
    stopped: np.ndarray

    def ids(self, question: int, sample: int) -> list[int]:
        return self.tokens[question, sample, : self.lengths[question, sample]].tolist()

    def reason(self, question: int, sample: int) -> str:
        """Why it ended: "stop" or "length"."""
        return "stop" if self.stopped[question, sample] else "length"


class Share(NamedTuple):
    """One host's samples of a call: arrays as in Samples, with the one dimension [samples] in place
    of [questions, group]; each host but the last ones has `each`."""

    samples: Samples
    each: int
    questions: int
    group: int


class Sampler:
    """Generates in a fixed number of slots: a sample that ends gives its slot to the next.
    Everything but that exchange, every `interval` tokens, runs compiled.

    A draw depends on (seed, step, example id, sample number, token index) alone, so a sample's text
    does not change with the batch around it.

    Args:
      model: the Transformer; each call may bring other parameters of the same structure.
      tokenizer: gives `eos_id` and `pad_id`, and encodes prompts given as text. May be None when
        prompts are ids and `eos_ids` is given.
      max_rows: slots, over all devices.
      interval: tokens decoded before the host looks which samples have ended; it divides 32.
      mesh: this host's devices, to spread the samples over (data, fsdp) and the weights and keys
        (tensor). With several hosts each one generates its share of the samples, and all get all.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Any = None,
        *,
        max_rows: int = 256,
        interval: int = INTERVAL,
        mesh: Mesh | None = None,
    ):
        if interval < 1 or BLOCK % interval:
            raise ValueError(f"interval={interval} does not divide {BLOCK}")
        self.graph, params = nnx.split(model)
        self.params = nnx.to_pure_dict(params)
        self.config, self.dtype = model.config, model.dtype
        self.tokenizer = tokenizer
        self.interval = interval
        self.mesh = mesh
        self.hosts = jax.process_count()
        self.max_rows = max(1, max_rows // self.hosts)
        devices = jax.devices() if self.mesh is None else self.mesh.devices.flat
        self.unroll = next(iter(devices)).platform == "cpu"

    def __call__(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        *,
        samples_per_prompt: int = 1,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        step: int = 0,
        example_ids: Sequence[int] | None = None,
        eos_ids: Sequence[int] | None = None,
        params: dict | None = None,
        on_sample: Callable[[int, int, list[int]], None] | None = None,
    ) -> Samples:
        """Samples from the full softmax at `temperature` (0: greedy).

        Args:
          prompts: texts, or token ids (used as they are, so with BOS if the model wants one).
          samples_per_prompt: group size G.
          max_new_tokens: at most this many, the ending token included.
          seed, step, example_ids: what the draws depend on; example_ids defaults to 0, 1, 2...
          eos_ids: tokens that end a sample, kept in it; the tokenizer's EOS by default.
          params: nested dict of parameters to use in place of the model's.
          on_sample: called with (question, sample, its tokens) when one has ended, for those of
            this host.

        Raises:
          ValueError: no prompts, no way to know what ends a sample, an empty prompt, or one that
            with max_new_tokens exceeds the model's context.
        """
        return gather(
            self.share(
                prompts,
                samples_per_prompt=samples_per_prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                step=step,
                example_ids=example_ids,
                eos_ids=eos_ids,
                params=params,
                on_sample=on_sample,
            )
        )

    def share(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        *,
        samples_per_prompt: int = 1,
        max_new_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
        step: int = 0,
        example_ids: Sequence[int] | None = None,
        eos_ids: Sequence[int] | None = None,
        params: dict | None = None,
        on_sample: Callable[[int, int, list[int]], None] | None = None,
    ) -> Share:
        """As a call, but this host's samples alone: for `gather`. It speaks to no other host, and
        so may run in another thread beside work that does."""
        if isinstance(prompts, str):
            raise ValueError("prompts is one text: give a list of them")
        ids = [self._encode(p) for p in prompts]
        if not ids:
            raise ValueError("there are no prompts")
        if eos_ids is None:
            if self.tokenizer is None:
                raise ValueError("give eos_ids: there is no tokenizer to take them from")
            eos_ids = [self.tokenizer.eos_id]
        if example_ids is None:
            example_ids = range(len(ids))
        for n, p in enumerate(ids):
            if not p:
                raise ValueError(
                    f"prompt {n} is empty: nothing to continue (is there no BOS token?)"
                )
            if len(p) + max_new_tokens > self.config.max_positions:
                raise ValueError(
                    f"prompt {n} has {len(p)} tokens; with max_new_tokens={max_new_tokens} that "
                    f"exceeds the model's context of {self.config.max_positions}"
                )
        params = self.params if params is None else params
        key = jax.random.fold_in(jax.random.key(jnp.uint32(seed)), jnp.uint32(step))
        options = Options(
            key, jnp.float32(temperature or 1.0), jnp.array(sorted(eos_ids), jnp.int32)
        )
        job = _Job(self, params, options, temperature == 0, ids, list(example_ids), max_new_tokens)
        total = len(ids) * samples_per_prompt
        each = -(-total // self.hosts)
        first = min(each * jax.process_index(), total)
        done = job.run(range(first, min(first + each, total)), samples_per_prompt, on_sample)
        return Share(done, each, len(ids), samples_per_prompt)

    def _encode(self, prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_bos=True)
        return list(prompt)


class _Job:
    """One call of a sampler."""

    def __init__(
        self,
        sampler: Sampler,
        params: Any,
        options: Options,
        greedy: bool,
        prompts: list[list[int]],
        examples: list[int],
        max_new: int,
    ):
        self.sampler, self.params, self.options, self.greedy = sampler, params, options, greedy
        self.prompts, self.examples, self.max_new = prompts, examples, max_new
        self.mesh = sampler.mesh
        self.pad = sampler.tokenizer.pad_id if sampler.tokenizer is not None else 0

    def run(
        self, chosen: range, group: int, on_sample: Callable[[int, int, list[int]], None] | None
    ) -> Samples:
        """The samples with these numbers, `group` for each question in turn: arrays as in Samples,
        with the one dimension [samples] in place of [questions, group]."""
        count = len(chosen)
        samples = Samples(
            np.full((count, self.max_new), self.pad, np.int32),
            np.zeros(count, np.int32),
            np.zeros((count, self.max_new), np.float32),
            np.zeros(count, bool),
        )
        if chosen:
            mesh = contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
            with mesh:
                self._run(chosen, group, samples, on_sample)
        return samples

    def _run(self, chosen: range, group: int, samples: Samples, on_sample) -> None:
        s = Sizes.of(
            len(chosen),
            min(group, len(chosen)),
            max(len(p) for p in self.prompts[chosen[0] // group : chosen[-1] // group + 1]),
            self.max_new,
            self.sampler.max_rows,
            shards_of(self.mesh),
        )
        queue = deque(works(chosen, group, s.share, self.prompts, self.max_new))
        shards = [Shard(s) for _ in range(s.shards)]
        config, dtype = self.sampler.config, self.sampler.dtype
        cache = make_cache(config, dtype, self.mesh, s)
        split = sharding(self.mesh, SHARDS)
        hidden = jnp.zeros((s.shards * s.slots, config.hidden_size), dtype, device=split)
        slots = s.slots
        while True:
            opened = [shard.admit(queue) for shard in shards]
            cache = self._prefill(cache, opened, s)
            decoding = max(sum(x is not None for x in shard.slots) for shard in shards)
            if not decoding:
                return
            if not queue and 4 * decoding <= slots:
                slots = max(1, slots // 4)
                for shard in shards:
                    shard.shrink(slots)
            for shard in shards:
                shard.begin_interval()
            plan = make_plan(
                shards,
                self.examples,
                own=rounded(max(shard.own_used() for shard in shards), slots),
                own_table=s.own_table,
                prompts=rounded(max(shard.prompts_used() for shard in shards), s.prompt_table),
                prompt_table=s.prompt_table,
                members=min(slots, s.members),
            )
            cache, hidden, decoded = programs.decode(
                self.sampler.graph,
                self.sampler.interval,
                self.greedy,
                self.sampler.unroll,
                self.params,
                cache,
                hidden,
                jax.tree.map(self._put, plan),
                self.options,
            )
            for at in self._collect(shards, jax.device_get(decoded), samples, group, chosen.start):
                if on_sample is not None:
                    tokens = samples.tokens[at, : samples.lengths[at]].tolist()
                    on_sample(*divmod(chosen.start + at, group), tokens)

    def _put(self, x: np.ndarray) -> jax.Array:
        return jax.device_put(x, sharding(self.mesh, SHARDS))

    def _prefill(self, cache, opened: list[list[Prompt]], s: Sizes):
        """Reads the prompts that were opened on each shard."""
        while any(opened):
            count = s.prefill if max(map(len, opened)) > 1 else 1
            shape = (s.shards * count,)
            tokens = np.full((*shape, s.prompt_table * BLOCK), self.pad, np.int32)
            lengths = np.ones(shape, np.int32)
            rows = np.full(shape, s.prompts, np.int32)
            blocks = np.full((*shape, s.prompt_table), s.prompt_blocks, np.int32)
            for i, of_shard in enumerate(opened):
                for n, prompt in enumerate(of_shard[:count], start=i * count):
                    ids = prompt.work.prompt
                    tokens[n, : len(ids)] = ids
                    lengths[n] = len(ids)
                    rows[n] = prompt.row
                    blocks[n, : len(prompt.blocks)] = prompt.blocks
            cache = programs.prefill(
                self.sampler.graph,
                self.params,
                cache,
                *(self._put(x) for x in (tokens, lengths, rows, blocks)),
            )
            opened = [of_shard[count:] for of_shard in opened]
        return cache

    def _collect(self, shards, decoded, samples: Samples, group: int, first: int) -> list[int]:
        """Writes down what an interval brought; returns which samples ended."""
        ended = []
        for i, shard in enumerate(shards):
            for n, slot in enumerate(shard.slots):
                if slot is None:
                    continue
                row = i * len(shard.slots) + n
                at = slot.prompt.work.question * group + slot.sample - first
                count = int(decoded.counts[row])
                new = slice(slot.length, slot.length + count)
                samples.tokens[at, new] = decoded.tokens[row, :count]
                samples.logprobs[at, new] = decoded.logprobs[row, :count]
                slot.length += count
                slot.source = n
                if decoded.stopped[row] or slot.length >= slot.limit:
                    samples.lengths[at] = slot.length
                    samples.stopped[at] = decoded.stopped[row]
                    shard.end(n)
                    ended.append(at)
        return ended


def gather(share: Share) -> Samples:
    """The samples of all hosts, on each of them; all call this in the same order."""
    questions, group = share.questions, share.group
    arrays = dataclasses.astuple(share.samples)
    if jax.process_count() > 1:
        arrays = tuple(_of_all_hosts(x, share.each)[: questions * group] for x in arrays)
    return Samples(*(x.reshape(questions, group, *x.shape[1:]) for x in arrays))


def _of_all_hosts(x: np.ndarray, each: int) -> np.ndarray:
    """The arrays of all hosts one after another, all but the last ones of the same length."""
    x = np.pad(x, [(0, each - len(x)), *[(0, 0)] * (x.ndim - 1)])
    return np.asarray(multihost_utils.process_allgather(x)).reshape(-1, *x.shape[1:])
