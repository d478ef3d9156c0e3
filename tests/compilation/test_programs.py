"""Memory by kind, the compiler's refusals, and what to change."""

import pytest

from dsmath_jax.compilation import hlo
from dsmath_jax.compilation.programs import Report, _in_loops, _out_of_memory
from dsmath_jax.compilation.summary import summary
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.errors import TrainingError
from dsmath_jax.training.hardware import CHIPS

# A loop over 6 layers that stacks what each keeps and sums a gradient; the weights pass through.
LAYERS = """HloModule layers

%cond (c: (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64])) -> pred[] {
  %c = (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64]) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %six = s32[] constant(6)
  ROOT %lt = pred[] compare(%i, %six), direction=LT
}

%body (b: (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64])) -> (s32[]) {
  %b = (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64]) parameter(0)
  %i.1 = s32[] get-tuple-element(%b), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i.1, %one)
  %w = f32[6,64,32] get-tuple-element(%b), index=1
  %old = bf16[6,8,16,64] get-tuple-element(%b), index=2
  %kept = bf16[6,8,16,64] multiply(%old, %old)
  %sum = f32[6,64,32] get-tuple-element(%b), index=3
  %more = f32[6,64,32] add(%sum, %w)
  %v = f32[64] get-tuple-element(%b), index=4
  %u = f32[64] add(%v, %v)
  ROOT %t = (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64]) tuple(%next, %w, %kept, %more, %u)
}

ENTRY %main (p: f32[6,64,32]) -> f32[6,64,32] {
  %p = f32[6,64,32] parameter(0), metadata={op_name="state.params['w']"}
  %zero = s32[] constant(0)
  %x = bf16[6,8,16,64] constant({...})
  %y = f32[64] constant({...})
  %t.1 = (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64]) tuple(%zero, %p, %x, %p, %y)
  %loop = (s32[], f32[6,64,32], bf16[6,8,16,64], f32[6,64,32], f32[64]) while(%t.1), condition=%cond, body=%body, metadata={op_name="jit(update)/jvp()/while"}
  ROOT %out = f32[6,64,32] get-tuple-element(%loop), index=3
}
"""  # noqa: E501


def test_what_loops_carry_is_told_apart():
    found = _in_loops(hlo.parse(LAYERS), ["state.params['w']"])
    assert found == {"gradients": 6 * 64 * 32 * 4, "activations": 6 * 8 * 16 * 64 * 2}


def test_both_of_the_compilers_refusals_are_read():
    chip, gib = CHIPS["v5p"], 2**30
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 113.5G of 94.5G hbm."
    assert _out_of_memory(said, 10.5 * gib, chip) == (103 * gib, 94.5 * gib)
    said = "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (512.00M) exceeds "
    assert _out_of_memory(said + "available HBM (95.74G).", gib, chip) == (gib / 2, chip.memory)


def test_an_unknown_refusal_is_not_taken_for_a_size():
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 40M of 16M vmem."
    with pytest.raises(TrainingError, match="vmem"):
        _out_of_memory(said, 0.0, CHIPS["v5p"])


@pytest.mark.parametrize(
    ("program", "kind", "change"),
    [
        ("update", "temporary", "raise config.micro_batches"),
        ("update", "optimizer", "a larger slice"),
        ("log-probs", "temporary", "raise config.micro_batches"),
        ("reshard", "generation weights", "raise config.rl.tensor"),
        ("prefill", "temporary", "lower config.rl.max_rows"),
        ("decode", "KV cache", "lower config.rl.max_rows"),
        ("held-out loss", "temporary", "lower config.eval.batch_size"),
    ],
)
def test_the_advice_is_of_the_program_that_does_not_fit(program, kind, change):
    report = Report(program, 1, 0.0, 1.0, 100.0, {"weights": 10.0, kind: 200.0}, {}, "too large")
    mesh = {"data": 2, "fsdp": 2, "tensor": 1, "sequence": 1}
    *_, said = summary(get_defaults("rl"), [report], 0.0, 0.0, CHIPS["v5e"], mesh, None)
    assert f"{program} does not fit" in said and change in said


def test_where_not_one_row_fits_beside_the_state_the_advice_is_to_split_the_state():
    memory = {"weights": 30.0, "optimizer": 40.0, "gradients": 20.0, "temporary": 50.0}
    report = Report("update", 1, 0.0, 1.0, 100.0, memory, {}, "too large")
    for data, said in (
        (4, "config.mesh.fsdp (now 2) in place of config.mesh.data (now 4)"),
        (1, ""),
    ):
        mesh = {"data": data, "fsdp": 2, "tensor": 1, "sequence": 1}
        *_, last = summary(get_defaults("sft"), [report], 0.0, 0.0, CHIPS["v5e"], mesh, 0)
        assert "a larger slice" in last and said in last and "micro_batches" not in last
