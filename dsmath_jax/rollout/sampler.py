"""Sampling from a model: prompts are read once per question, then all samples decode together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, Mesh

from dsmath_jax.losses import token_logprobs
from dsmath_jax.models.sharding import batch_sharding
from dsmath_jax.models.transformer import KVCache, Transformer, logits

SEGMENT = 32


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


class _State(NamedTuple):
    step: jax.Array
    hidden: jax.Array  # [questions, group, hidden_size] of the last token read
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    stopped: jax.Array
    cache: KVCache


class Sampler:
    """Generates with a key-value cache; everything but the loop over segments runs compiled.

    A draw depends on (seed, step, example id, sample number, token index) alone, so a sample's text
    does not change with the batch around it.

    Args:
      model: the Transformer; each call may bring other parameters of the same structure.
      tokenizer: gives `eos_id` and `pad_id`, and encodes prompts given as text. May be None when
        prompts are ids and `eos_ids` is given.
      max_rows: samples decoded together; more are done in turns.
      prompt_bucket: prompt lengths are rounded up to a multiple of this, to compile few shapes.
      segment: new tokens before the first look at whether all samples have ended. The cache has
        room for so many, then for twice as many, and so on: few shapes, and attention reads little.
      mesh: devices to spread the samples over (data, fsdp) and the weights and keys (tensor).
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Any = None,
        *,
        max_rows: int = 256,
        prompt_bucket: int = 32,
        segment: int = SEGMENT,
        mesh: Mesh | None = None,
    ):
        self.graph, params = nnx.split(model)
        self.params = nnx.to_pure_dict(params)
        self.context = model.config.max_positions
        self.tokenizer = tokenizer
        self.max_rows, self.prompt_bucket, self.segment = max_rows, prompt_bucket, segment
        self.mesh = mesh

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
        on_batch: Callable[[int, int], None] | None = None,
    ) -> Samples:
        """Samples from the full softmax at `temperature` (0: greedy).

        Args:
          prompts: texts, or token ids (used as they are, so with BOS if the model wants one).
          samples_per_prompt: group size G.
          max_new_tokens: at most this many, the ending token included.
          seed, step, example_ids: what the draws depend on; example_ids defaults to 0, 1, 2...
          eos_ids: tokens that end a sample, kept in it; the tokenizer's EOS by default.
          params: nested dict of parameters to use in place of the model's.
          on_batch: called with (questions done, questions) after each turn.

        Raises:
          ValueError: no prompts, no way to know what ends a sample, an empty prompt, or one that
            with max_new_tokens exceeds the model's context.
        """
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
            if len(p) + max_new_tokens > self.context:
                raise ValueError(
                    f"prompt {n} has {len(p)} tokens; with max_new_tokens={max_new_tokens} that "
                    f"exceeds the model's context of {self.context}"
                )
        pad = self.tokenizer.pad_id if self.tokenizer is not None else 0
        at_once = questions_at_once(len(ids), samples_per_prompt, self.max_rows, self.mesh)
        length = -(-max(map(len, ids)) // self.prompt_bucket) * self.prompt_bucket
        out = []
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            some_ids = list(example_ids[start : start + at_once])
            filler = at_once - len(some)  # keep the shape: repeat the last prompt, drop its samples
            tokens = np.full((at_once, length), pad, np.int32)
            for row, p in enumerate(some + some[-1:] * filler):
                tokens[row, : len(p)] = p
            lengths = np.array([len(p) for p in some + some[-1:] * filler], np.int32)
            examples = np.array(some_ids + some_ids[-1:] * filler, np.uint32)
            with contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh):
                result = self._generate(
                    self.params if params is None else params,
                    self._put(tokens),
                    self._put(lengths),
                    self._put(examples),
                    (seed, step),
                    samples_per_prompt,
                    max_new_tokens,
                    float(temperature),
                    jnp.array(sorted(eos_ids), jnp.int32),
                )
            out.append([x[: len(some)] for x in result])
            if on_batch is not None:
                on_batch(min(start + at_once, len(ids)), len(ids))
        tokens, lengths, logprobs, stopped = (
            np.concatenate(parts) for parts in zip(*out, strict=True)
        )
        beyond = np.arange(max_new_tokens) >= lengths[..., None]
        return Samples(
            np.where(beyond, pad, tokens), lengths, np.where(beyond, 0.0, logprobs), stopped
        )

    def _encode(self, prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, add_bos=True)
        return list(prompt)

    def _put(self, x):
        return x if self.mesh is None else jax.device_put(x, batch_sharding(self.mesh, x.shape))

    def _generate(
        self, params, tokens, lengths, examples, seed, group, max_new, temperature, eos_ids
    ):
        keys = _sample_keys(*map(jnp.uint32, seed), examples, group)
        state = _prefill(self.graph, params, tokens, lengths, group, max_new)
        for end in cache_lengths(max_new, self.segment):
            if bool(state.stopped.all()):
                break
            cache = _grow(state.cache, end)
            state = _decode_until(
                self.graph,
                end,
                temperature == 0,
                params,
                state._replace(cache=cache),
                keys,
                temperature or 1.0,
                eos_ids,
            )
        result = (state.tokens, state.lengths, state.logprobs, state.stopped)
        if jax.process_count() > 1:
            return multihost_utils.process_allgather(result, tiled=True)
        return jax.device_get(result)


def questions_at_once(count: int, group: int, max_rows: int, mesh: Mesh | None) -> int:
    """How many of `count` questions are decoded together: as `max_rows` samples allow, and more
    where else the mesh could not split them (what is too much is decoded and dropped)."""
    at_once = max(1, min(count, max_rows // group))
    if mesh is not None and _split(at_once, group, mesh) is None:
        at_once += -at_once % (mesh.shape["data"] * mesh.shape["fsdp"])
    return at_once


def cache_lengths(max_new: int, segment: int = SEGMENT) -> Iterator[int]:
    """Room for new tokens, as the cache gets it: segment, twice as many, and so on to max_new."""
    end = min(segment, max_new)
    yield end
    while end < max_new:
        end = min(2 * end, max_new)
        yield end


@functools.partial(jax.jit, static_argnums=(3,))
def _sample_keys(seed, step, examples, group):
    """[questions, group] keys, each for one sample's whole text."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    by_example = jax.vmap(lambda e: jax.random.fold_in(key, e))(examples)
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    return jax.vmap(fold, in_axes=(0, None))(by_example, jnp.arange(group))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _prefill(graph, params, tokens, lengths, group, max_new):
    hidden, cache = nnx.merge(graph, params).prefill(tokens, lengths, group, max_new=0)
    questions = tokens.shape[0]
    shape = (questions, group, max_new)
    return _State(
        step=jnp.int32(0),
        hidden=_spread(jnp.broadcast_to(hidden[:, None], (questions, group, hidden.shape[-1]))),
        tokens=_spread(jnp.zeros(shape, jnp.int32)),
        logprobs=_spread(jnp.zeros(shape, jnp.float32)),
        lengths=_spread(jnp.full((questions, group), max_new, jnp.int32)),
        stopped=_spread(jnp.zeros((questions, group), bool)),
        cache=cache,
    )


def _spread(x, at: int = 0, heads: int | None = None):
    """Splits [.., questions, group, ..], whose questions are dimension `at`, over the data and fsdp
    axes of the mesh: the questions where they divide, else the samples of each, else both. The
    dimension `heads` goes where the weights' heads are."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    axes = _split(x.shape[at], x.shape[at + 1], mesh)
    if axes is None:
        return x
    parts: list = [None] * x.ndim
    parts[at : at + 2] = [some or None for some in axes]
    if heads is not None and x.shape[heads] % mesh.shape["tensor"] == 0:
        parts[heads] = "tensor"
    return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(*parts))


def _split(questions: int, group: int, mesh: Mesh | AbstractMesh):
    """Mesh axes that split the questions, and the samples of each; None where none do evenly."""
    both = ("data", "fsdp")
    for axes in ((both, ()), ((), both), (("data",), ("fsdp",)), (("fsdp",), ("data",))):
        ways = [math.prod(mesh.shape[a] for a in some) for some in axes]
        if questions % ways[0] == 0 and group % ways[1] == 0:
            return axes
    return None


@functools.partial(jax.jit, static_argnums=(1,))
def _grow(cache: KVCache, length: int) -> KVCache:
    """Room for `length` new tokens of each sample."""
    room = [(0, 0)] * 6
    room[3] = (0, length - cache.new_k.shape[3])
    return cache._replace(
        new_k=_spread(jnp.pad(cache.new_k, room), 1, heads=4),
        new_v=_spread(jnp.pad(cache.new_v, room), 1, heads=4),
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4,))
def _decode_until(graph, end, greedy, params, state, keys, temperature, eos_ids):
    """Decodes to `end` new tokens, or until every sample has ended."""
    model = nnx.merge(graph, params)
    head = model.output_head()

    def unfinished(s: _State):
        return (s.step < end) & ~s.stopped.all()

    def body(s: _State):
        scores = logits(s.hidden, head)
        if not greedy:
            token_keys = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, s.step)
            noise = jax.vmap(jax.vmap(lambda k: jax.random.gumbel(k, scores.shape[-1:])))(
                token_keys
            )
            scores = scores / temperature + noise
        token = scores.argmax(axis=-1).astype(jnp.int32)
        # All logits at once, as above: the same expression, which XLA computes once.
        logp = token_logprobs(s.hidden, head, token, temperature, chunk=head.shape[1])
        ends = jnp.isin(token, eos_ids) & ~s.stopped
        hidden, cache = model.decode(token, s.step, s.cache)
        at = (0, 0, s.step)
        return _State(
            step=s.step + 1,
            hidden=hidden,
            tokens=jax.lax.dynamic_update_slice(s.tokens, token[..., None], at),
            logprobs=jax.lax.dynamic_update_slice(s.logprobs, logp[..., None], at),
            lengths=jnp.where(ends, s.step + 1, s.lengths),
            stopped=s.stopped | ends,
            cache=cache,
        )

    return jax.lax.while_loop(unfinished, body, state)
