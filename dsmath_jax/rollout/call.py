"""One call of a sampler: the loop of a host over intervals, between which slots change hands."""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.transformer import side_by_side
from dsmath_jax.rollout import cache as caches
from dsmath_jax.rollout import decode as programs
from dsmath_jax.rollout.cache import SHARDS, Cache, Moves, sharding, shards_of
from dsmath_jax.rollout.decode import Options
from dsmath_jax.rollout.host_arrays import agreed, get, hosts_of, put
from dsmath_jax.rollout.slots import BLOCK, Prompt, Shard, Sizes, Slot, make_plan, works

# Slots from which on the last samples move to a quarter of them: with fewer, a step reads mostly
# weights, and takes as long for one row.
FEWER_FROM = 16


@dataclasses.dataclass(frozen=True)
class Engine:
    """What is alike for all calls of a sampler: see `Sampler`.

    by_layer: weights and cache lie in a part for each layer: on a CPU, and with kernels.
    kernels: those of `gpu_attention`, which read each slot's own blocks alone. Without them there
      is a program for each of some numbers of blocks, and a CPU's cache grows to these.
    """

    graph: Any
    config: ModelConfig
    dtype: Any
    kv_dtype: Any
    mesh: Mesh | None
    max_rows: int
    interval: int
    by_layer: bool
    kernels: bool
    pad_id: int
    decode_text: Callable[[list[int]], str] | None


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be sampled: `limits` [questions, group], a sample's most tokens; `draws` as in
    `decode`; `stop` strings that end a sample."""

    prompts: list[list[int]]
    examples: Sequence[int]
    limits: np.ndarray
    options: Options
    draws: str
    stop: Sequence[str]


class Call:
    """The samples with the numbers `chosen` of a request, counted by question, of which no host has
    more than `each`: arrays as in `Samples`, with the one dimension [samples] in place of
    [questions, group]. Hosts that share the engine's mesh run it together.

    Raises:
      FloatingPointError: the model's logits are not finite.
    """

    def __init__(self, engine: Engine, request: Request, params: Any, chosen: range, each: int):
        self.engine, self.request, self.params, self.chosen = engine, request, params, chosen
        self.each = each
        self.group = request.limits.shape[1]
        count, longest = len(chosen), int(request.limits.max())
        self.tokens = np.full((count, longest), engine.pad_id, np.int32)
        self.lengths = np.zeros(count, np.int32)
        self.logprobs = np.zeros((count, longest), np.float32)
        self.stopped = np.zeros(count, bool)

    def run(self) -> Iterator[int]:
        """Samples, in the context of the engine's mesh; yields each one's index in the arrays when
        it has ended."""
        e, chosen, group = self.engine, self.chosen, self.group
        hosts = hosts_of(e.mesh)
        if not chosen and hosts == 1:
            return
        s = Sizes.of(
            self.each,
            min(group, self.each),
            max(map(len, self.request.prompts)),
            self.tokens.shape[1],
            e.max_rows,
            shards_of(e.mesh) // hosts,
        )
        queue = deque(works(chosen, group, s.share, self.request.prompts, self.request.limits))
        shards = [Shard(s) for _ in range(s.shards)]
        grows = e.by_layer and not e.kernels
        size = s.own_blocks(2) if grows else s.own_blocks()  # of the cache
        cache = caches.make_cache(
            e.config,
            e.mesh,
            s,
            own=size,
            by_layer=e.by_layer,
            dtype=e.dtype,
            kv_dtype=e.kv_dtype,
        )
        layers = in_parts(self.params["layers"], e.by_layer, e.kernels)
        hidden_shape = (hosts * s.shards * s.slots, e.config.hidden_size)
        hidden = jnp.zeros(hidden_shape, e.dtype, device=sharding(e.mesh, SHARDS))
        most = s.slots
        while True:
            opened = [shard.admit(queue) for shard in shards]
            for shard in shards:
                shard.begin_interval()
            prompts, decoding, waiting, used = agreed(
                e.mesh,
                [
                    max(map(len, opened)),
                    max(sum(x is not None for x in shard.slots) for shard in shards),
                    len(queue),
                    max(shard.own_used() for shard in shards),
                ],
            )
            if not decoding:
                return
            cache = self._prefill(cache, opened, prompts, s)
            if not waiting and s.slots >= FEWER_FROM and 4 * decoding <= s.slots:
                s = s.fewer()
                changes = [shard.shrink(s) for shard in shards]
                cache = caches.move(cache, put(e.mesh, moves(changes, s)))
                size = 0
            own = s.own_blocks(used if s.slots == most and not e.kernels else None)
            if e.by_layer and own > size:
                cache = caches.resize(cache, own, s.prompt_blocks)
                size = own
            plan = make_plan(shards, self.request.examples, s, size if e.by_layer else own)
            cache, hidden, decoded = programs.decode(
                e.graph,
                e.interval,
                self.request.draws,
                self.params,
                layers,
                cache,
                hidden,
                put(e.mesh, plan),
                self.request.options,
            )
            yield from self._collect(shards, get(decoded))

    def _prefill(self, cache: Cache, opened: list[list[Prompt]], most: int, s: Sizes) -> Cache:
        """Reads the prompts that were opened on each shard, on any of them `most`."""
        while most > 0:
            count = s.prefill if most > 1 else 1
            shape = (s.shards * count,)
            tokens = np.full((*shape, s.prompt_table * BLOCK), self.engine.pad_id, np.int32)
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
            arrays = put(self.engine.mesh, (tokens, lengths, rows, blocks))
            cache = programs.prefill(self.engine.graph, self.params, cache, *arrays)
            opened, most = [of_shard[count:] for of_shard in opened], most - count
        return cache

    def _collect(self, shards: list[Shard], decoded: Any) -> Iterator[int]:
        """Writes down what an interval brought."""
        for i, shard in enumerate(shards):
            for n, slot in enumerate(shard.slots):
                if slot is None:
                    continue
                row = i * len(shard.slots) + n
                at = slot.prompt.work.question * self.group + slot.sample - self.chosen.start
                count = int(decoded.counts[row])
                logprobs = decoded.logprobs[row, :count]
                if not np.isfinite(logprobs).all():
                    raise FloatingPointError(_not_finite(slot, logprobs))
                new = slice(slot.length, slot.length + count)
                self.tokens[at, new] = decoded.tokens[row, :count]
                self.logprobs[at, new] = logprobs
                stopped, length = bool(decoded.stopped[row]), slot.length + count
                cut = self._stop(self.tokens[at, :length].tolist(), slot.length)
                if cut is not None:
                    self.tokens[at, cut:length] = self.engine.pad_id
                    self.logprobs[at, cut:length] = 0.0
                    stopped, length = True, cut
                slot.length, slot.source = length, n
                if stopped or length >= slot.limit:
                    self.lengths[at], self.stopped[at] = length, stopped
                    shard.end(n)
                    yield at

    def _stop(self, ids: list[int], seen: int) -> int | None:
        """How many of ids there are to the first, beyond the `seen` ones, that completes a stop
        string. A string of n bytes is of at most n tokens: no more are decoded again."""
        stop, text = self.request.stop, self.engine.decode_text
        if not stop or text is None:
            return None
        start = max(0, seen - max(len(s.encode()) for s in stop))

        def complete(end: int) -> bool:
            part = text(ids[start:end])
            return any(s in part for s in stop)

        if not complete(len(ids)):
            return None
        return next(end for end in range(seen + 1, len(ids) + 1) if complete(end))


def in_parts(stacked: Any, by_layer: bool, joined: bool) -> list[Any]:
    """Parameters stacked by layer, in parts as the cache has them (`cache.py`); `joined`: as
    `transformer.side_by_side`."""
    return _by_layer(stacked, joined) if by_layer else [stacked]


@functools.partial(jax.jit, static_argnums=(1,))
def _by_layer(stacked: Any, joined: bool) -> list[Any]:
    count = jax.tree.leaves(stacked)[0].shape[0]
    parts = [jax.tree.map(lambda x, i=i: x[i : i + 1], stacked) for i in range(count)]
    return [side_by_side(part) for part in parts] if joined else parts


def moves(changes: list[tuple[dict[int, int], dict[int, int]]], s: Sizes) -> Moves:
    """Changes of own blocks and of prompts' ones of each shard, in arrays of one size."""

    def arrays(parts: Sequence[dict[int, int]], count: int, nothing: int):
        table = np.full((2, len(parts), count), nothing, np.int32)
        for i, part in enumerate(parts):
            table[:, i, : len(part)] = list(part), list(part.values())
        return table.reshape(2, -1)

    own, prompts = zip(*changes, strict=True)
    return Moves(
        *arrays(own, s.own_blocks(), 0), *arrays(prompts, s.prompt_blocks, np.iinfo(np.int32).max)
    )


def _not_finite(slot: Slot, logprobs: np.ndarray) -> str:
    first = slot.length + int(np.argmin(np.isfinite(logprobs)))
    return (
        f"the model's logits are not finite at token {first} of sample {slot.sample} of question "
        f"{slot.prompt.work.question}: its parameters are damaged, or it diverged in training"
    )
