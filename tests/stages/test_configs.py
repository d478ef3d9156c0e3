"""What configurations say: the paper's numbers; that each is run is seen in test_smoke_*.py."""

import runpy

import pytest

from tests.conftest import REPO
from tests.stages.smoke import RL, SUPERVISED


def test_every_config_is_run_here():
    names = [p.stem for p in (REPO / "configs").glob("*.py")]
    names = [name for name in names if not name.startswith("mine_")]  # tests/mining
    assert sorted(SUPERVISED + RL) == sorted(names)


def paper_config(name):
    return runpy.run_path(str(REPO / "configs" / f"{name}.py"))["get_config"]()


@pytest.mark.parametrize(
    "name, model, tokens, steps, rate",
    [
        # 2.2: 150B tokens, batches of 4M; 2.3: 500B, batches of 10M; 3: 500 steps of 256 rows.
        ("pretrain_1_3b_tpu", "deepseek_1_3b", 4e6, 150e9 / 4e6, 5.3e-4),
        ("pretrain_7b_tpu", "deepseek_7b", 10e6, 500e9 / 10e6, 4.2e-4),
        ("sft_7b_tpu", "deepseek_7b", 256 * 4096, 500, 5e-5),
    ],
)
def test_paper_configs_have_the_papers_numbers(name, model, tokens, steps, rate):
    c = paper_config(name)
    assert c.model == model and c.length == 4096
    assert c.batch_size * c.length == pytest.approx(tokens, rel=0.06)
    assert c.steps == pytest.approx(steps, rel=0.06)
    assert c.steps * c.batch_size * c.length == pytest.approx(steps * tokens, rel=0.01)
    optimizer = c.optimizer
    assert optimizer.learning_rate == rate
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.1)
    if c.stage == "pretrain":
        assert (optimizer.schedule, optimizer.warmup_steps) == ("multi_step", 2000)
    else:
        assert optimizer.schedule == "constant"


def test_the_base_models_mixture_is_the_papers():
    shares = {k: v.weight for k, v in paper_config("pretrain_7b_tpu").data.mixture.items()}
    assert shares == {
        "math": 0.56,
        "algebraic_stack": 0.04,
        "arxiv": 0.1,
        "code": 0.2,
        "language": 0.1,
    }
