"""The benchmark of generation: tokens that are counted, ratios that fit their parts, the bound."""

import importlib.util
import json
import runpy

import pytest

from dsmath_jax.benchmarks import generation
from dsmath_jax.benchmarks.decode_bound import decode_bytes
from dsmath_jax.data.errors import InputError
from dsmath_jax.models import preset
from tests.conftest import REPO

CHANGES = {
    "length": 24,
    "rl.max_new_tokens": 12,
    "rl.questions": 2,
    "rl.group": 4,
    "model": "tiny",
    "measure.left_out": 0,
    "measure.rounds": 2,
}
SMALL = [f"--config.{name}={value}" for name, value in CHANGES.items()]
HAS_TORCH = all(map(importlib.util.find_spec, ("torch", "transformers")))


def small_config(**changes):
    config = runpy.run_path(str(REPO / "configs" / "bench" / "generation.py"))["get_config"]()
    config.measure.torch = False
    config.update_from_flattened_dict(CHANGES | changes)
    return config


def check_speed(side, compiles=True):
    assert side["tokens_per_s_lowest"] <= side["tokens_per_s"] <= side["tokens_per_s_highest"]
    rates = (side["tokens_per_s_lowest"], side["tokens_per_s_highest"])
    assert rates[0] <= side["tokens"] / side["seconds"] * 1.001
    assert side["tokens"] / side["seconds"] <= rates[1] * 1.001
    assert side["first_call_s"] > (side["seconds"] if compiles else 0)
    assert 0.05 < side["peak_memory_gb"] < 10


def check_against(ours, theirs):
    low, middle, high = (theirs[f"ours_over_theirs{end}"] for end in ("_lowest", "", "_highest"))
    assert 0 < low <= middle <= high
    assert low <= ours["tokens_per_s_highest"] / theirs["tokens_per_s_lowest"]
    memory = ours["peak_memory_gb"] / theirs["peak_memory_gb"]
    assert theirs["our_memory_over_theirs"] == pytest.approx(memory)


def test_numbers_fit_together_and_are_written_down(launch, tmp_path):
    out = tmp_path / "result.json"
    flags = [*SMALL, "--config.measure.ending_ids=0", f"--out={out}"]
    launch("bench.py", "--config=configs/bench/generation.py", *flags, check=True)
    numbers = json.loads(out.read_text())["numbers"]
    ours = numbers["ours"]
    check_speed(ours)
    assert ours["tokens"] == 2 * 4 * 12  # nothing ends before the limit
    assert ours["prefill"]["tokens_per_s"] == pytest.approx(2 * 12 / ours["prefill"]["seconds"])
    decode = ours["decode"]
    assert decode["seconds"] == pytest.approx(ours["seconds"] - ours["prefill"]["seconds"])
    assert decode["tokens_per_s"] == pytest.approx(2 * 4 * 11 / decode["seconds"])
    assert decode["seconds_per_step"] == pytest.approx(decode["seconds"] / 11)
    assert "share_of_bound" not in decode  # a processor's bandwidth is unknown
    if HAS_TORCH:
        check_speed(numbers["transformers"], compiles=False)
        assert numbers["transformers"]["tokens"] == 2 * 4 * 12
        check_against(ours, numbers["transformers"])


def test_the_token_that_ends_a_sample_counts():
    changes = {"measure.ending_ids": 506, "measure.torch": HAS_TORCH, "measure.rounds": 1}
    numbers = generation.run(small_config(**changes))
    for side in numbers.values():
        assert 8 <= side["tokens"] <= 10  # 8 samples, which the first token ends 506 times in 512
    assert "seconds_per_step" not in numbers["ours"]["decode"]


def test_tunix_is_measured_alike(tunix_python):
    changes = {"measure.tunix": tunix_python, "measure.ending_ids": 506}
    ended = generation.run(small_config(**changes))
    assert 8 <= ended["tunix"]["tokens"] <= 10
    numbers = generation.run(small_config(**changes | {"measure.ending_ids": 0}))
    assert numbers["tunix"]["tokens"] == 2 * 4 * 12
    check_speed(numbers["tunix"])
    check_against(numbers["ours"], numbers["tunix"])


def test_batches_of_one_shape():
    changes = {"measure.batches": (4, 8), "measure.ending_ids": 0, "measure.rounds": 1}
    numbers = generation.run(small_config(**changes))
    assert [numbers[f"{rows} rows"]["ours"]["tokens"] for rows in (4, 8)] == [4 * 12, 8 * 12]
    with pytest.raises(InputError, match=r"6 is not a multiple of config\.rl\.group=4"):
        generation.run(small_config(**{"measure.batches": (6,)}))


def test_bytes_of_a_step_by_hand():
    # The head, 2 layers of (4 x 64 x 64 + 3 x 64 x 96 + 2 norms), and the last norm.
    weights = 256 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
    cached = 2 * 2 * 2 * 32 * (3 * 100 + 12 * 5)  # 12 rows with 1 to 9 tokens each
    shape = preset(
        "tiny", vocab_size=256, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=2,
        num_kv_heads=2, head_dim=32,
    )  # fmt: skip
    call = dict(prompts=3, rows=12, prompt_length=100, max_new_tokens=10)
    assert decode_bytes(shape, "bfloat16", **call) == 2 * (weights + cached)
    split = decode_bytes(shape, "float32", **call, devices=4, tensor=2)
    assert split == 4 * (weights / 2 + cached / 4)


def test_share_of_the_bound_by_hand():
    class Ours:
        def ask(self, request):
            assert request["max_new_tokens"] == 1
            return {"seconds": 1.0}

    config = small_config(**{"measure.ending_ids": 0})
    shape = preset(config.model, **config.model_changes)
    answers = [{"seconds": 3.2, "tokens": 96, "devices": 1, "bandwidth": 1e7}]
    request = {"questions": 2, "rows": 8}
    decode = generation.phases(config, shape, Ours(), request, answers)["decode"]
    assert decode["seconds_per_step"] == pytest.approx(2.2 / 11)
    assert decode["share_of_bound"] == pytest.approx(decode["bytes_per_step"] / 1e7 / 0.2)


def test_ratios_are_of_rounds():
    ours = [{"tokens": 100, "seconds": s} for s in (1, 2, 4)]
    theirs = [{"tokens": 50, "seconds": s} for s in (1, 4, 1)]
    assert generation.against(ours, theirs) == {
        "ours_over_theirs": 2.0,
        "ours_over_theirs_lowest": 0.5,
        "ours_over_theirs_highest": 4.0,
    }


@pytest.mark.parametrize("benchmark", ["generation", "grpo_step"])
@pytest.mark.parametrize("path", ["/no/such/python", "/bin/false"])
def test_wrong_interpreter_is_refused(launch, benchmark, path):
    flags = [f"--config=configs/bench/{benchmark}.py", f"--config.measure.tunix={path}"]
    process = launch("bench.py", *flags)
    assert process.returncode == 2
    assert f"config.measure.tunix={path}: this is not the Python of" in process.stderr
    assert "Traceback" not in process.stderr
