"""What a program sends, on texts made by hand with numbers worked out by hand."""

import numpy as np
import pytest

from dsmath_jax.compilation import costs, hlo
from dsmath_jax.compilation.collectives import collectives
from dsmath_jax.compilation.design import Design, unasked

MESH = {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}

# In 6 turns: a weight's bf16 cast gathered over fsdp by an asynchronous pair, an activation by an
# all-to-all, a gradient reduced by a fusion that keeps its slice.
LOOP = """HloModule loop

%cond (c: (s32[], f32[1024,256])) -> pred[] {
  %c = (s32[], f32[1024,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %six = s32[] constant(6)
  ROOT %lt = pred[] compare(%i, %six), direction=LT
}

%scatter (p: f32[4096,256], at: s32[]) -> f32[1024,256] {
  %p = f32[4096,256]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %all = f32[4096,256]{1,0} all-reduce(%p), channel_id=3, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %mine = f32[1024,256]{1,0} dynamic-slice(%all, %at, %at), dynamic_slice_sizes={1024,256}
}

%body (c.1: (s32[], f32[1024,256])) -> (s32[], f32[1024,256]) {
  %c.1 = (s32[], f32[1024,256]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c.1), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
  %w = f32[1024,256]{1,0} get-tuple-element(%c.1), index=1
  %cast = bf16[1024,256]{1,0} convert(%w)
  %start = (bf16[1024,256], bf16[4096,256]) all-gather-start(%cast), replica_groups=[2,4]<=[8],
metadata={stack_frame_id=1}
  %whole = bf16[4096,256]{1,0} all-gather-done(%start)
  %x = f32[4096,256]{1,0} multiply(%whole, %whole)
  %moved = f32[4096,256]{1,0} all-to-all(%x), replica_groups={{0,1,2,3},{4,5,6,7}}
  %grad = f32[1024,256]{1,0} fusion(%moved, %i.1), kind=kCustom, calls=%scatter
  ROOT %t = (s32[], f32[1024,256]{1,0}) tuple(%next, %w)
}

ENTRY %main (w: f32[1024,256]) -> f32[1024,256] {
  %w.1 = f32[1024,256]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %carry = (s32[], f32[1024,256]{1,0}) tuple(%zero, %w.1)
  %loop = (s32[], f32[1024,256]{1,0}) while(%carry), condition=%cond, body=%body
  ROOT %out = f32[1024,256]{1,0} get-tuple-element(%loop), index=1
}
"""
LOOP_HEAD = """FileNames
1 "/somewhere/dsmath_jax/models/transformer.py"

FileLocations
1 {file_name_id=1 function_name_id=1 line=42 end_line=42 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
"""


def find(text, argument="state.params['w']", mesh=MESH):
    return collectives(hlo.parse(text), mesh, [argument])


def test_bytes_times_and_axes():
    gather, exchange, scatter = find(LOOP)
    assert (gather.kind, gather.times, gather.axes, gather.ways) == ("all-gather", 6, ("fsdp",), 4)
    assert gather.sent == 6 * 4096 * 256 * 2 * 3 / 4
    assert gather.data == ("state.params['w']",)
    assert (exchange.kind, exchange.axes, exchange.data) == ("all-to-all", ("fsdp",), ("computed",))
    assert exchange.sent == 6 * 4096 * 256 * 4 * 3 / 4
    assert scatter.kind == "reduce-scatter"
    assert scatter.sent == 6 * 4096 * 256 * 4 * 3 / 4


def test_a_ring_of_permutes_is_the_gather_it_was_made_of():
    metadata = 'metadata={op_name="jit(f)/dot_general" stack_frame_id=3}'
    pairs = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    text = f"""HloModule ring

ENTRY %main (w: f32[1024,256]) -> bf16[1024,256] {{
  %w = f32[1024,256] parameter(0)
  %a = bf16[1024,256] convert(%w)
  %b = bf16[1024,256] collective-permute(%a), {pairs}, {metadata}
  %c = bf16[1024,256] collective-permute(%b), {pairs}, {metadata}
  ROOT %d = bf16[1024,256] collective-permute(%c), {pairs}, {metadata}
}}
"""
    found = find(text)
    assert {(c.kind, c.ring, c.data) for c in found} == {
        ("all-gather", True, ("state.params['w']",))
    }
    assert sum(c.sent for c in found) == 4096 * 256 * 2 * 3 / 4
    sizes = {"state.params['w']": 4096 * 256}
    assert unasked(found, Design(weight_gathers=1), sizes) == []
    assert "gathered 1.0 times" in unasked(found, Design(weight_gathers=0), sizes)[0].reason
    # In both directions at once, the two middle shards may come twice.
    assert unasked([*found, found[0]], Design(weight_gathers=1), sizes) == []
    assert "gathered 2.0 times" in unasked([*found] * 2, Design(weight_gathers=1), sizes)[0].reason


def test_a_weight_that_a_loop_fetches_one_turn_ahead_is_still_a_weight():
    # The body gathers what the turn before cast, and casts the next.
    ahead = LOOP.replace("s32[], f32[1024,256]", "s32[], bf16[1024,256], f32[1024,256]")
    ahead = ahead.replace("s32[], f32[1024,256]{1,0}", "s32[], bf16[1024,256], f32[1024,256]{1,0}")
    ahead = ahead.replace("get-tuple-element(%c.1), index=1", "get-tuple-element(%c.1), index=2")
    ahead = ahead.replace(
        "%start = ", "%old = bf16[1024,256] get-tuple-element(%c.1), index=1\n  %start = "
    )
    ahead = ahead.replace("all-gather-start(%cast)", "all-gather-start(%old)")
    ahead = ahead.replace("tuple(%next, %w)", "tuple(%next, %cast, %w)")
    ahead = ahead.replace("%carry = ", "%first = bf16[1024,256] convert(%w.1)\n  %carry = ")
    ahead = ahead.replace("tuple(%zero, %w.1)", "tuple(%zero, %first, %w.1)")
    gather, *_ = find(ahead)
    assert gather.data == ("state.params['w']",)
    gather, *_ = find(ahead.replace("tuple(%next, %cast, %w)", "tuple(%next, %x, %w)"))
    assert gather.data == ("computed",)


def test_the_source_line_is_named():
    gather, *_ = find(LOOP.replace("HloModule loop\n", "HloModule loop\n\n" + LOOP_HEAD))
    assert gather.source == "dsmath_jax/models/transformer.py:42"


def test_what_the_design_explains_and_what_not():
    sizes = {"state.params['w']": 4096 * 256}
    named = unasked(find(LOOP), Design(weight_gathers=6), sizes)
    assert [u.collective.kind for u in named] == ["all-to-all"]
    named = unasked(find(LOOP), Design(weight_gathers=3), sizes)
    assert sorted(u.collective.kind for u in named) == ["all-gather", "all-to-all"]
    assert any("gathered 6.0 times, by design at most 3" in u.reason for u in named)
    assert unasked(find(LOOP), Design(0, reshards=True), sizes) == []


def one(attributes, shape="f32[4096,256]", mesh=MESH):
    text = f"""HloModule one

ENTRY %main (p: {shape}) -> {shape} {{
  %p = {shape} parameter(0)
  %x = {shape} multiply(%p, %p)
  ROOT %c = {shape} {attributes}
}}
"""
    return find(text, mesh=mesh)[0]


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",)),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp")),
        ("[4,2]<=[2,4]T(1,0)", ("data",)),
        ("mesh['x'=2,'y'=4] {'x'}", ("data",)),
        ("mesh['x'=2,'y'=4] {'x','y'}", ("data", "fsdp")),
        ("mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}", ("data",)),
        ("mesh['x'=2,'y'=4], device_ids=(0,4,1,5,2,6,3,7) {'x'}", ("fsdp",)),
    ],
)
def test_groups_are_mapped_to_mesh_axes(groups, axes):
    found = one(f"all-reduce(%x), replica_groups={groups}, to_apply=%add")
    assert found.axes == axes
    assert found.ways == np.prod([MESH[a] for a in axes])


def test_a_permutation_is_named_unless_it_is_a_product_s_ring():
    ring = "source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}"
    plain = one(f"collective-permute(%x), channel_id=1, {ring}")
    assert (plain.kind, plain.axes, plain.ways) == ("collective-permute", ("fsdp",), 4)
    assert plain.sent == 4096 * 256 * 4
    assert "shards change places" in unasked([plain], Design(3), {})[0].reason
    product = one(f'collective-permute(%x), {ring}, metadata={{op_name="jit(f)/dot_general"}}')
    assert (product.kind, product.ring) == ("reduce-scatter", True)
    assert unasked([product], Design(3), {}) == []


def test_what_a_shard_map_sends_was_asked_for():
    exchange = "all-to-all(%x), replica_groups={{0,1,2,3},{4,5,6,7}}"
    assert len(unasked([one(exchange)], Design(3), {})) == 1
    by_name = exchange + ', metadata={op_name="jit(f)/shard_map/all_to_all"}'
    assert unasked([one(by_name)], Design(3), {}) == []


def test_an_all_reduce_over_fsdp_is_named_but_not_over_tensor_nor_of_a_scalar():
    over = "all-reduce(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add"
    assert "reduce-scatter would" in unasked([one(over)], Design(3), {})[0].reason
    assert unasked([one(over, "f32[]")], Design(3), {}) == []
    mesh = {"data": 2, "fsdp": 1, "tensor": 4, "sequence": 1}
    assert unasked([one(over, mesh=mesh)], Design(3), {}) == []


def test_one_start_of_an_asynchronous_fusion_counts():
    config = 'backend_config={"async_collective_fusion_config":{"flag_start":"2"}}'
    part = f"all-gather(%p), channel_id=7, replica_groups={{{{0,1}},{{2,3}}}}, {config}"
    text = f"""HloModule parts

%first (p: f32[512,256]) -> (f32[1024,256], u32[]) {{
  %p = f32[512,256] parameter(0)
  %g = f32[1024,256] {part}
  ROOT %s = (f32[1024,256], u32[]) custom-call(%g), custom_call_target="AsyncCollectiveStart"
}}

%later (p.1: f32[512,256]) -> f32[1024,256] {{
  %p = f32[512,256] parameter(0)
  ROOT %g.1 = f32[1024,256] {part}
}}

ENTRY %main (a: f32[512,256]) -> f32[1024,256] {{
  %a = f32[512,256] parameter(0)
  %begun = (f32[1024,256], u32[]) fusion(%a), kind=kCustom, calls=%first
  ROOT %done = f32[1024,256] fusion(%a), kind=kCustom, calls=%later
}}
"""
    assert len(find(text, mesh={"data": 2, "fsdp": 2, "tensor": 1, "sequence": 1})) == 1


# TPU7x gives a gather to its SparseCores: a call that starts, in a computation of another thread,
# and beside it a copy; what is gathered comes from an argument through slices put together.
SPARSE_CORES = """HloModule sparse

%gathers (p: bf16[1024,256], t: token[]) -> bf16[4096,256] {
  %t = token[] parameter(1)
  %p = bf16[1024,256]{1,0} parameter(0)
  ROOT %gather = bf16[4096,256]{1,0} all-gather(%p), replica_groups=[2,4]<=[8], dimensions={0}
}, execution_thread="sparsecore"

%copies (p.1: bf16[4096,256]) -> bf16[4096,256] {
  %p.1 = bf16[4096,256]{1,0} parameter(0)
  ROOT %copy = bf16[4096,256]{0,1} copy(%p.1)
}, execution_thread="sparsecore"

ENTRY %main (w: bf16[1024,256]) -> bf16[4096,256] {
  %w.1 = bf16[1024,256]{1,0} parameter(0)
  %upper = bf16[512,256]{1,0:S(1)} slice(%w.1), slice={[0:512], [0:256]}
  %lower = bf16[512,256]{1,0:S(1)} slice(%w.1), slice={[512:1024], [0:256]}
  %w.2 = bf16[1024,256]{1,0:S(1)} custom-call(%upper, %lower), custom_call_target="ConcatBitcast"
  %ready = token[] custom-call(), custom_call_target="PrepareAsyncCallDone"
  %start = ((bf16[1024,256], token[]), bf16[4096,256]) call-start(%w.2, %ready), to_apply=%gathers
  %whole = bf16[4096,256]{1,0} call-done(%start)
  %start.1 = ((bf16[4096,256]), bf16[4096,256]) call-start(%whole), to_apply=%copies
  %turned = bf16[4096,256]{0,1} call-done(%start.1)
  ROOT %again = bf16[4,4096,256]{0,1} all-gather(%turned), replica_groups=[2,4]<=[8], dimensions={0}
}
"""


def test_what_sparse_cores_send_counts_once():
    gather, again = find(SPARSE_CORES)
    assert (gather.kind, gather.axes, gather.times) == ("all-gather", ("fsdp",), 1)
    assert gather.sent == 4096 * 256 * 2 * 3 / 4
    assert gather.data == again.data == ("state.params['w']",)
    part, whole = 1024 * 256 * 2, 4096 * 256 * 2
    slices, gathers, copies, last = part, part + whole, 2 * whole, 5 * whole
    assert costs.hbm_bytes(hlo.parse(SPARSE_CORES)) == slices + gathers + copies + last
