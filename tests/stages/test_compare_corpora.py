"""launch/compare.py: one model on several corpora, and what the comparison says of them."""

import json

import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.data.word_problems import generate
from dsmath_jax.stages import corpora_report
from dsmath_jax.stages.corpora import parse_sources


def test_sources_are_parsed():
    assert parse_sources("a=x/y,b=z.jsonl:body,c=q:/s.jsonl:problem+solution", "--corpora") == {
        "a": {"path": "x/y"},
        "b": {"path": "z.jsonl", "text_field": "body"},
        "c": {
            "path": "q:/s.jsonl",
            "text_field": "",
            "question_field": "problem",
            "solution_field": "solution",
        },
    }
    with pytest.raises(InputError, match=r"--corpora: 'x/y' is not NAME=PATH"):
        parse_sources("x/y", "--corpora")
    with pytest.raises(InputError, match="two of the name a"):
        parse_sources("a=x,a=y", "--heldout")


def test_tokens_needed_to_reach_a_loss_by_hand():
    curves = {
        "mined": [(0, 8.0), (10, 4.0), (20, 2.0)],
        "random": [(0, 8.0), (10, 5.0), (20, 3.0)],
        "best": [(0, 8.0), (10, 2.0), (20, 1.0)],
        "worse": [(0, 8.0), (10, 9.0), (20, 9.5)],  # than an untrained model: nothing to reach
    }
    assert corpora_report.needed(curves) == {"random": 15.0, "best": None}


@pytest.fixture
def data(tmp_path):
    """Corpora of word problems, of numbers, and one that is no corpus; held-out word problems."""
    texts = {
        "problems": [f"{p.question} {p.solution}" for p in generate(300, split="train", seed=0)],
        "numbers": [" ".join(map(str, range(n, 3 * n))) for n in range(20, 200)],
    }
    for name, of in texts.items():
        lines = "".join(json.dumps({"text": text}) + "\n" for text in of)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    rows = [
        {"problem": p.question, "worked": p.solution} for p in generate(20, split="heldout", seed=1)
    ]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def command(data, workdir, *flags):
    return (
        "--config=configs/pretrain_1_3b_tpu.py:smoke",  # the one for a pod
        f"--corpora=problems={data}/problems.jsonl,numbers={data}/numbers.jsonl",
        f"--heldout=worked={data}/held.jsonl:problem+worked,numbers={data}/numbers.jsonl",
        f"--workdir={workdir}",
        "--config.length=64",
        '--config.model_changes={"num_layers": 1, "hidden_size": 32, "num_heads": 2,'
        ' "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 64}',
        "--config.log.tensorboard=False",
        "--config.steps=12",
        "--config.eval.every=6",
        "--config.optimizer.learning_rate=0.01",
        *flags,
    )


def test_each_corpus_is_best_on_texts_like_its_own(data, launch, tmp_path):
    workdir = tmp_path / "out"
    ended = launch("compare.py", *command(data, workdir), check=True)
    result = json.loads((workdir / "comparison.json").read_text())
    tokens = 12 * 16 * 64
    assert result["tokens"] == tokens
    assert set(result["losses"]) == {"worked", "numbers"}
    for curves in result["losses"].values():
        assert [t for t, _ in curves["problems"]] == [0, tokens / 2, tokens]
        # One seed, one tokenizer: the same model before it has seen any corpus.
        assert curves["problems"][0] == curves["numbers"][0]
    last = {of: {n: c[-1][1] for n, c in v.items()} for of, v in result["losses"].items()}
    assert last["worked"]["problems"] < last["worked"]["numbers"] - 0.1
    assert last["numbers"]["numbers"] < last["numbers"]["problems"] - 0.1
    assert result["corpora"]["numbers"]["documents"] == 180
    of = result["corpora"]["problems"]
    assert of["epochs"] == pytest.approx(tokens / of["tokens"])
    assert (workdir / "comparison.png").read_bytes().startswith(b"\x89PNG")
    page = (workdir / "comparison.html").read_text()
    assert "data:image/png;base64," in page and 'href="problems/report.html"' in page
    text = (workdir / "comparison.md").read_text()
    assert f"**{last['worked']['problems']:.3f}**" in text and "| tokens | problems |" in text
    assert f"{last['worked']['problems']:.3f}" in ended.stdout

    # A finished run is not repeated.
    metrics = [(workdir / name / "metrics.jsonl").read_bytes() for name in ("problems", "numbers")]
    launch("compare.py", *command(data, workdir), check=True)
    assert metrics == [
        (workdir / name / "metrics.jsonl").read_bytes() for name in ("problems", "numbers")
    ]
    assert json.loads((workdir / "comparison.json").read_text()) == result


def test_bad_input_is_named_before_anything_is_trained(data, launch, tmp_path):
    def last_line(*flags):
        ended = launch("compare.py", *command(data, tmp_path / "out"), *flags)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr[-2000:]
        return ended.stderr.strip().split("\n")[-1]

    problems = f"problems={data}/problems.jsonl"
    line = last_line(f"--corpora={problems},more=/nowhere.jsonl")
    assert "error: corpus more: /nowhere.jsonl does not exist" in line
    assert not (tmp_path / "out" / "problems" / "checkpoints").exists()
    assert "--corpora: give two or more" in last_line(f"--corpora={problems}")
    line = last_line(f"--heldout=held={data}/held.jsonl")
    assert "no field 'text'" in line
