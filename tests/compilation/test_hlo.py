"""The reader of compiled programs, on texts made by hand and on one that XLA made."""

import jax
import jax.numpy as jnp
import pytest

from dsmath_jax.compilation import costs, hlo

# 3 turns of 5 turns of a product [4, 8] x [8, 8], the inner loop's condition inside a fusion and
# counting down from a carried element's constant; in steps of 2 from 1 to 10.
NESTED = """HloModule nested, is_scheduled=true

%inner_cond_fusion (p: s32[]) -> pred[] {
  %p = s32[]{:T(128)} parameter(0)
  %ten = s32[] constant(10)
  ROOT %lt = pred[] compare(%p, %ten), direction=LT
}

%inner_cond (c: (s32[], f32[4,8])) -> pred[] {
  %c = (s32[], f32[4,8]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %go = pred[] fusion(%i), kind=kLoop, calls=%inner_cond_fusion
}

%product (a: f32[4,8], b: f32[8,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,8]{1,0} parameter(1)
  ROOT %dot.1 = f32[4,8]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%inner_body (c.1: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %c.1 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%c.1), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i.1, %two)
  %x = f32[4,8]{1,0} get-tuple-element(%c.1), index=1
  %w = f32[8,8]{1,0} constant({...})
  %y = f32[4,8]{1,0} fusion(%x, %w), kind=kOutput, calls=%product, metadata={op_name="a/b"
kernel_metadata={
}} stack_frame_id=2}
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%next, %y)
}

%outer_cond (c.2: (s32[], f32[4,8])) -> pred[] {
  %c.2 = (s32[], f32[4,8]{1,0}) parameter(0)
  %three = s32[] constant(3)
  %i.2 = s32[] get-tuple-element(%c.2), index=0
  ROOT %gt = pred[] compare(%three, %i.2), direction=GT
}

%outer_body (c.3: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %c.3 = (s32[], f32[4,8]{1,0}) parameter(0)
  %i.3 = s32[] get-tuple-element(%c.3), index=0
  %one = s32[] constant(1)
  %next.3 = s32[] add(%one, %i.3)
  %x.3 = f32[4,8]{1,0} get-tuple-element(%c.3), index=1
  %start = (s32[], /*index=1*/f32[4,8]{1,0}) tuple(%one, %x.3)
  %loop = (s32[], f32[4,8]{1,0}) while(%start), condition=%inner_cond, body=%inner_body
  %z = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  ROOT %t.3 = (s32[], f32[4,8]{1,0}) tuple(%next.3, %z)
}

ENTRY %main (arg: f32[4,8]) -> f32[4,8] {
  %arg = f32[4,8]{1,0} parameter(0), metadata={op_name="params[\\'w\\']"}
  %zero = s32[] constant(0)
  %carry = (s32[], f32[4,8]{1,0}) tuple(%zero, %arg)
  %outer = (s32[], f32[4,8]{1,0}) while(%carry), condition=%outer_cond, body=%outer_body
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%outer), index=1
}
"""


def test_nested_loops_multiply():
    module = hlo.parse(NESTED)
    times = {op.name: t for _, op, t in module.executed()}
    assert times["loop"] == 3
    assert times["y"] == 3 * 5  # 1, 3, 5, 7, 9
    assert costs.flops(module) == 15 * (2 * 4 * 8 * 8)
    assert module.unknown_loops == []


def test_bytes_of_a_loop_are_those_of_its_body():
    # The fusion reads [4, 8] and [8, 8] and writes [4, 8]; the adds are 4-byte scalars.
    body = 4 * (4 * 8 + 8 * 8 + 4 * 8)
    scalars = 3 * (4 + 4 + 4) + 15 * (4 + 4 + 4)
    assert costs.hbm_bytes(hlo.parse(NESTED)) == 15 * body + scalars


def test_a_loop_that_ends_by_its_data_counts_as_often_as_assumed():
    module = hlo.parse(NESTED.replace("%ten = s32[] constant(10)", "%ten = s32[] negate(%p)"))
    assert {op.name: t for _, op, t in module.executed()}["y"] == 3
    assert module.unknown_loops == ["loop"]
    module.assumed_turns = 7
    assert {op.name: t for _, op, t in module.executed()}["y"] == 3 * 7


@pytest.mark.parametrize(
    ("text", "bytes_", "space"),
    [
        ("bf16[4,32,1,16]{1,3,2,0:T(8,128)(2,1)S(1)}", 4 * 32 * 16 * 2, 1),
        ("f32[]{:T(128)}", 4, 0),
        ("pred[7]{0}", 7, 0),
        ("f8e4m3fn[16]", 16, 0),
        ("s4[16]", 8, 0),
    ],
)
def test_shapes(text, bytes_, space):
    (array,) = hlo.parse_shape(text)
    assert (array.bytes, array.space) == (bytes_, space)


def test_slices_inside_a_fusion_read_only_what_they_take():
    text = """HloModule slices

%take (p0: f32[10,1000], p1: s32[], p2: f32[10,1000]) -> f32[10,1000] {
  %p0 = f32[10,1000]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[10,1000]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,1000]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,1000}
  ROOT %put = f32[10,1000]{1,0} dynamic-update-slice(%p2, %row, %p1, %zero)
}

ENTRY %main (a: f32[10,1000], i: s32[], b: f32[10,1000]) -> f32[10,1000] {
  %a = f32[10,1000]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[10,1000]{1,0} parameter(2)
  ROOT %out = f32[10,1000]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%take
}
"""
    assert costs.hbm_bytes(hlo.parse(text)) == 4000 + 4 + 4000  # row, index; row written
    inside = text.replace(
        "dynamic-slice(%p0, %p1, %zero)", "fusion(%p0, %p1), kind=kLoop, calls=%r"
    )
    inside = inside.replace(
        "HloModule slices\n",
        """HloModule slices

%r (q0: f32[10,1000], q1: s32[]) -> f32[1,1000] {
  %q0 = f32[10,1000]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  ROOT %one = f32[1,1000]{1,0} dynamic-slice(%q0, %q1, %q1), dynamic_slice_sizes={1,1000}
}
""",
    )
    assert costs.hbm_bytes(hlo.parse(inside)) == 4000 + 4 + 4000
    # Through a copy into another layout, fused as TPU7x's compiler does.
    relaid = inside.replace("dynamic-slice(%q0, %q1", "dynamic-slice(%l, %q1").replace(
        "  %q1 = s32[] parameter(1)\n",
        "  %q1 = s32[] parameter(1)\n"
        "  %l = f32[10,1000]{0,1} fusion(%q0), kind=kLoop, calls=%layout\n",
        1,
    )
    relaid = relaid.replace("HloModule slices\n", "HloModule slices\n" + LAYOUT)
    assert costs.hbm_bytes(hlo.parse(relaid)) == 4000 + 4 + 4000


LAYOUT = """
%layout (s0: f32[10,1000]) -> f32[10,1000] {
  %s0 = f32[10,1000]{1,0} parameter(0)
  ROOT %moved = f32[10,1000]{0,1} copy(%s0)
}
"""


def test_a_fused_copy_reads_all_of_what_a_product_takes():
    alone = """HloModule copies
ENTRY %main (a: f32[10,1000]) -> f32[10,1000] {
  %a = f32[10,1000]{1,0} parameter(0)
  ROOT %out = f32[10,1000]{0,1} fusion(%a), kind=kLoop, calls=%layout
}
""".replace("HloModule copies\n", "HloModule copies\n" + LAYOUT)
    assert costs.hbm_bytes(hlo.parse(alone)) == 40000 + 40000
    before_a_product = """HloModule products
%product (p0: f32[10,1000], p1: f32[10,1000]) -> f32[1000,1000] {
  %p0 = f32[10,1000]{1,0} parameter(0)
  %p1 = f32[10,1000]{1,0} parameter(1)
  %l = f32[10,1000]{0,1} fusion(%p0), kind=kLoop, calls=%layout
  ROOT %d = f32[1000,1000]{1,0} dot(%l, %p1), lhs_contracting_dims={0}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[10,1000], b: f32[10,1000]) -> f32[1000,1000] {
  %a = f32[10,1000]{1,0} parameter(0)
  %b = f32[10,1000]{1,0} parameter(1)
  ROOT %out = f32[1000,1000]{1,0} fusion(%a, %b), kind=kOutput, calls=%product
}
""".replace("HloModule products\n", "HloModule products\n" + LAYOUT)
    assert costs.hbm_bytes(hlo.parse(before_a_product)) == 40000 + 40000 + 4_000_000


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("(f32[8]{0:S(1)}, f32[8], u32[]{:S(2)}) copy-start(%hbm)", 32),  # on to the chip
        ("(f32[8], f32[8]{0:S(1)}, u32[]{:S(2)}) copy-start(%chip)", 32),  # and back
        ("((f32[8]), f32[2]{0:S(1)}, s32[]{:S(2)}) slice-start(%hbm), slice={[0:2]}", 8),
        ("((f32[8]{0:S(1)}), f32[2], s32[]{:S(2)}) slice-start(%chip), slice={[0:2]}", 8),
        ("f32[8] all-reduce-start(%hbm)", 64),
        ("(f32[8], f32[32]) all-gather-start(%hbm)", 32 + 128),
        ("(f32[8], f32[8], u32[]{:S(2)}) collective-permute-start(%hbm)", 64),
        ('f32[8] custom-call(), custom_call_target="AllocateBuffer"', 0),
        ("f32[8] add(%hbm, %chip)", 64),
    ],
)
def test_hbm_bytes_of_an_operation(text, bytes_):
    module = hlo.parse(f"""HloModule one

ENTRY %main (hbm: f32[8], chip: f32[8]) -> f32[8] {{
  %hbm = f32[8]{{0}} parameter(0)
  %chip = f32[8]{{0:S(1)}} parameter(1)
  ROOT %x = {text}
}}
""")
    assert costs.hbm_bytes(module) == bytes_


def test_products_in_scans_that_xla_compiled():
    weights = jnp.ones((6, 16, 16))

    def layer(x, w):
        return jnp.tanh(x @ w), None

    def twice(x, _):
        return jax.lax.scan(layer, x, weights)[0], None

    compiled = jax.jit(lambda x: jax.lax.scan(twice, x, None, length=4)[0]).lower(jnp.ones((8, 16)))
    module = hlo.parse(compiled.compile().as_text())
    assert costs.flops(module) == 4 * 6 * (2 * 8 * 16 * 16)


@pytest.mark.parametrize(
    ("left", "right", "out", "attributes", "products"),
    [
        # [b, f] x [i, o]
        ((4, 8), (8, 16), (4, 16), "dim_labels=bf_io->bf", 4 * 8 * 16),
        # A batch of 2 x 3 products [5, 7] x [7, 6], as the TPU compiler writes them: windows over
        # dilated elements, of which one position meets an element.
        (
            (2, 3, 5, 7),
            (2, 3, 6, 7),
            (2, 3, 5, 6),
            "window={size=2x3 stride=1x2 lhs_dilate=2x3}, dim_labels=01bf_01oi->01bf",
            2 * 3 * 5 * 7 * 6,
        ),
        # [2, 64 of positions] x a kernel of 4 at every position but the ends: an ordinary one.
        (
            (2, 10, 3),
            (4, 3, 5),
            (2, 7, 5),
            "window={size=4}, dim_labels=b0f_0io->b0f",
            2 * 7 * 4 * 3 * 5,
        ),
        # Padding of 3 on both sides meets nothing: 1 + 2 + 3 + 4 + 3 + 2 + 1 of 7 x 4 positions.
        (
            (2, 4, 3),
            (4, 3, 5),
            (2, 7, 5),
            "window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=b0f_0io->b0f",
            2 * 16 * 3 * 5,
        ),
    ],
)
def test_convolutions_count_what_meets(left, right, out, attributes, products):
    def array(dims):
        return f"f32[{','.join(map(str, dims))}]"

    text = f"""HloModule one

ENTRY %main (a: {array(left)}, b: {array(right)}) -> {array(out)} {{
  %a = {array(left)} parameter(0)
  %b = {array(right)} parameter(1)
  ROOT %c = {array(out)} convolution(%a, %b), {attributes}
}}
"""
    assert costs.flops(hlo.parse(text)) == 2 * products
