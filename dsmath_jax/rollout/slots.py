"""Which sample decodes where: slots and blocks of keys and values, given out and taken back."""

from __future__ import annotations

import dataclasses
import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK = 32  # tokens whose keys and values lie together
PREFILL_TOKENS = 8192  # of prompts that are read at once


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The shapes of a call's programs, of each shard: slots, open prompts, widths of the tables,
    samples of a question that share a shard, slots that a prompt block serves, and prompts read at
    once."""

    shards: int
    slots: int
    prompts: int
    own_table: int
    prompt_table: int
    share: int
    members: int
    prefill: int

    @classmethod
    def of(
        cls, samples: int, group: int, longest: int, max_new: int, max_rows: int, shards: int
    ) -> Sizes:
        """For so many samples, `group` of each question, the longest prompt of `longest` tokens."""
        slots = power_of_two(max(1, min(max_rows, samples) // shards))
        share = min(group, slots, -(-samples // shards))
        table = power_of_two(-(-longest // BLOCK))
        at_once = -(-slots // share)  # questions
        return cls(
            shards=shards,
            slots=slots,
            prompts=min(
                slots, 4 * at_once, power_of_two(-(-samples // group) * -(-group // share))
            ),
            own_table=-(-max_new // BLOCK),
            prompt_table=table,
            share=share,
            members=power_of_two(share),
            prefill=min(at_once, max(1, PREFILL_TOKENS // (table * BLOCK))),
        )

    @property
    def prompt_blocks(self) -> int:
        return self.prompts * self.prompt_table

    def own_blocks(self, used: int | None = None) -> int:
        """Own blocks that programs read where the first `used` are (all of them, where not given):
        in at most eight steps, beside the first, no sample's."""
        step = -(-self.own_table // 8) * self.slots
        most = 1 + self.own_table * self.slots
        return most if used is None else min(1 + -(-(used - 1) // step) * step, most)

    def fewer(self) -> Sizes:
        """With a quarter of the slots, for the samples that still decode at the end of a call."""
        slots = max(1, self.slots // 4)
        return dataclasses.replace(
            self,
            slots=slots,
            prompts=min(self.prompts, slots),
            members=min(self.members, slots),
        )


def works(
    chosen: range, group: int, share: int, prompts: list[list[int]], limits: np.ndarray
) -> Iterator[Work]:
    """The samples with the chosen numbers, by question, at most `share` together."""
    for question in range(chosen.start // group, (chosen.stop - 1) // group + 1):
        numbers = range(
            max(0, chosen.start - question * group), min(group, chosen.stop - question * group)
        )
        for n in range(0, len(numbers), share):
            yield Work(question, prompts[question], numbers[n : n + share], limits[question])


def power_of_two(n: int) -> int:
    """The next one from n on."""
    return 1 << max(0, n - 1).bit_length()


class Plan(NamedTuple):
    """What the slots of an interval do: int32 (`active`: bool, the ids: uint32) arrays.

    source [slots]: where its hidden state is: in the last interval's, or, beyond these, a prompt's.
    example, sample [slots]: what its draws depend on. start, limit [slots]: its own tokens so far,
      and at most. prompt_length [slots]. active [slots].
    own_slot, own_filled [blocks]: whose each block is, and how many tokens are in it.
    own_table [slots, n]: the slot's blocks; at or beyond their number: none.
    members [prompt_blocks, rows], prompt_filled [prompt_blocks]: slots that attend to each block.
    prompt_table [slots, n]: where in members, flat, the slot is; beyond: nowhere.
    write_block, write_offset [slots]: where the interval's keys and values go.
    """

    source: Any
    example: Any
    sample: Any
    start: Any
    limit: Any
    prompt_length: Any
    active: Any
    own_slot: Any
    own_filled: Any
    own_table: Any
    members: Any
    prompt_filled: Any
    prompt_table: Any
    write_block: Any
    write_offset: Any


@dataclasses.dataclass
class Work:
    """Samples first to last of one question, that share a prompt on one shard."""

    question: int
    prompt: list[int]
    samples: range
    limits: np.ndarray  # of each sample of the question


@dataclasses.dataclass
class Prompt:
    """An open prompt: the blocks that hold it, and the samples that still need it."""

    work: Work
    row: int
    blocks: list[int]
    waiting: deque[int]
    decoding: int = 0


@dataclasses.dataclass
class Slot:
    """A sample that decodes; `source` is where its hidden state lies (Plan)."""

    prompt: Prompt
    sample: int
    source: int
    length: int = 0
    blocks: list[int] = dataclasses.field(default_factory=list)

    @property
    def limit(self) -> int:
        return int(self.prompt.work.limits[self.sample])


class Shard:
    """The slots and blocks of one device, or of one group that shares the weights."""

    def __init__(self, sizes: Sizes):
        self.slots: list[Slot | None] = [None] * sizes.slots
        self.open: list[Prompt] = []
        self.rows = list(range(sizes.prompts))
        self.prompt_blocks = list(range(sizes.prompt_blocks))
        self.own_blocks = list(range(1, sizes.own_blocks()))

    def admit(self, queue: deque[Work]) -> list[Prompt]:
        """Fills free slots with the next samples; returns the prompts to read for them."""
        opened: list[Prompt] = []
        for i, slot in enumerate(self.slots):
            if slot is not None:
                continue
            prompt = next((p for p in self.open if p.waiting), None)
            if prompt is None:
                prompt = self._open(queue)
                if prompt is None:
                    break
                opened.append(prompt)
            prompt.decoding += 1
            self.slots[i] = Slot(prompt, prompt.waiting.popleft(), len(self.slots) + prompt.row)
        return opened

    def _open(self, queue: deque[Work]) -> Prompt | None:
        if not queue or not self.rows:
            return None
        needed = -(-len(queue[0].prompt) // BLOCK)
        if len(self.prompt_blocks) < needed:
            return None
        work = queue.popleft()
        blocks = [heapq.heappop(self.prompt_blocks) for _ in range(needed)]
        prompt = Prompt(work, heapq.heappop(self.rows), blocks, deque(work.samples))
        self.open.append(prompt)
        return prompt

    def end(self, index: int) -> None:
        """Takes back a slot and what only it needed."""
        slot = self.slots[index]
        assert slot is not None
        self.slots[index] = None
        for block in slot.blocks:
            heapq.heappush(self.own_blocks, block)
        prompt = slot.prompt
        prompt.decoding -= 1
        if not prompt.decoding and not prompt.waiting:
            self.open.remove(prompt)
            heapq.heappush(self.rows, prompt.row)
            for block in prompt.blocks:
                heapq.heappush(self.prompt_blocks, block)

    def shrink(self, sizes: Sizes) -> tuple[dict[int, int], dict[int, int]]:
        """Moves the samples that decode into the first slots, and what they need into the first
        blocks; returns {from: to} of own blocks and of prompts' ones."""
        decoding = [s for s in self.slots if s is not None]
        self.slots = [*decoding, *[None] * (sizes.slots - len(decoding))]
        own = _move_together([s.blocks for s in decoding], 1)
        prompts = _move_together([p.blocks for p in self.open], 0)
        self.own_blocks = _free([s.blocks for s in decoding], range(1, sizes.own_blocks()))
        self.prompt_blocks = _free([p.blocks for p in self.open], range(sizes.prompt_blocks))
        return own, prompts

    def begin_interval(self) -> None:
        """Gives each sample the block that its next tokens go to."""
        for slot in self.slots:
            if slot is not None and slot.length % BLOCK == 0:
                slot.blocks.append(heapq.heappop(self.own_blocks))

    def own_used(self) -> int:
        """One past the highest block in use."""
        return 1 + max((b for s in self.slots if s is not None for b in s.blocks), default=0)


def _move_together(lists: list[list[int]], first: int) -> dict[int, int]:
    """Renumbers blocks in place, so that they are those from `first` on; returns the changes."""
    used = sorted(b for blocks in lists for b in blocks)
    end = first + len(used)
    gaps = iter(sorted(set(range(first, end)) - set(used)))
    changes = {b: next(gaps) for b in used if b >= end}
    for blocks in lists:
        blocks[:] = [changes.get(b, b) for b in blocks]
    return changes


def _free(lists: list[list[int]], all_blocks: range) -> list[int]:
    return sorted(set(all_blocks) - {b for blocks in lists for b in blocks})


def make_plan(
    shards: Sequence[Shard], examples: Sequence[int], sizes: Sizes, own: int | None = None
) -> Plan:
    """The plan of an interval that reads the first `own` own blocks of each shard (by default all),
    and all of prompts."""
    own = sizes.own_blocks() if own is None else own
    plans = [_plan(shard, examples, sizes, own) for shard in shards]
    return Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))


def _plan(shard: Shard, examples: Sequence[int], sizes: Sizes, own: int) -> Plan:
    prompts, members = sizes.prompt_blocks, sizes.members
    count = len(shard.slots)

    def of_slots(fill: int = 0, dtype=np.int32):
        return np.full(count, fill, dtype)

    plan = Plan(
        source=of_slots(),
        example=of_slots(dtype=np.uint32),
        sample=of_slots(dtype=np.uint32),
        start=of_slots(),
        limit=of_slots(),
        prompt_length=of_slots(1),
        active=of_slots(dtype=bool),
        own_slot=np.zeros(own, np.int32),
        own_filled=np.zeros(own, np.int32),
        own_table=np.full((count, sizes.own_table), own, np.int32),
        members=np.zeros((prompts, members), np.int32),
        prompt_filled=np.zeros(prompts, np.int32),
        prompt_table=np.full((count, sizes.prompt_table), prompts * members, np.int32),
        write_block=of_slots(),
        write_offset=of_slots(),
    )
    seats: dict[int, int] = {}
    for i, slot in enumerate(shard.slots):
        if slot is None:
            continue
        work, length = slot.prompt.work, slot.length
        plan.source[i] = slot.source
        plan.example[i] = examples[work.question]
        plan.sample[i] = slot.sample
        plan.start[i] = length
        plan.limit[i] = slot.limit
        plan.prompt_length[i] = len(work.prompt)
        plan.active[i] = True
        plan.own_slot[slot.blocks] = i
        plan.own_filled[slot.blocks] = BLOCK
        plan.own_filled[slot.blocks[-1]] = length % BLOCK
        plan.own_table[i, : len(slot.blocks)] = slot.blocks
        plan.write_block[i] = slot.blocks[-1]
        plan.write_offset[i] = length % BLOCK
        seat = seats.get(slot.prompt.row, 0)
        seats[slot.prompt.row] = seat + 1
        for n, block in enumerate(slot.prompt.blocks):
            plan.members[block, seat] = i
            plan.prompt_filled[block] = min(BLOCK, len(work.prompt) - n * BLOCK)
            plan.prompt_table[i, n] = block * members + seat
    return plan
