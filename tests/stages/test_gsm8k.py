"""SFT and GRPO on GSM8K with DeepSeek's tokenizer, from JSONL with any field names."""

import json

import numpy as np
import pytest

from dsmath_jax.data.tokenizers import load_tokenizer
from dsmath_jax.rewards import Verdict, final_answer, grade_solution
from dsmath_jax.training.metrics import read_metrics

SMALL = (
    '--config.model_changes={"hidden_size": 16, "intermediate_size": 32, "num_layers": 1,'
    ' "num_heads": 2, "num_kv_heads": 2, "head_dim": 8, "tie_embeddings": True}',
    "--config.length=256",
    "--config.batch_size=2",
    "--config.optimizer.learning_rate=0.03",
    "--config.optimizer.schedule=constant",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.every=0",
    "--config.log.tensorboard=False",
)
FIELDS = ("--config.data.question_field=problem", "--config.data.solution_field=worked")


@pytest.fixture(scope="module")
def questions(data_dir) -> list[dict[str, str]]:
    """Short questions of GSM8K's training file."""
    with (data_dir / "benchmarks/gsm8k/train.jsonl").open() as lines:
        rows = [json.loads(line) for line in lines]
    return [r for r in rows if len(r["question"]) + len(r["answer"]) < 400]


@pytest.fixture(scope="module")
def renamed(questions, tmp_path_factory):
    """Their texts under other names, with the last line of each solution by itself."""
    path = tmp_path_factory.mktemp("data") / "renamed.jsonl"
    rows = [
        {"problem": q["question"], "worked": q["answer"], "last": q["answer"].split("\n")[-1]}
        for q in questions
        if final_answer(q["answer"]) in ("5", "10", "20")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_sft_learns_the_solutions(renamed, data_dir, tmp_path, launch):
    launch(
        "train.py",
        "--config=configs/sft_gsm8k.py",
        f"--workdir={tmp_path}",
        f"--config.tokenizer={data_dir / 'tokenizer'}",
        f"--config.data.path={renamed}",
        f"--config.data.heldout_path={renamed}",
        "--config.data.num_heldout=8",
        *FIELDS,
        *SMALL,
        "--config.steps=5",
        check=True,
    )
    rows = read_metrics(tmp_path)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 5
    # A model that knows nothing gives each of 100K tokens the same chance: log(100015) = 11.5.
    np.testing.assert_allclose(losses[0], 11.5, atol=0.3)
    assert losses[-1] < losses[0] - 1
    assert rows[-1]["eval/loss"] < losses[0] - 1


def test_grpo_rewards_the_number_after_the_marks(renamed, data_dir, tmp_path, launch):
    taught, workdir = tmp_path / "taught", tmp_path / "rl"
    data = (f"--config.data.path={renamed}", "--config.data.heldout_path=", *FIELDS)
    launch(
        "train.py",
        "--config=configs/sft_gsm8k.py",
        f"--workdir={taught}",
        f"--config.tokenizer={data_dir / 'tokenizer'}",
        *data,
        "--config.data.solution_field=last",  # soon guessed: some groups have right and wrong
        *SMALL,
        "--config.steps=30",
        check=True,
    )
    launch(
        "train.py",
        "--config=configs/grpo_gsm8k.py",
        f"--workdir={workdir}",
        f"--config.init.checkpoint={taught}",
        *data,
        *SMALL[1:],
        "--config.steps=1",
        "--config.rl.questions=4",
        "--config.rl.max_new_tokens=8",
        check=True,
    )
    step = next(row for row in read_metrics(workdir) if "reward" in row)
    samples = [json.loads(line) for line in (workdir / "samples/step_000001.jsonl").open()]
    rewards = [s["reward"] for s in samples]
    assert len(rewards) == 32 and 0 < np.mean(rewards) < 1
    assert np.mean(rewards) == pytest.approx(step["reward"])
    gold = {row["problem"]: row["worked"] for row in map(json.loads, renamed.open())}
    for s in samples:
        assert s["answer"] == gold[s["question"]]
        text, number = "".join(s["completion"].split()), s["answer"].split("#### ")[1]
        if text == f"####{number}" or number not in text:
            assert s["reward"] == (number in text), s
    assert step["grad_norm"] > 1e-3


def test_reward_of_a_written_solution(questions, data_dir):
    tokenizer = load_tokenizer(data_dir / "tokenizer")
    golds = [q["answer"] for q in questions[:100]]
    rows = []
    for gold in golds:
        right = tokenizer.decode(tokenizer.encode(" " + gold))
        rows.append([right, right + "1", right.replace("####", "So"), "\\boxed{7} " + right])
    verdicts = [[grade_solution(t, g) for t in row] for row, g in zip(rows, golds, strict=True)]
    right, wrong = Verdict.RIGHT, Verdict.WRONG
    assert verdicts == [[right, wrong, wrong, right]] * 100
