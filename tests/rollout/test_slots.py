"""The host's account of slots and blocks."""

import random
from collections import deque

import numpy as np
import pytest

from dsmath_jax.rollout.slots import Shard, Sizes, make_plan, works


@pytest.mark.parametrize("seed", range(5))
def test_no_block_has_two_owners_and_all_come_back(seed):
    draw = random.Random(seed)
    questions, group = draw.randint(1, 9), draw.randint(1, 12)
    prompts = [[1] * draw.randint(1, 100) for _ in range(questions)]
    limits = np.array([[draw.randint(1, 300) for _ in range(group)] for _ in range(questions)])
    sizes = first = Sizes.of(
        questions * group, group, max(map(len, prompts)), limits.max(), draw.randint(1, 40), 1
    )
    queue = deque(works(range(questions * group), group, sizes.share, prompts, limits))
    shard, done = Shard(sizes), []
    while True:
        shard.admit(queue)
        decoding = [s for s in shard.slots if s is not None]
        if not decoding:
            break
        if not queue and 4 * len(decoding) <= sizes.slots:
            sizes = sizes.fewer()
            shard.shrink(sizes)
        shard.begin_interval()
        own = [b for s in decoding for b in s.blocks]
        shared = [b for p in shard.open for b in p.blocks]
        assert len(set(own)) == len(own) and len(set(shared)) == len(shared)
        assert all(0 < b < sizes.own_blocks() for b in own)
        assert all(0 <= b < sizes.prompt_blocks for b in shared)
        assert not set(own) & set(shard.own_blocks)
        reads = sizes.own_blocks(shard.own_used())
        assert shard.own_used() <= reads <= sizes.own_blocks()
        plan = make_plan([shard], range(questions), sizes, reads)
        assert (plan.own_filled.sum(), plan.active.sum()) == (
            sum(s.length for s in decoding),
            len(decoding),
        )
        for n, slot in enumerate(shard.slots):
            if slot is not None:
                seats = plan.prompt_table[n, : len(slot.prompt.blocks)]
                assert (plan.members.reshape(-1)[seats] == n).all()
                slot.length, slot.source = min(slot.length + 8, slot.limit), n
                if slot.length == slot.limit or draw.random() < 0.1:
                    done.append((slot.prompt.work.question, slot.sample))
                    shard.end(n)
    assert sorted(done) == [(q, g) for q in range(questions) for g in range(group)]
    assert not shard.open
    assert sorted(shard.own_blocks) == list(range(1, sizes.own_blocks()))
    assert len(shard.rows) == first.prompts


def test_shrinking_names_every_block_that_moved():
    sizes = Sizes.of(16, 4, 64, 96, 16, 1)
    shard = Shard(sizes)
    limits = np.full((4, 4), 96)
    shard.admit(deque(works(range(16), 4, sizes.share, [[1] * 64] * 4, limits)))
    for _ in range(2):
        shard.begin_interval()
        for slot in shard.slots:
            slot.length += 32
    for n in range(14):
        shard.end(n)
    before = [list(s.blocks) for s in shard.slots[14:]]
    prompt = list(shard.slots[14].prompt.blocks)
    fewer = sizes.fewer()
    own, prompts = shard.shrink(fewer)
    assert [[own.get(b, b) for b in blocks] for blocks in before] == [
        s.blocks for s in shard.slots[:2]
    ]
    assert [prompts.get(b, b) for b in prompt] == shard.slots[0].prompt.blocks
    assert sorted(b for s in shard.slots[:2] for b in s.blocks) == [1, 2, 3, 4]
    assert len(shard.slots) == 4 and shard.slots[2:] == [None] * 2


def test_programs_have_few_shapes():
    sizes = Sizes.of(4096, 64, 512, 1024, 512, 1)
    reads = {sizes.own_blocks(n) for n in range(2, sizes.own_blocks() + 1)}
    assert len(reads) == 8
    assert max(b - a for a, b in zip([1, *sorted(reads)], sorted(reads), strict=False)) <= 512 * 4
