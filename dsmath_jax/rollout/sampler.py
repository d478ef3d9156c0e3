"""Sampling from a model: prompts are read once per question, samples take turns in fixed slots."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from dsmath_jax.models.transformer import Transformer
from dsmath_jax.rollout.cache import inside
from dsmath_jax.rollout.call import Call, Engine, Request
from dsmath_jax.rollout.decode import Options
from dsmath_jax.rollout.gpu_attention import suits
from dsmath_jax.rollout.host_arrays import everywhere
from dsmath_jax.rollout.score import scores
from dsmath_jax.rollout.slots import BLOCK

INTERVAL = 8  # tokens decoded before the host looks


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
      mesh: the devices to spread the samples over (data, fsdp), and the weights and keys (tensor):
        this host's, or those of all hosts, one after another along data. With several hosts each
        one generates its share of the samples, and all get all.
      kv_dtype: of keys and values, the model's by default; int8 takes half of bfloat16's memory
        (what it does to log-probabilities: docs/generation.md).
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Any = None,
        *,
        max_rows: int = 256,
        interval: int = INTERVAL,
        mesh: Mesh | None = None,
        kv_dtype: Any = None,
    ):
        if interval < 1 or BLOCK % interval:
            raise ValueError(f"interval={interval} does not divide {BLOCK}")
        if max_rows < 1:
            raise ValueError(f"max_rows={max_rows} leaves no slot: it must be at least 1")
        graph, params = nnx.split(model)
        self.params = nnx.to_pure_dict(params)
        self.tokenizer = tokenizer
        self.hosts = jax.process_count()
        devices = jax.devices() if mesh is None else mesh.devices.flat
        kernels = suits(model.config, mesh)
        self.engine = Engine(
            graph=graph,
            config=model.config,
            dtype=model.dtype,
            kv_dtype=jnp.dtype(model.dtype if kv_dtype is None else kv_dtype),
            mesh=mesh,
            max_rows=max(1, max_rows // self.hosts),
            interval=interval,
            by_layer=kernels or next(iter(devices)).platform == "cpu",
            kernels=kernels,
            pad_id=0 if tokenizer is None else tokenizer.pad_id,
            decode_text=None if tokenizer is None else tokenizer.decode,
        )

    def __call__(self, prompts: Sequence[str] | Sequence[Sequence[int]], **options: Any) -> Samples:
        """Samples for each prompt: `share` of every host, and `gather`; takes what `share` does."""
        return gather(self.share(prompts, **options))

    def share(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        *,
        samples_per_prompt: int = 1,
        max_new_tokens: int | Sequence[Any],
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        step: int = 0,
        example_ids: Sequence[int] | None = None,
        eos_ids: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        params: dict | None = None,
        on_sample: Callable[[int, int, list[int]], None] | None = None,
    ) -> Share:
        """This host's samples. With a mesh of its own devices it speaks to no other host, so it may
        run in a thread of its own beside work that does.

        Args:
          prompts: texts, or token ids (used as they are, so with BOS if the model wants one).
          samples_per_prompt: group size G.
          max_new_tokens: at most this many, the ending token included: a number, one a prompt, or
            [prompts, G].
          temperature: of the softmax; 0: the likeliest token.
          top_k, top_p: draws from the top_k likeliest tokens (0: all), and of these from the fewest
            that have top_p of their probability. Log-probabilities stay those of all tokens.
          seed, step, example_ids: what the draws depend on; example_ids defaults to 0, 1, 2...
          eos_ids: tokens that end a sample, kept in it; the tokenizer's EOS by default.
          stop: strings; the token that completes one ends a sample, and is kept in it.
          params: nested dict of parameters to use in place of the model's.
          on_sample: called with (question, sample, its tokens) when one has ended.

        Raises:
          ValueError: no prompts, no way to know what ends a sample, an empty prompt, one that with
            max_new_tokens exceeds the model's context, or an option out of its range.
          FloatingPointError: the model's logits are not finite.
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
        if stop and self.tokenizer is None:
            raise ValueError("stop strings need a tokenizer")
        limits = _limits(max_new_tokens, len(ids), samples_per_prompt)
        _check_options(temperature, top_k, top_p, stop)
        self._check_prompts(ids, limits)
        with inside(self.engine.mesh):
            key = everywhere(self.engine.mesh, _key, np.uint32(seed % 2**32), np.uint32(step))
        request = Request(
            prompts=ids,
            examples=list(range(len(ids)) if example_ids is None else example_ids),
            limits=limits,
            options=Options(
                key,
                np.float32(temperature or 1.0),
                np.array(sorted(eos_ids), np.int32),
                np.int32(top_k),
                np.float32(top_p),
            ),
            draws=_draws(temperature, top_k, top_p),
            stop=stop,
        )
        each = -(-limits.size // self.hosts)
        first = min(each * jax.process_index(), limits.size)
        chosen = range(first, min(first + each, limits.size))
        params = self.params if params is None else params
        call = Call(self.engine, request, params, chosen, each)
        with inside(self.engine.mesh):
            for at in call.run():
                if on_sample is not None:
                    tokens = call.tokens[at, : call.lengths[at]].tolist()
                    question, sample = divmod(first + at, samples_per_prompt)
                    on_sample(question, sample, tokens)
        done = Samples(call.tokens, call.lengths, call.logprobs, call.stopped)
        return Share(done, each, len(ids), samples_per_prompt)

    def score(
        self,
        prompts: Sequence[str] | Sequence[Sequence[int]],
        completions: Sequence[Sequence[Sequence[int]]],
        *,
        temperature: float = 1.0,
        params: dict | None = None,
    ) -> np.ndarray:
        """Log-probabilities of given completions, each prompt read once for all of its own.

        Args:
          prompts: texts, or token ids, as above.
          completions: of each prompt a list of token ids' lists; not all need to be of one length,
            nor all prompts to have as many.

        Returns:
          [prompts, most completions, longest] float32 under the full vocabulary at `temperature`; 0
          where there is no token. With several hosts each scores its share, and all get all.

        Raises:
          ValueError: as `share`, or there is not a list of completions for each prompt.
        """
        ids = [self._encode(p) for p in prompts]
        if not ids or len(ids) != len(completions):
            raise ValueError(f"{len(ids)} prompts and {len(completions)} lists of completions")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive")
        group = max(1, max(map(len, completions)))
        limits = np.array([[max(map(len, c), default=0)] for c in completions])
        self._check_prompts(ids, limits)
        each = -(-len(ids) // self.hosts)
        first = min(each * jax.process_index(), len(ids))
        ours = scores(
            self.engine,
            self.params if params is None else params,
            ids[first : first + each],
            completions[first : first + each],
            (group, int(limits.max())),
            each,
            temperature,
        )
        return ours if self.hosts == 1 else _of_all_hosts(ours, each)[: len(ids)]

    def _encode(self, prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ValueError("prompts are texts and there is no tokenizer: give token ids")
            return self.tokenizer.encode(prompt, add_bos=True)
        return list(prompt)

    def _check_prompts(self, ids: list[list[int]], limits: np.ndarray) -> None:
        context = self.engine.config.max_positions
        for n, (p, limit) in enumerate(zip(ids, limits.max(axis=1), strict=True)):
            if not p:
                raise ValueError(
                    f"prompt {n} is empty: nothing to continue (is there no BOS token?)"
                )
            if len(p) + limit > context:
                raise ValueError(
                    f"prompt {n} has {len(p)} tokens; with max_new_tokens={limit} that "
                    f"exceeds the model's context of {context}"
                )


def _key(seed: jax.Array, step: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), step)


def _draws(temperature: float, top_k: int, top_p: float) -> str:
    if temperature == 0:
        return "likeliest"
    return "likely" if top_k or top_p < 1 else "all"


def _check_options(temperature: float, top_k: int, top_p: float, stop: Sequence[str]) -> None:
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or positive")
    if top_k < 0:
        raise ValueError(f"top_k={top_k} must be 0 (all tokens) or positive")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
    if isinstance(stop, str) or not all(stop):
        raise ValueError(f"stop={stop!r} must be a list of strings that are not empty")


def _limits(max_new_tokens: Any, questions: int, group: int) -> np.ndarray:
    """[questions, group] of a number, one a question, or all."""
    if group < 1:
        raise ValueError(f"samples_per_prompt={group} must be at least 1")
    given = np.asarray(max_new_tokens)
    if given.shape not in ((), (questions,), (questions, group)):
        raise ValueError(
            f"max_new_tokens has the shape {given.shape}: give one number, {questions} (one a "
            f"prompt), or [{questions}, {group}]"
        )
    if given.min() < 1:
        raise ValueError(f"max_new_tokens={given.min()} must be at least 1")
    if given.ndim == 1:
        given = given[:, None]
    return np.broadcast_to(given, (questions, group)).astype(np.int32)


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
