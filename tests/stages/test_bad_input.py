"""Each kind of bad input gives one clear sentence and exit status 2, and leaves no run behind."""

import json
import os
import subprocess

import orbax.checkpoint as ocp
import pytest

SFT = "--config=configs/sft_tiny.py:smoke"
RL = "--config=configs/grpo_tiny.py:smoke"


@pytest.fixture
def train(launch, tmp_path):
    def run(*flags):
        return launch("train.py", f"--workdir={tmp_path / 'run'}", *flags)

    return run


SHORT = ("--config.length=96", "--config.batch_size=8", "--config.log.tensorboard=False")


@pytest.fixture(scope="module")
def finished(launch, tmp_path_factory):
    """A run of SFT that is done; what is refused later changes nothing in it."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    launch("train.py", SFT, f"--workdir={workdir}", *SHORT, check=True)
    return workdir


def jsonl(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


GOOD = {"question": "1+1?", "answer": "#### 2"}
LEARN_LITTLE = [f"--config.init.stage.{x}" for x in ("steps=1", "length=96", "batch_size=2")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "add --config=configs/NAME.py"),
        (["--config=configs/none.py"], "there is no file configs/none.py"),
        (
            [SFT, "--config.optimizer.learning_rat=1"],
            "--config.optimizer.learning_rat: there is no such field; did you mean "
            "--config.optimizer.learning_rate?",
        ),
        ([SFT, "--config.steps=many"], "--config.steps=many: it takes int"),
        (["--config=configs/grpo_tpu.py"], "add --config.distributed=False"),
        (["--config=configs/grpo_tpu.py:smok"], "the argument 'smok' is unknown"),
        ([SFT, "--config.checkpoint.every=0"], "config.checkpoint.every=0: must be at least 1"),
        ([SFT, "--config.micro_batches=3"], "config.batch_size=16 is not a multiple of 3"),
        (
            [SFT, "--config.data.text_field=text"],
            "config.data.text_field='text' is for pretraining",
        ),
        ([RL, "--config.spikes.skip=True"], "config.spikes.skip=True: not for RL"),
        ([RL, "--config.rl.temperature=0.0"], "config.rl.temperature=0.0: must be above 0"),
        ([RL, "--config.rl.group=1"], "config.rl.group=1: GRPO compares the samples"),
        ([RL, "--config.rl.old_logprobs=new"], "config.rl.old_logprobs='new': choose one of"),
        ([RL, "--config.rl.importance_cap=2.0"], "set config.rl.old_logprobs=recompute"),
        (
            [RL, "--config.rl.algorithm=ppo", "--config.rl.dynamic_sampling=1"],
            "PPO compares no samples",
        ),
        ([RL, "--config.rl.ahead=True", "--config.rl.tensor=2"], "needs config.rl.tensor=1"),
        ([SFT, "--config.data.path=/nowhere.jsonl"], "/nowhere.jsonl does not exist"),
        (
            [SFT, "--config.data.cache=gs://bucket/tokens"],
            "gs://bucket/tokens: it must be a directory",
        ),
        ([SFT, "--config.init.checkpoint=/nowhere"], "/nowhere is not a directory"),
        ([SFT, "--config.tokenizer=/nowhere"], "/nowhere"),
        ([SFT, "--config.model=huge"], "config.model='huge' is neither one of deepseek_7b"),
        ([SFT, '--config.model_changes={"num_layer": 2}'], "num_layer"),
        ([SFT, "--config.length=100000"], "exceeds the model's context of 512"),
        ([SFT, "--config.length=30"], "more than config.length=30"),
        ([SFT, "--config.data.prompt=cot"], "did you mean 'cot_"),
        ([SFT, "--config.mesh.data=3"], "config.mesh"),
        ([SFT, "--config.optimizer.schedule=linear"], "config.optimizer.schedule='linear'"),
        ([RL, *LEARN_LITTLE, "--config.length=29"], "leaves 5"),
    ],
)
def test_one_sentence_and_status_2(flags, message, train, tmp_path):
    process = train(*flags)
    assert process.returncode == 2, process.stderr[-2000:]
    last = process.stderr.strip().split("\n")[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_empty_and_malformed_data(train, tmp_path):
    process = train(SFT, f"--config.data.path={jsonl(tmp_path / 'empty.jsonl', [])}")
    assert process.returncode == 2 and "empty.jsonl holds no examples" in process.stderr
    all_bad = jsonl(tmp_path / "all_bad.jsonl", ["{"] * 3)
    process = train(SFT, f"--config.data.path={all_bad}")
    rejected = tmp_path / "run" / "rejected_train.jsonl"
    assert process.returncode == 2 and f"3 of 3 lines are bad; see {rejected}" in process.stderr
    assert len(rejected.read_text().splitlines()) == 3
    bad = jsonl(tmp_path / "bad.jsonl", [GOOD] * 3 + ["{"])
    process = train(SFT, f"--config.data.path={bad}")
    assert process.returncode == 2 and "bad.jsonl line 4: " in process.stderr
    few = (*SHORT, "--config.steps=1", "--config.data.max_rejected_share=0.5")
    process = train(SFT, f"--config.data.path={bad}", *few)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "1 of 4 lines are bad" in process.stderr
    rejected = (tmp_path / "run" / "rejected_train.jsonl").read_text()
    assert json.loads(rejected)["line"] == 4


def test_checkpoint_of_another_shape_is_named_by_field(finished, launch):
    flags = (*SHORT, "--config.steps=9", "--config.model_changes.num_layers=3")
    process = launch("train.py", SFT, f"--workdir={finished}", *flags)
    assert process.returncode == 2
    last = process.stderr.strip().split("\n")[-1]
    assert "is of another model: num_layers is 2 there and 3 in this configuration" in last
    for name in ("config.json", "model.json"):  # what is refused changes nothing
        assert '"num_layers": 2' in (finished / name).read_text()


@pytest.mark.parametrize("config", [SFT, RL])
def test_heldout_example_that_is_too_long_is_refused_at_the_start(config, train, tmp_path):
    good = jsonl(tmp_path / "good.jsonl", [GOOD] * 40)
    long = jsonl(tmp_path / "long.jsonl", [GOOD | {"question": "1+1? " * 400}])
    data = (f"--config.data.path={good}", f"--config.data.heldout_path={long}")
    process = train(config, *data, "--config.init.stage={}", "--config.length=100")
    assert process.returncode == 2, process.stderr[-2000:]
    assert "that starts '1+1? 1+1?" in process.stderr.strip().split("\n")[-1]


def test_a_run_of_another_stage_is_not_continued(finished, launch):
    rl = ("--config.init.stage={}", "--config.model_changes.num_layers=2")
    process = launch("train.py", RL, f"--workdir={finished}", *rl)
    assert process.returncode == 2
    assert "is of stage 'sft', this configuration of 'rl'" in process.stderr


def test_a_shape_that_the_starting_checkpoint_does_not_have_is_refused(train, finished):
    flags = (
        f"--config.init.checkpoint={finished}",
        "--config.model_changes.num_layers=3",
    )
    process = train(SFT, *flags)
    assert process.returncode == 2
    assert "config.model_changes gives layers.attn_norm the shape" in process.stderr


def test_loss_that_is_not_finite_is_skipped_and_ends_the_run_in_time(train, tmp_path):
    flags = [
        SFT,
        *SHORT,
        "--config.steps=40",
        "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.clip_norm=1e30",
        "--config.optimizer.warmup_steps=0",
        "--config.max_bad_steps=4",
    ]
    process = train(*flags)
    assert process.returncode == 1
    last = process.stderr.strip().split("\n")[-1]
    assert "4 steps in a row" in last and "learning_rate than 1e+30" in last
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [r["skipped"] for r in rows if "skipped" in r][-4:] == [1, 2, 3, 4]


def test_full_disk_costs_checkpoints_but_not_the_run(launch, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options):
        return subprocess.run(
            ["mount", *options, "-t", "tmpfs", "tmpfs", disk], capture_output=True
        )

    if os.geteuid() != 0 or mount("-o", "size=14m").returncode != 0:
        pytest.skip("needs root and mount, for a small file system")
    try:
        flags = [
            SFT,
            *SHORT,
            f"--workdir={disk}",
            "--config.checkpoint.every=2",
            "--config.checkpoint.keep=9",
        ]
        process = launch("train.py", *flags, "--config.steps=12")
        assert process.returncode == 1, process.stderr[-2000:]
        assert "saving a checkpoint failed" in process.stderr
        assert "step 12 is reached, but its checkpoint could not be saved" in process.stderr
        good = max(ocp.utils.checkpoint_steps(disk / "checkpoints"))
        assert 0 < good < 12
        assert not list((disk / "checkpoints").glob("*tmp*"))
        assert mount("-o", "remount,size=100m").returncode == 0
        process = launch("train.py", *flags, "--config.steps=12")
        assert process.returncode == 0, process.stderr[-2000:]
        assert f"going on from step {good} of 12" in process.stderr
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_shows_how_to_start(train):
    process = train("--help")
    assert "python launch/train.py --config=configs/grpo_tiny.py" in process.stdout
