"""From a training run to another project and back: the same parameters, the same tokenizer."""

import jax
import numpy as np
import pytest

from dsmath_jax.data.tokenizers import load_tokenizer
from dsmath_jax.models import load_hf, load_params

RUN = ("--config=configs/sft_tiny.py:smoke", "--config.log.tensorboard=False")


@pytest.fixture(scope="module")
def run(tmp_path_factory, launch):
    workdir = tmp_path_factory.mktemp("run")
    launch("train.py", *RUN, f"--workdir={workdir}", check=True)
    return workdir


def test_a_run_is_exported_to_hugging_face(run, tmp_path, launch):
    launch("convert.py", f"--from={run}", f"--to={tmp_path / 'hf'}", check=True)
    exported = load_hf(tmp_path / "hf")
    params, config = load_params(run)
    assert exported.config == config
    tokens = np.arange(12)[None] % config.vocab_size
    from dsmath_jax.models import Transformer

    np.testing.assert_array_equal(exported(tokens), Transformer(config, params=params)(tokens))
    assert load_tokenizer(tmp_path / "hf").encode("Ann has 3") == load_tokenizer(
        run / "tokenizer"
    ).encode("Ann has 3")


@pytest.mark.parametrize("kind", ["run", "hf", "converted"])
def test_training_starts_from_each_kind_of_checkpoint(kind, run, tmp_path, launch):
    start = run
    if kind != "run":
        start = tmp_path / "hf"
        launch("convert.py", f"--from={run}", f"--to={start}", check=True)
    if kind == "converted":
        start = tmp_path / "converted"
        launch("convert.py", f"--from={tmp_path / 'hf'}", f"--to={start}", check=True)
    workdir = tmp_path / "next"
    flags = (f"--config.init.checkpoint={start}", "--config.optimizer.learning_rate=0.0")
    launch("train.py", *RUN, f"--workdir={workdir}", *flags, "--config.steps=1", check=True)
    before, after = load_params(run)[0], load_params(workdir)[0]
    jax.tree.map(np.testing.assert_array_equal, before, after)
